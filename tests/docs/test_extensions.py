# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The examples of docs/integration.md run as they stand there, and do what the page says."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from families import build_family

from coordexp_trl import CoordExpStage2Config, CoordExpStage2Trainer
from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.generation import Rollout, SamplingConfig
from coordexp_trl.images import load_image
from coordexp_trl.losses.terms import TERMS
from coordexp_trl.models import MODULE_PATTERNS, freeze_modules
from coordexp_trl.protocols import PROTOCOLS, get_protocol
from coordexp_trl.records import DetectionObject, read_records
from coordexp_trl.tiny import build_tiny_processor, build_tiny_tokenizer

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "integration.md").read_text("utf-8")
MAX_LINES = 45


def example(title: str) -> str:
    """The one block of Python under a heading."""
    section = re.search(rf"^### {re.escape(title)}$(.*?)(?=^##|\Z)", PAGE, re.M | re.S)[1]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    return block


@pytest.fixture
def run_example(monkeypatch):
    """Runs an example as a module of its own; what it registers is forgotten after the test."""

    def run(title: str) -> ModuleType:
        module = ModuleType("example_of_the_docs")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(example(title), f"docs/integration.md, {title}", "exec"), vars(module))
        return module

    saved = [dict(table) for table in (PROTOCOLS, TERMS, MODULE_PATTERNS)]
    yield run
    for table, before in zip((PROTOCOLS, TERMS, MODULE_PATTERNS), saved, strict=True):
        table.clear()
        table.update(before)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_records(create_shapes(tmp_path_factory.mktemp("shapes"), num_images=4, image_size=64))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny_tokenizer()


def options(folder: Path, **others) -> dict:
    quiet = {"bf16": False, "use_cpu": True, "report_to": [], "save_strategy": "no", "logging_steps": 1}
    return quiet | {"output_dir": str(folder), "max_steps": 1, "max_completion_length": 24} | others


