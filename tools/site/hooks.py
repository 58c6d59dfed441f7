# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
What the site needs beyond mkdocs.

On GitHub, pages link to files outside `docs/`; here such links lead to pages of the site that show these files.
Scripts that the theme would load from a network (mermaid for diagrams, iframe-worker for searching from the disk) come
from the site itself where `make docs` could fetch them.
"""

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, InclusionLevel
from mkdocs.utils import get_relative_url

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
SCRIPTS = ROOT / "build" / "site_scripts"
MERMAID, WORKER = SCRIPTS / "mermaid.min.js", SCRIPTS / "iframe-worker.js"
DOCS, SOURCE = "docs/", "source/"
LANGUAGES = {".json": "json", ".md": "markdown", ".py": "python", ".toml": "toml", ".yaml": "yaml"}
# A relative link of a page: its path and its anchor
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)#\s]+)(#[^)\s]*)?(?=\))")
CELL, CODE = re.compile("<td.*?</td>", re.DOTALL), re.compile("(?<=<code>)[^<]+")
# Pages of source are found by links, not by searching
FRONT_MATTER = "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"


def site_path(path: str) -> str:
    """Where the site has a file or folder of the repository; both are POSIX paths."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if (ROOT / path).is_dir():
        return f"{SOURCE}{path}/index.md"
    return SOURCE + path if path.endswith(".md") else f"{SOURCE}{path}.md"


def resolve_link(page: str, link: str) -> str | None:
    """The path in the repository to which a page there links; None where there is nothing that a page could show."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return None if path.startswith("..") or path in (".", "docs") or not (ROOT / path).exists() else path


def move_links(markdown: str, page: str) -> str:
    """Makes the links of a page of the repository those of the same page of the site."""
    here = posixpath.dirname(site_path(page)) or "."

    def move(found: re.Match) -> str:
        path = resolve_link(page, found[1])  # mkdocs complains of what does not exist
        return found[0] if path is None else posixpath.relpath(site_path(path), here) + (found[2] or "")

    return LINK.sub(move, markdown)


def show_file(path: str) -> str:
    """The page of a file outside `docs/`."""
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return move_links(text, path)
    fence = "`" * (3 + max(map(len, re.findall("`+", text)), default=0))
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"{FRONT_MATTER}# `{path}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def show_folder(path: str, files: list[str]) -> str:
    """The page of a folder: its files, those of Python with the first line of their docstrings."""
    lines = []
    for file in files:
        text = (ROOT / file).read_text("utf-8")
        docstring = (file.endswith(".py") and ast.get_docstring(ast.parse(text))) or ""
        link = posixpath.relpath(site_path(file), f"{SOURCE}{path}")
        lines.append(f"* [`{posixpath.relpath(file, path)}`]({link}) {docstring.partition(chr(10))[0]}\n")
    return f"{FRONT_MATTER}# `{path}/`\n\n{''.join(lines)}"


def source_pages(pages: list[str]) -> dict[str, str]:
    """The pages of all files and folders outside `docs/` that pages link to, by their paths in the site."""
    made, waiting = {}, list(pages)
    while waiting:
        page = waiting.pop()
        links = LINK.findall((ROOT / page).read_text("utf-8")) if page.endswith(".md") else []
        for path in {resolve_link(page, link) for link, _ in links} - {None}:
            if path.startswith(DOCS) or site_path(path) in made:
                continue
            if (ROOT / path).is_dir():
                found = [file.relative_to(ROOT).as_posix() for file in sorted((ROOT / path).rglob("*.*"))]
                files = [file for file in found if Path(file).suffix in LANGUAGES]
                made[site_path(path)] = show_folder(path, files)
            else:
                files = [path]
            made |= {site_path(file): show_file(file) for file in files}
            waiting += [file for file in files if file.endswith(".md")]
    return made


@event_priority(100)  # before the offline plugin, which else names the address of iframe-worker
def on_config(config):
    if WORKER.exists():
        config.extra["polyfills"] = [f"assets/{WORKER.name}"]
    return config


def on_files(files, config):
    for path, content in source_pages([DOCS + file.src_uri for file in files.documentation_pages()]).items():
        files.append(File.generated(config, path, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    for path in (FOLDER / "site.css", MERMAID, WORKER):
        if path.exists():
            files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    return markdown if page.file.src_uri.startswith(SOURCE) else move_links(markdown, DOCS + page.file.src_uri)


def on_page_content(html, page, config, files):
    def mend(code: re.Match) -> str:
        text = code[0].replace(r"\|", "|")  # GitHub needs the backslash in a table; Python-Markdown would show it
        return re.sub(r"(?<=\w)([_.:/])(?=\w)", r"\1<wbr>", text)  # long names break there in narrow columns

    return CELL.sub(lambda cell: CODE.sub(mend, cell[0]), html)


def on_post_page(output, page, config):
    if '<pre class="mermaid">' not in output or not MERMAID.exists():
        return output
    script = f'<script src="{get_relative_url(f"assets/{MERMAID.name}", page.url)}"></script>'
    return output.replace("</head>", f"{script}</head>", 1)
