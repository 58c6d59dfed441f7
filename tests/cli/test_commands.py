# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of the `coordexp` command line."""

import subprocess
import sys

import pytest
from PIL import Image

from coordexp_trl import __version__, cli
from coordexp_trl.cli.parser import CommandParser, add_command, add_group
from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.images import load_image
from coordexp_trl.records import read_records
from coordexp_trl.tables import print_table


def run(capsys, *argv):
    """Exit status, stdout and stderr of a command."""
    try:
        status = cli.main([str(argument) for argument in argv])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def all_commands(parser, prefix=()):
    """Every command and group, as a tuple of words."""
    yield prefix
    if parser._commands is not None:
        for name, child in parser._commands.choices.items():
            yield from all_commands(child, (*prefix, name))


COMMANDS = list(all_commands(cli.build_parser()))


def test_the_public_commands_exist():
    assert {("tiny-model",), ("expand-vocab",), ("data", "shapes"), ("data", "convert", "voc")} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(capsys, command):
    status, out, err = run(capsys, *command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(" ".join(["usage: coordexp", *command]))
    assert "(default: None)" not in out and "(default: False)" not in out and "==SUPPRESS==" not in out


def test_help_shows_defaults(capsys):
    out = run(capsys, "data", "shapes", "--help")[1]
    assert "(default: 0)" in out and "(default: 128)" in out and "(default: 0.1)" in out


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"coordexp {__version__}\n", "")


def test_help_and_version_import_no_heavy_library():
    code = (
        "import sys; from coordexp_trl.cli import build_parser; build_parser().format_help(); "
        "print(sorted({'torch', 'transformers', 'trl', 'numpy', 'matplotlib', 'PIL', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Arguments, and what stderr must hold.
MISTAKES = [
    (["dta"], "unknown command 'dta'; did you mean 'data'?"),
    (["data", "shaps"], "coordexp data: error: unknown command 'shaps'; did you mean 'shapes'?"),
    (["data", "convert", "vox"], "did you mean 'voc'?"),
    (["qqq"], "unknown command 'qqq'. Commands: tiny-model, expand-vocab, data"),
    (["--versio"], "unknown option '--versio'; did you mean '--version'?"),
    (["data", "shapes", "--num-imges", "3"], "unknown option '--num-imges'; did you mean '--num-images'?"),
    (["data", "shapes", "--num_imges=3"], "did you mean '--num-images'?"),
    # abbreviations are typos, too
    (["data", "shapes", "--out", "x", "--num", "3"], "unknown option '--num'"),
    (["data", "shapes", "--out", "x"], "the following arguments are required: --num-images"),
    (["data", "shapes", "--out", "x", "--num-images", "many"], "invalid int value: 'many'"),
    (["data", "shapes", "--out", "x", "--num-images", "1", "more"], "unrecognized arguments: more"),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_mistakes_name_the_nearest_word(capsys, argv, message):
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("argv", [[], ["data"], ["data", "convert"]])
def test_a_group_without_a_command_prints_its_help(capsys, argv):
    status, out, _ = run(capsys, *argv)
    assert status == 2 and out.startswith("usage: coordexp") and "commands:" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num-images", "2", "--image-size", "64"],
        ["--num_images", "2", "--image_size", "64"],
        ["--num_images=2", "--image-size=64"],
    ],
)
def test_shapes_with_dashes_and_underscores(capsys, tmp_path, arguments):
    out_folder = tmp_path / "with_underscore"  # values keep theirs
    status, out, _ = run(capsys, "data", "shapes", "--out", out_folder, *arguments, "--seed", "3")
    assert (status, out) == (0, f"wrote {out_folder / 'shapes.jsonl'}\n")
    records = read_records(out_folder / "shapes.jsonl")
    assert len(records) == 2
    image, objects = draw_shapes(3, 1, image_size=64)
    assert load_image(records[1]).tobytes() == image.tobytes() and records[1].objects == tuple(objects)


def test_every_option_of_shapes_reaches_the_function(capsys, tmp_path):
    options = {"seed": 5, "image_size": 96, "min_objects": 3, "max_objects": 6, "max_overlap": 0.5}
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    assert run(capsys, "data", "shapes", "--out", tmp_path / "x", "--num-images", 3, *flags)[0] == 0
    expected = [tuple(draw_shapes(index=index, **options)[1]) for index in range(3)]
    assert [record.objects for record in read_records(tmp_path / "x" / "shapes.jsonl")] == expected
    assert expected != [tuple(draw_shapes(5, index, 96, 3, 6)[1]) for index in range(3)]


