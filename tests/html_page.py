# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading HTML in tests."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image

VOID = {"br", "hr", "img", "input", "link", "meta", "wbr"}  # elements that have no end tag


class Page(HTMLParser):
    """Elements as `[tag, attributes, text]` in document order; asserts that every start tag has its end tag."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text("utf-8")
        self.elements, self._open = [], []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), ""]
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def texts(self, *tags):
        return [text for tag, _, text in self.elements if tag in tags]

    def attributes(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def pictures(self):
        sources = [attributes["src"] for attributes in self.attributes("img")]
        assert all(source.startswith("data:image/webp;base64,") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]
