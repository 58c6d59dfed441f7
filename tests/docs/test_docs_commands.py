# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
The commands of the documentation: all blocks of a page run, in its order and by bash, in one folder.

Long runs are shortened (`SHORTER`). What a test cannot run is marked in the page, `<!-- not run: reason -->` directly
before the block, and checked: recipes are run dry, other commands are read by their own parsers.
"""

from dataclasses import replace

import pytest
from page_checks import run_page, wrong_inline, wrong_python
from page_inputs import (
    Input,
    adapter,
    checkpoint,
    coco,
    ms_swift,
    odvg,
    photos,
    records,
    visual_genome,
    voc,
    yolo,
)
from sandbox import ROOT, Sandbox, serving
from shell_blocks import read_blocks

PAGES = sorted(
    name
    for name in (str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
    if not name.startswith("docs/reference/")  # generated, without commands of its own
)
# What a reader has before the first block of a page: these three on all pages but those that begin with a model
# without coordinate tokens (`PLAIN`) and make the other one of it
RECORDS = records("train.jsonl", "val.jsonl")
CHECKPOINT = checkpoint("CHECKPOINT")
MODEL = checkpoint("qwen3-vl-4b-coord")
PLAIN = checkpoint("qwen3-vl-4b", num_bins=0)
TINY = (checkpoint("runs/tiny/model"), records("runs/tiny/shapes/shapes.jsonl"))
INPUTS: dict[str, tuple[Input, ...]] = {
    "README.md": (voc("BCCD", "train"), PLAIN, checkpoint("runs/stage1")),
    "docs/adapters.md": (adapter("runs/stage1_lora"), adapter("runs/stage2_lora")),
    "docs/data/checking.md": (records("train.jsonl", "val.jsonl", count=9),),
    "docs/data/coco.md": (coco("instances_val2017.json", "val2017"),),
    "docs/data/fusion.md": (
        *(coco(f"coco/annotations/instances_{split}2017.json", f"coco/{split}2017") for split in ("train", "val")),
        voc("bccd", "train", "val"),
    ),
    "docs/data/lvis.md": (coco("lvis_v1_val.json", "coco/val2017", lvis=True),),
    "docs/data/ms-swift.md": (ms_swift,),
    "docs/data/odvg.md": (odvg,),
    "docs/data/pipeline.md": (
        *(
            coco(f"lvis/annotations/lvis_v1_{split}.json", f"lvis/images/{split}2017", True, split)
            for split in ("train", "val")
        ),
    ),
    "docs/data/visual-genome.md": (visual_genome,),
    "docs/data/voc.md": (voc(".", "test"),),
    "docs/data/yolo.md": (yolo,),
    "docs/doctor.md": (adapter("runs/stage1_lora"),),
    "docs/evaluation.md": (records("shapes/shapes.jsonl"),),
    "docs/inference.md": (
        checkpoint("runs/stage2"),
        adapter("runs/stage2_lora"),
        photos("photos/a.jpg", "photos/b.png", "a.jpg", "b.jpg"),
    ),
    "docs/multi-gpu.md": (checkpoint("runs/stage1", "qwen3-vl-8b-coord"),),
    "docs/quickstart.md": (adapter("runs/stage1_lora"), adapter("runs/stage2_lora")),
    "docs/stage1.md": (PLAIN,),
    "docs/stage2.md": (*TINY, checkpoint("path/to/stage1-checkpoint")),
    "docs/trackers.md": TINY,
}
# Options that are appended to the commands which begin so
RECIPE = ["--max_steps", "1", "--warmup_steps", "0", "--max_completion_length", "24", "--num_overlays", "1"]
SHORTER = {
    "stage1.py": RECIPE,
    "stage2.py": [*RECIPE, "--steps_per_generation", "1"],
    "demo.py": ["--num-images", "4", "--num-held-out", "2", "--per_device_train_batch_size", "4"],
    "coordexp data sample": ["--num", "2"],
    "coordexp data shapes": ["--num-images", "4"],
    "coordexp infer": ["--max-completion-length", "48"],
}


@pytest.fixture(scope="module")
def server():
    with serving() as address:
        yield address


@pytest.fixture
def sandbox(server, tmp_path) -> Sandbox:
    return Sandbox(tmp_path, server, SHORTER)


def read_page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def make_inputs(name: str, sandbox: Sandbox) -> None:
    own = INPUTS.get(name, ())
    for make in (RECORDS, CHECKPOINT, *([] if PLAIN in own else [MODEL]), *own):
        make(sandbox.folder)


@pytest.mark.parametrize("name", PAGES)
def test_commands_of_the_page(name, sandbox):
    text = read_page(name)
    if any(block.language in ("bash", "python") for block in read_blocks(text)):
        make_inputs(name, sandbox)
    if (wrong := run_page(sandbox, name, text)) is not None:
        pytest.fail(wrong, pytrace=False)


@pytest.mark.vllm
@pytest.mark.parametrize("name", [name for name in PAGES if "vllm serve " in read_page(name)])
def test_vllm_reads_its_commands(name, sandbox, capsys):
    make_inputs(name, sandbox)
    for block in read_blocks(read_page(name)):
        if block.language == "bash" and "vllm " in block.code:
            assert sandbox.run(name, block) is None
    commands = [arguments for _, program, *arguments in sandbox.commands() if program == "vllm"]
    assert commands
    parse = vllm_parser().parse_args
    for arguments in commands:
        assert parse(arguments).model_tag == "CHECKPOINT"
        with pytest.raises(SystemExit):
            parse([*arguments, "--max-modle-len", "64"])


def vllm_parser():
    """The parser of `vllm serve`."""
    from vllm.entrypoints.cli.serve import cmd_init
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    subparsers = parser.add_subparsers()
    for command in cmd_init():
        command.subparser_init(subparsers)
    return parser


@pytest.mark.parametrize("name", PAGES)
def test_names_in_the_page_exist(name):
    text = read_page(name)
    python = [block for block in read_blocks(text) if block.language == "python"]
    assert [wrong_inline(text), *(wrong_python(block) for block in python)] == [[]] * (1 + len(python))


def test_inputs_are_of_pages_that_exist():
    assert INPUTS.keys() <= set(PAGES)


# The tests of the tests: pages with one mistake


def page(*lines: str, mark: str = "", language: str = "bash") -> str:
    """A page whose block begins in line 5, or in line 4 without a mark."""
    return "\n".join(["# Page", "", *([f"<!-- not run: {mark} -->"] if mark else []), f"```{language}", *lines, "```"])


# Lines of a block that is run; then the number of the line that fails, and what the report holds
FAILING = [
    (["coordexp data shapes --out a --num-imges 3"], 4, "did you mean '--num-images'?"),
    (["coordexp data shaps --out a"], 4, "did you mean 'shapes'?"),
    (["coordxp --version"], 4, "coordxp: command not found"),
    (["coordexp --version", "coordexp data validate missing.jsonl", "echo > end"], 5, "missing.jsonl"),
    (["for name in a b; do", "  coordexp data stats $name.jsonl", "done", "echo > end"], 5, "a.jsonl"),
    (["coordexp data validate missing.jsonl | cat", "echo > end"], 4, "missing.jsonl"),
    (["coordexp data show train.jsonl --out $FOLDER"], 4, "FOLDER: unbound variable"),
    (["cp train.jsonl b.jsonl", "cat c.jsonl"], 5, "c.jsonl: No such file"),
    (["pip install coordexp-trl"], 4, "pip is not run by this test: mark the block"),
    (
        ["accelerate launch recipes/stage2.py --config recipes/stage2_tiny_cpu.yaml --lerning_rate 1"],
        4,
        "lerning_rate",
    ),
    (["accelerate launch recipes/stage3.py"], 4, "stage3.py"),
    (["accelerate lunch recipes/stage2.py"], 4, "invalid choice: 'lunch'"),
    (["python recipes/demo.py --stage 3"], 4, "invalid choice: 3"),
    (["python -c 'raise KeyError(1)'"], 4, "KeyError: 1"),
]
# A command that is only checked, and what the report holds
MISTAKEN = [
    ("coordexp data shapes --out a --num-imges 3", "did you mean '--num-images'?"),
    ("accelerate launch --num_proceses 2 recipes/stage2.py", "num_proceses"),
    ("accelerate launch --config_file recipes/accelerate/dpp.yaml recipes/stage2.py", "dpp.yaml"),
    ("accelerate launch recipes/stage2.py --config recipes/stage2_tiny.yaml …", "no such file"),
    ("accelerate launch recipes/stage2.py --config recipes/stage2_tiny_cpu.yaml --lerning_rate 1 …", "lerning_rate"),
    (
        "accelerate launch recipes/stage1.py --config recipes/stage1_qwen3vl_4b_full.yaml --model_name_or_path ./none "
        "--train_file train.jsonl",
        "./none",
    ),
    ("accelerate launch -m coordexp_trl.cli infer --modle a", "did you mean '--model'?"),
    ("python benchmarks/merge.py --repeat 5", "no option --repeat"),
    ("python benchmarks/none.py", "no such script"),
    ("python -m coordexp_tlr.cli", "unknown"),
    ("make demoo", "No rule to make target"),
    ("pip install 'coordexp-trl[vlm]'", "no extra vlm"),
    ("pip install -e '.[vllm,dve]'", "no extra dve"),
    ("pip install --editabel .", "no such option"),
    ("hf download Qwen/Qwen3-VL-4B-Instruct --local-dirr a", "No such option"),
    ("hf donwload Qwen/Qwen3-VL-4B-Instruct", "donwload"),
    ("swift stf --external_plugins recipes/ms_swift/plugin.py", "the test knows `swift sft` only"),
    ("swift sft --external_plugins recipes/stage1.py recipes/ms_swift/plugins.py --loss_type a", "no such plugin"),
    (".venv/bin/pre-commit instal", "invalid choice: 'instal'"),
    ("tensorboard --logdirr runs", "invalid choice: 'runs'"),
    ("vllm server CHECKPOINT", "`vllm serve` only"),
    ("curl -O https://example.org", "command not found"),
]


def what_was_printed(report: str) -> str:
    """A report without the commands that it names: a message that is looked for may stand in them too."""
    return "\n".join(line for line in report.splitlines() if ": status " not in line)


@pytest.mark.parametrize(
    ("lines", "line", "message"), FAILING, ids=lambda item: None if isinstance(item, int) else str(item)
)
def test_a_command_that_fails_is_reported(lines, line, message, sandbox):
    RECORDS(sandbox.folder)
    wrong = run_page(sandbox, "a.md", page(*lines))
    assert wrong is not None and message in what_was_printed(wrong)
    assert "unbound" in message or f"a.md:{line}: status" in wrong
    assert not (sandbox.folder / "end").exists()


@pytest.mark.parametrize(("command", "message"), MISTAKEN)
def test_a_mistake_in_a_command_that_is_not_run_is_reported(command, message, sandbox):
    RECORDS(sandbox.folder)
    wrong = run_page(sandbox, "a.md", page(command, "echo > end", mark="needs a GPU"))
    assert wrong is not None and message in what_was_printed(wrong) and "a.md:5: status" in wrong
    assert not (sandbox.folder / "end").exists()


def test_a_command_that_does_not_end_is_reported(sandbox):
    sandbox.seconds = 5
    wrong = run_page(sandbox, "a.md", page("echo begun; python -c 'import time; time.sleep(15)'"))
    assert wrong == "a.md:4: not done after 5 seconds\nbegun\n"


def test_commands_do_not_reach_the_network(sandbox):
    code = "import socket; socket.create_connection(('192.0.2.1', 80))"
    assert "tests run without the network" in run_page(sandbox, "a.md", page(f'python -c "{code}"'))


def test_a_printed_session_is_checked(sandbox):
    text = page("$ coordexp doctor --model plain --dta bccd.jsonl", "ok", language="")
    assert "a.md:4: status 2" in run_page(sandbox, "a.md", text)
    assert run_page(sandbox, "a.md", text.replace("dta", "data")) is None


def test_commands_are_run_or_only_checked_as_the_page_says(sandbox):
    line = "coordexp data shapes --num-images 9 --out made > out.txt"
    assert run_page(sandbox, "a.md", page(line, mark="needs a GPU")) is None
    assert not (sandbox.folder / "made").exists()
    assert run_page(sandbox, "a.md", page(line)) is None
    assert len((sandbox.folder / "made" / "shapes.jsonl").read_text().splitlines()) == 4  # shortened
    assert (sandbox.folder / "out.txt").read_text() == "wrote made/shapes.jsonl\n"
    arguments = ["coordexp", "data", "shapes", "--num-images", "9", "--out", "made"]
    assert sandbox.commands() == [["check", *arguments], ["run", *arguments]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (page("make demo", mark="takes long"), "line 3: unknown reason 'takes long'"),
        (page("make demo", mark="needs a GPU").replace("-->", "-->\n"), "line 3: a block must begin directly after"),
        (page("a", mark="needs a GPU", language="json"), "line 4: `not run` stands before a block of no commands"),
        (page("coordexp infer --model …"), "line 3: `…` cannot be run"),
        (page("coordexp --help", language="sh"), "line 3: unknown language 'sh'"),
        (page("coordexp --help").removesuffix("```"), "line 3: the block is not closed"),
        ("Here `x` <!-- not run: needs a GPU -->", "line 1: write"),
        ("<!-- not run needs a GPU -->", "line 1: write"),
    ],
)
def test_a_page_that_is_not_understood_is_an_error(text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read_blocks(text)


def test_blocks_in_lists_and_in_longer_fences_are_read():
    item = ["1. First:", "", "   <!-- not run: needs a GPU -->", "   ```bash", "   make \\", "     demo", "   ```"]
    text = "\n".join([*item, "`<!-- not run: x -->`", "````", "```", "````"])
    assert [(block.language, block.line, block.code, block.reason) for block in read_blocks(text)] == [
        ("bash", 5, "make \\\n  demo", "needs a GPU"),
        ("", 10, "```", None),
    ]


def test_python_is_run(sandbox):
    assert run_page(sandbox, "a.md", page("open('x', 'w').write('y')", language="python")) is None
    assert (sandbox.folder / "x").read_text() == "y"
    wrong = run_page(sandbox, "a.md", page("a = 1", "print(b)", language="python"))
    assert "line 5" in wrong and "NameError" in wrong
    assert run_page(sandbox, "a.md", page(">>> 1 + 1", "2", language="python")) is None
    assert "Got:\n    2" in run_page(sandbox, "a.md", page(">>> 1 + 1", "3", language="python"))


def test_a_name_that_python_imports_in_vain_is_reported():
    lines = "from coordexp_trl.records import read_records, read_recods\nimport torch.none", ">>> import json"
    (block,) = read_blocks(page(lines[0], language="python", mark="an excerpt"))
    assert wrong_python(block) == ["line 5: coordexp_trl.records has no read_recods"]
    (block,) = read_blocks(page(">>> from coordexp_trl.none import x", language="python"))
    assert wrong_python(block) == ["line 4: No module named 'coordexp_trl.none'"]


def test_a_quotation_is_compared_with_the_code():
    lines = ["def read_page(name: str) -> str:", '    return (ROOT / name).read_text("utf-8")']
    (block,) = read_blocks(page(*lines, language="python", mark="quoted from the code"))
    assert wrong_python(block) == []
    assert wrong_python(replace(block, code=block.code.replace("ROOT", "ROOTS"))) == ["line 5: no file has this"]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("coordexp evla", "no command evla"),
        ("coordexp data convert vox", "no command vox"),
        ("coordexp data convert voc --one-base", "no option --one-base"),
        ("make demoo", "no target demoo"),
        ("python benchmarks/none.py", f"{ROOT}/benchmarks/none.py: no such script"),
        ("python recipes/demo.py --num-imges 3", f"{ROOT}/recipes/demo.py: no option --num-imges"),
    ],
)
def test_a_mistaken_command_within_the_text_is_reported(code, problem):
    assert wrong_inline(f"a\nSee `x` or `{code}`.\n```\n`coordexp x`\n```\n`coordexp eval --ground_truth a`") == [
        f"line 2: `{code}`: {problem}"
    ]