def logged(trainer) -> dict[str, float]:
    (entry,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    return entry


def test_there_are_four_examples_that_can_be_read_at_a_glance():
    titles = re.findall(r"^### (A new .*)$", PAGE, re.M)
    assert titles == ["A new protocol", "A new loss term", "A new model family", "A new engine"]
    assert all(len(example(title).splitlines()) <= MAX_LINES for title in titles)


class TestProtocol:
    @pytest.fixture
    def protocol(self, run_example, tokenizer):
        run_example("A new protocol")
        return get_protocol("lines", tokenizer)

    OBJECTS = [
        DetectionObject(desc="black cat", bins=(110, 310, 410, 705)),
        DetectionObject(desc="kite", bins=(500, 20, 560, 90, 480, 80)),
        DetectionObject(desc=" two  blanks", bins=(0, 0, 1, 1)),
    ]

    def test_what_is_written_reads_back(self, protocol, tokenizer):
        for objects in ([], self.OBJECTS[:1], self.OBJECTS):
            ids = protocol.encode(objects)
            parsed = protocol.parse([*ids, tokenizer.eos_token_id])
            assert [(item.desc, item.bins) for item in parsed.objects] == [(item.desc, item.bins) for item in objects]
            assert parsed.ended and not parsed.dropped and not parsed.truncated
            assert tokenizer.decode(ids) == protocol.serialize(objects)
        slots = [slot for item in parsed.objects for slot in item.slots]
        assert [ids[slot] for slot in slots] == [
            protocol.vocabulary.ids[k] for item in self.OBJECTS for k in item.bins
        ]

    @pytest.mark.parametrize(
        ("text", "dropped"),
        [
            ("cat<|coord_1|><|coord_2|><|coord_3|>\n", {"wrong_arity": 1}),
            ("<|coord_1|><|coord_2|><|coord_3|><|coord_4|>\n", {"empty_desc": 1}),
            ("cat<|coord_1|>dog<|coord_2|><|coord_3|><|coord_4|>\n", {"bad_desc": 1}),
            ("cat<|coord_1|><|coord_2|><|coord_3|><|coord_4|>", {"incomplete": 1}),
            ("\n\n", {"stray": 1}),
        ],
    )
    def test_what_is_malformed_is_dropped_and_its_neighbour_stays(self, protocol, tokenizer, text, dropped):
        good = protocol.serialize(self.OBJECTS[:1])
        ids = tokenizer(good + text, add_special_tokens=False)["input_ids"]
        parsed = protocol.parse([*ids, tokenizer.eos_token_id])
        assert [item.desc for item in parsed.objects] == ["black cat"]
        assert parsed.dropped == dropped

    def test_a_line_break_in_a_description_is_refused(self, protocol):
        with pytest.raises(ValueError, match="'lines' protocol: it holds a line break"):
            protocol.encode([DetectionObject(desc="two\nlines", bins=(0, 0, 1, 1))])

    def test_it_trains(self, protocol, tiny_checkpoint, records, tmp_path):
        args = CoordExpStage2Config(**options(tmp_path, protocol="lines"))
        trainer = CoordExpStage2Trainer(model=str(tiny_checkpoint), args=args, train_dataset=records)
        assert type(trainer.protocol).__name__ == "LinesProtocol"
        trainer.train()
        assert logged(trainer)["loss/coord_ce"] > 0


def test_loss_term(run_example, tiny_checkpoint, records, tmp_path):
    module = run_example("A new loss term")
    logs = {}
    for weight in (0.0, 2.0):
        args = module.FocalConfig(**options(tmp_path, coord_focal_weight=weight))
        trainer = CoordExpStage2Trainer(model=str(tiny_checkpoint), args=args, train_dataset=records)
        trainer.train()
        logs[weight] = logged(trainer)
    assert "loss/coord_focal" not in logs[0.0]
    focal = logs[2.0]["loss/coord_focal"]
    # A model that knows nothing: nearly the cross-entropy, a little less
    assert 0.9 * logs[2.0]["loss/coord_ce"] < focal < logs[2.0]["loss/coord_ce"]
    assert logs[2.0]["loss"] == pytest.approx(logs[0.0]["loss"] + 2 * focal, rel=1e-5)


def test_model_family(run_example, tokenizer, records, monkeypatch):
    model, image = build_family("glm4v", tokenizer), load_image(records[0])
    before = freeze_modules(model, ["projector"])["projector"]
    module = run_example("A new model family")
    module.check_family(model, build_tiny_processor(tokenizer), image)
    parts = {
        name: freeze_modules(build_family("glm4v", tokenizer), [name])[name] for name in ("vision_tower", "projector")
    }
    convolution = sum(parameter.numel() for parameter in model.model.visual.downsample.parameters())
    assert parts["projector"] == before + convolution
    assert sum(parts.values()) == sum(parameter.numel() for parameter in model.model.visual.parameters())

    served = module.ImageFeatures.encode

    def wrong(body, prompts):
        features = served(body, prompts)
        features.embeds[0] += 1
        return features

    monkeypatch.setattr(module.ImageFeatures, "encode", wrong)
    with pytest.raises(AssertionError, match="not close"):
        module.check_family(model, build_tiny_processor(tokenizer), image)


class TestEngine:
    def test_the_likeliest_of_each_image_is_kept(self, run_example):
        class Scripted:
            calls = []

            def generate(self, prompts, sampling, features=None):
                self.calls.append(sampling)
                scores = {"first": [-3.0, -1.0, -2.0], "second": [-1.0, -5.0, -4.0]}
                if sampling.num_generations == 1:
                    return [Rollout([], [7], "stop") for _ in prompts]
                return [Rollout([], [k], "stop", [score]) for name in prompts for k, score in enumerate(scores[name])]

        engine = run_example("A new engine").BestOf(Scripted(), n=3)
        best = engine.generate(["first", "second"], SamplingConfig(temperature=1.0))
        assert [rollout.completion_ids for rollout in best] == [[1], [0]]
        greedy = engine.generate(["first"], SamplingConfig())
        assert [rollout.completion_ids for rollout in greedy] == [[7]]
        assert [call.num_generations for call in Scripted.calls] == [3, 1]

    def test_it_trains(self, run_example, tiny_checkpoint, records, tmp_path):
        trainer_class = run_example("A new engine").BestOfTrainer
        args = CoordExpStage2Config(**options(tmp_path, temperature=1.0, eval_strategy="steps", eval_steps=1))
        trainer = trainer_class(str(tiny_checkpoint), args, records, eval_dataset=records[:2])
        sampled = []
        generate = trainer.engine.engine.generate
        trainer.engine.engine.generate = lambda *given: sampled.append(given[1]) or generate(*given)
        trainer.train()
        assert [(one.num_generations, one.temperature) for one in sampled] == [(4, 1.0), (1, 0.0)]
        assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
