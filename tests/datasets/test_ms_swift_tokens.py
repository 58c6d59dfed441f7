# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.ms_swift_tokens."""

import json
import re

import pytest
from PIL import Image
from transformers import AutoTokenizer

from coordexp_trl import cli
from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.ms_swift_tokens import export_ms_swift_tokens
from coordexp_trl.generation.prompts import DEFAULT_PROMPT
from coordexp_trl.protocols import get_protocol
from coordexp_trl.records import DetectionObject, DetectionRecord, read_records, write_records
from coordexp_trl.sequences import SequenceBuilder, ground_truth
from coordexp_trl.tiny import build_tiny_tokenizer


@pytest.fixture
def root(tmp_path):
    """A folder with the image of all records."""
    (tmp_path / "img").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "img" / "a.jpg")
    return tmp_path


def write(root, *objects):
    """Writes a record for each set of objects."""
    path = root / "records.jsonl"
    write_records((DetectionRecord(("img/a.jpg",), 40, 30, each) for each in objects), path)
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer that has coordinate tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def records(root):
    """A file of records in pixels, not in canonical order, in bins, with polygons and without objects."""
    return write(
        root,
        (DetectionObject('a "big" dog', (0, 12, 40, 30)), DetectionObject("cat", (2.25, 3, 12, 23))),
        (DetectionObject("dog", bins=(0, 333, 999, 666)), DetectionObject("kite", bins=(1, 2, 9, 2, 5, 20))),
        (DetectionObject("kite", poly=(1, 2, 9, 2, 5, 20.5)),),
        (),
    )


@pytest.mark.parametrize("protocol", ["tags", "json"])
def test_answers_are_what_stage_1_learns(root, records, tokenizer, protocol):
    report = export_ms_swift_tokens(records, root / "swift.jsonl", tokenizer, protocol=protocol)
    assert report == ConversionReport(4, 5, 5, {}, {"polygon as its box": 2})
    lines = [json.loads(line) for line in (root / "swift.jsonl").read_text().splitlines()]
    writer = get_protocol(protocol, AutoTokenizer.from_pretrained(tokenizer))
    build = SequenceBuilder(writer, eos_token_id=writer.tokenizer.eos_token_id)
    for line, record in zip(lines, read_records(records), strict=True):
        user, assistant = line["messages"]
        assert line.keys() == {"messages", "images"} and line["images"] == [str(root / "img" / "a.jpg")]
        assert user == {"role": "user", "content": f"<image>{DEFAULT_PROMPT}"}
        assert assistant.keys() == {"role", "content"} and assistant["role"] == "assistant"
        ids = writer.tokenizer(assistant["content"], add_special_tokens=False)["input_ids"]
        assert [*ids, writer.tokenizer.eos_token_id] == build.write(ground_truth(record, CoordinateGrid())).ids
    found = [writer.parse(writer.tokenizer(line["messages"][1]["content"])["input_ids"]).objects for line in lines]
    assert [item.desc for item in found[0]] == ["cat", 'a "big" dog']
    assert [item.bins for item in found[1]] == [(1, 2, 9, 20), (0, 333, 999, 666)]


@pytest.mark.parametrize(
    "desc, message",
    [
        ("<image> on a wall", "records.jsonl:2: desc = '<image> on a wall': ms-swift would replace <image>"),
        ("a <bbox>", "would replace <bbox>"),
        ("an <obj>", "records.jsonl:2: desc = 'an <obj>': cannot be written in the 'tags' protocol"),
    ],
)
def test_descriptions_that_cannot_be_answers(root, tokenizer, desc, message):
    cat = DetectionObject("cat", (2.25, 3, 12, 23))
    path = write(root, (cat,), (cat, DetectionObject(desc, (2, 3, 12, 23))))
    with pytest.raises(ValueError, match=re.escape(message)):
        export_ms_swift_tokens(path, root / "swift.jsonl", tokenizer)
    assert not (root / "swift.jsonl").exists()


def test_command_with_a_checkpoint(root, records, tokenizer, capsys):
    command = ["data", "export", "ms-swift", str(records), "--out", str(root / "swift.jsonl")]
    assert cli.main([*command, "--model", str(tokenizer), "--protocol", "json", "--prompt", "Find all."]) == 0
    user, assistant = json.loads((root / "swift.jsonl").read_text().splitlines()[1])["messages"]
    assert user["content"] == "<image>Find all."
    assert assistant["content"].startswith('{"objects": [{"desc": "kite", "bbox_2d": [<|coord_1|>, <|coord_2|>,')
    capsys.readouterr()
    assert cli.main([*command, "--model", str(root / "none")]) == 2
    assert "none" in capsys.readouterr().err
    plain = root / "plain"
    build_tiny_tokenizer(num_bins=0).save_pretrained(plain)
    assert cli.main([*command, "--model", str(plain)]) == 2
    assert "coordexp expand-vocab" in capsys.readouterr().err


def test_a_protocol_without_a_checkpoint_is_refused(records, tmp_path, capsys):
    command = ["data", "export", "ms-swift", str(records), "--out", str(tmp_path / "a.jsonl"), "--protocol", "json"]
    assert cli.main(command) == 2
    assert "error: protocol = 'json': only coordinate tokens have one. Give --model." in capsys.readouterr().err