def test_user_mistakes_are_one_line(capsys, tmp_path, monkeypatch):
    argv = ["data", "shapes", "--out", tmp_path, "--num-images", "0"]
    monkeypatch.delenv("COORDEXP_DEBUG", raising=False)
    assert run(capsys, *argv) == (2, "", "error: num_images = 0: must be at least 1.\n")
    monkeypatch.setenv("COORDEXP_DEBUG", "0")
    assert run(capsys, *argv)[0] == 2
    monkeypatch.setenv("COORDEXP_DEBUG", "1")
    with pytest.raises(ValueError, match="num_images = 0"):
        run(capsys, *argv)


def test_failures_of_the_file_system_are_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, "data", "shapes", "--out", tmp_path / "file" / "x", "--num-images", "1")
    assert status == 2 and err.startswith("error: ") and str(tmp_path / "file") in err and "Traceback" not in err


def test_own_bugs_keep_their_traceback(monkeypatch):
    def broken(args):
        raise KeyError("bug")

    parser = CommandParser(prog="coordexp")
    add_command(parser.add_commands(), "break", "break", broken)
    monkeypatch.setattr(cli, "build_parser", lambda: parser)
    with pytest.raises(KeyError, match="bug"):
        cli.main(["break"])


def test_interrupt_and_status_of_a_command(capsys, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    parser = CommandParser(prog="coordexp")
    commands = parser.add_commands()
    add_command(commands, "wait", "wait", interrupt)
    add_command(add_group(commands, "check", "check"), "failing", "fail", lambda args: 1)
    monkeypatch.setattr(cli, "build_parser", lambda: parser)
    assert run(capsys, "wait") == (130, "", "interrupted\n")
    assert run(capsys, "check", "failing")[0] == 1


def test_arguments_after_two_dashes_are_left_alone():
    parser = CommandParser(prog="coordexp")
    parser.add_argument("--num-images", type=int)
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args(["--num_images", "-3", "--", "--some_file"])
    assert (args.num_images, args.rest) == (-3, ["--some_file"])


def test_convert_voc(capsys, tmp_path):
    (tmp_path / "xml").mkdir()
    (tmp_path / "img").mkdir()
    box = "<bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for name in "ab":
        objects = "".join(
            f"<object><name>cat</name><difficult>{int(x == 5)}</difficult>{box.format(x)}</object>" for x in (3, 5, 9)
        )
        (tmp_path / "xml" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        Image.new("RGB", (16, 12)).save(tmp_path / "img" / f"{name}.png")
    (tmp_path / "split.txt").write_text("b\n")
    argv = ["data", "convert", "voc", "--annotations", tmp_path / "xml", "--images", tmp_path / "img"]

    status, out, _ = run(capsys, *argv, "--out", tmp_path / "all.jsonl")
    assert status == 0
    rows = [line.rsplit(maxsplit=1) for line in out.splitlines()]
    assert [[part.strip() for part in row] for row in rows] == [
        ["images", "2"],
        ["objects in", "6"],
        ["objects out", "4"],
        ["dropped: degenerate box", "2"],
        ["note: XML file without image size", "2"],
        ["note: difficult object kept", "2"],
        ["wrote", str(tmp_path / "all.jsonl")],
    ]

    options = ["--split_file", tmp_path / "split.txt", "--one-based", "--skip-difficult"]
    assert run(capsys, *argv, "--out", tmp_path / "b.jsonl", *options)[0] == 0
    (record,) = read_records(tmp_path / "b.jsonl")
    assert record.images == ("img/b.png",)
    assert [item.bbox_2d for item in record.objects] == [(2, 0, 9, 9), (8, 0, 9, 9)]

    (tmp_path / "split.txt").write_text("c\n")
    status, _, err = run(capsys, *argv, "--out", tmp_path / "c.jsonl", *options)
    assert status == 2 and "split.txt:1: id 'c'" in err


def test_tiny_model(capsys, tmp_path, tiny_checkpoint):
    out_folder = tmp_path / "tiny"
    status, out, _ = run(capsys, "tiny-model", "--out", out_folder)
    assert (status, out) == (0, f"wrote {out_folder}\n")
    weights = "model.safetensors"
    assert (out_folder / weights).read_bytes() == (tiny_checkpoint / weights).read_bytes()  # seed 0 is the default
    assert run(capsys, "tiny-model", "--out", tmp_path / "other", "--seed", "1")[0] == 0
    assert (tmp_path / "other" / weights).read_bytes() != (tiny_checkpoint / weights).read_bytes()
    status, _, err = run(capsys, "tiny-model", "--out", out_folder)
    assert status == 2 and "not an empty folder" in err


def test_tables(capsys):
    print_table([("cat", 1, 0.123456), ("a [bold]name[/bold]", 1000, 1.0)], ["class", "objects", "F1"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip(" ─━")]
    assert lines == [["class", "objects", "F1"], ["cat", "1", "0.1235"], ["a", "[bold]name[/bold]", "1000", "1"]]
    print_table([], ["class"])
    assert "class" in capsys.readouterr().out
