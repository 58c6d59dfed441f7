# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of `coordexp expand-vocab`."""

import pytest
from transformers import AutoTokenizer

from coordexp_trl import cli
from coordexp_trl.coordinates import WILDCARD_TOKEN, CoordVocabulary
from coordexp_trl.tiny import create_tiny_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A plain checkpoint with 412 tokens. Read only."""
    path = tmp_path_factory.mktemp("source") / "plain"
    return create_tiny_checkpoint(path, num_bins=0, hidden_size=32, num_layers=1, vision_depth=2)


def run(capsys, *argv):
    """Exit status, words of stdout, and stderr of the command."""
    status = cli.main(["expand-vocab", *map(str, argv)])
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), err


def test_summary(capsys, source, tmp_path):
    status, out, _ = run(capsys, "--src", source, "--dst", tmp_path / "dst")
    assert (status, out) == (
        0,
        "wildcard id 412 bins 1000, ids 413 to 1412 embedding rows 412 -> 1413 head tied to the embedding "
        f"wrote {tmp_path / 'dst'}",
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dst")
    assert CoordVocabulary.from_tokenizer(tokenizer).contiguous_start == 413


@pytest.mark.parametrize("options", [["--num-bins", "100", "--no-wildcard"], ["--num_bins=100", "--no_wildcard"]])
def test_options_and_a_second_run(capsys, source, tmp_path, options):
    dst = tmp_path / "with_underscore"
    status, out, _ = run(capsys, "--src", source, "--dst", dst, *options)
    assert status == 0 and out.startswith("wildcard none bins 100, ids 412 to 511 embedding rows 412 -> 512")
    tokenizer = AutoTokenizer.from_pretrained(dst)
    assert CoordVocabulary.from_tokenizer(tokenizer, 100).num_bins == 100
    assert WILDCARD_TOKEN not in tokenizer.get_vocab() and len(tokenizer) == 512

    status, out, err = run(capsys, "--src", source, "--dst", dst, *options)
    assert (status, out) == (2, "") and err.startswith(f"error: dst = {str(dst)!r}: exists already")
    assert run(capsys, "--src", source, "--dst", dst, "--overwrite", "--num-bins", "10")[0] == 0
    assert len(AutoTokenizer.from_pretrained(dst)) == 412 + 11

    status, out, err = run(capsys, "--src", dst, "--dst", tmp_path / "other", "--num-bins", "10")
    assert (status, err) == (0, "") and out.endswith("nothing written, use it as it is")
    assert [path.name for path in tmp_path.iterdir()] == [dst.name]


def test_files_that_are_not_copied_are_named(capsys, tmp_path):
    source = create_tiny_checkpoint(tmp_path / "src", num_bins=0, hidden_size=32, num_layers=1, vision_depth=2)
    (source / "optimizer.pt").write_text("")
    status, out, _ = run(capsys, "--src", source, "--dst", tmp_path / "dst", "--num-bins", "5")
    assert status == 0 and "not copied optimizer.pt" in out


def test_mistakes_are_one_line(capsys, tmp_path):
    status, out, err = run(capsys, "--src", "Org/model", "--dst", tmp_path / "dst")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: src = 'Org/model': is not a folder.") and "hf download Org/model --local-dir" in err
