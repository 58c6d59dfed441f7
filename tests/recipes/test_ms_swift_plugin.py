# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""recipes/ms_swift/plugin.py with stand-ins for the two objects of ms-swift that it imports: its loss and gradient."""

import importlib.util
import sys
import zipfile
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import MISSING, fields
from math import exp, log
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from coordexp_trl import CoordExpStage1Config
from coordexp_trl.tiny import build_tiny_tokenizer

PLUGIN = Path(__file__).resolve().parents[2] / "recipes" / "ms_swift" / "plugin.py"
TOKENIZER = build_tiny_tokenizer()
FIRST, LAST = TOKENIZER.convert_tokens_to_ids(["<|coord_0|>", "<|coord_999|>"])
X = -100
# Labels of two micro-batches, padded and with prompts; 5 text labels and 4 coordinates, one a border bin. Nothing
# predicts the first label of a row.
BATCHES = (
    torch.tensor([[6, X, 7, FIRST + 3, LAST], [X, FIRST + 500, 7, 9, X]]),
    torch.tensor([[X, 8, FIRST + 3, 8, X, X]]),
)
NUM_TEXT, NUM_SLOTS = 5, 4
WEIGHTS = {"coord_ce": 0.5, "coord_soft_ce": 2.0, "coord_w1": 3.0, "coord_gate": 0.25, "coord_entropy": 0.1}
SIGMA = 1.5


class BaseLoss(ABC):
    """As in ms-swift 4.6.0, less the documentation."""

    def __init__(self, args, trainer):
        self.args = args
        self.trainer = trainer
        mro_class_names = [cls.__name__ for cls in trainer.__class__.__mro__]
        self.is_megatron = "BaseMegatronTrainer" in mro_class_names

    @abstractmethod
    def __call__(self, outputs, labels, *, num_items_in_batch=None, loss_scale=None, **kwargs) -> torch.Tensor: ...


class Metric:
    """Collects what it is given."""

    def __init__(self):
        self.values = []

    def update(self, values):
        assert not values.requires_grad
        self.values += values.tolist()


class Trainer:
    """What the plugin needs of ms-swift's trainer, which calls `get_batch_samples` first in each step."""

    def __init__(self, processes=1, sequence_parallel_size=1, tokenizer=TOKENIZER):
        self.template = SimpleNamespace(tokenizer=tokenizer, sequence_parallel_size=sequence_parallel_size)
        self.model = SimpleNamespace(training=True)
        self.custom_metrics = {"train": defaultdict(Metric), "eval": defaultdict(Metric)}
        self.accelerator = SimpleNamespace(
            device=torch.device("cpu"),
            reduce=lambda tensor, reduction: tensor * processes,  # of processes with like batches
        )

    def get_batch_samples(self, batches, num_batches, device):
        taken = [{"labels": labels} for labels in batches[:num_batches]]
        return taken, sum((batch["labels"][..., 1:] != X).sum() for batch in taken)


@pytest.fixture(params=["stand-in", pytest.param("wheel", marks=pytest.mark.wheel)])
def plugin(request, monkeypatch):
    """The module, registered in a `loss_map` of its own; the base class is this file's or that of ms-swift's wheel."""
    base, mapping = ModuleType("swift.loss.base"), ModuleType("swift.loss.mapping")
    base.BaseLoss, mapping.loss_map = BaseLoss, {"cross_entropy": object}
    if request.param == "wheel":
        (file,) = request.getfixturevalue("wheels").glob("ms_swift-*.whl")
        with zipfile.ZipFile(file) as wheel:
            exec(compile(wheel.read("swift/loss/base.py"), "swift/loss/base.py", "exec"), base.__dict__)
        assert base.BaseLoss is not BaseLoss
    for name, module in {"swift": None, "swift.loss": None, base.__name__: base, mapping.__name__: mapping}.items():
        monkeypatch.setitem(sys.modules, name, module or ModuleType(name))
    spec = importlib.util.spec_from_file_location("ms_swift_plugin", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert mapping.loss_map == {"cross_entropy": object, "coordexp": module.CoordExpLoss}
    return module


@pytest.fixture
def weighted(monkeypatch):
    """Weights and sigma of this file, in the environment."""
    for name, value in {**{f"{term}_weight": w for term, w in WEIGHTS.items()}, "coord_sigma": SIGMA}.items():
        monkeypatch.setenv(name.upper(), str(value))


def make_loss(plugin, trainer, across=True):
    return plugin.CoordExpLoss(SimpleNamespace(average_tokens_across_devices=across), trainer)


def random_logits(labels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*labels.shape, len(TOKENIZER), generator=generator, dtype=torch.float64)
    return logits.requires_grad_()


def reference(logits, labels):
    """Sums of the terms by plain loops, in float64."""
    sums = dict.fromkeys(["text", *WEIGHTS], 0.0)
    weights = [exp(-(k**2) / (2 * SIGMA**2)) for k in range(1000)]  # by distance from the label's bin
    for row in range(labels.size(0)):
        for position in range(1, labels.size(1)):
            label, predicted = labels[row, position].item(), logits[row, position - 1].log_softmax(-1)
            if label == X:
                continue
            if not FIRST <= label <= LAST:
                sums["text"] = sums["text"] - predicted[label]
                continue
            mass = predicted[FIRST : LAST + 1].logsumexp(-1)
            p = (predicted[FIRST : LAST + 1] - mass).exp()
            near = [weights[abs(k - label + FIRST)] * (abs(k - label + FIRST) <= 4 * SIGMA) for k in range(1000)]
            q = torch.tensor(near, dtype=torch.float64) / sum(near)
            sums["coord_ce"] = sums["coord_ce"] - p[label - FIRST].log()
            sums["coord_soft_ce"] = sums["coord_soft_ce"] - (q * p.log()).sum()
            cumulated = torch.stack([(p - q)[: k + 1].sum() for k in range(1000)])
            sums["coord_w1"] = sums["coord_w1"] + cumulated.abs().sum() / 999
            sums["coord_gate"] = sums["coord_gate"] - mass
            sums["coord_entropy"] = sums["coord_entropy"] - (p * p.log()).sum()
    return sums


def total(sums, num_text, num_slots):
    return sums["text"] / num_text + sum(WEIGHTS[name] * sums[name] for name in WEIGHTS) / num_slots


def test_step_of_two_micro_batches(plugin, weighted):
    trainer = Trainer()
    loss = make_loss(plugin, trainer)
    batches, num_items = trainer.get_batch_samples(BATCHES, 2, None)
    assert [batch["labels"].tolist() for batch in batches] == [labels.tolist() for labels in BATCHES]
    assert num_items == NUM_TEXT + NUM_SLOTS
    step, sums = 0.0, defaultdict(float)
    for seed, labels in enumerate(BATCHES):
        logits = random_logits(labels, seed)
        found = loss(SimpleNamespace(logits=logits), labels, num_items_in_batch=num_items, trainer=trainer)
        (gradient,) = torch.autograd.grad(found, logits)
        expected = reference(logits, labels)
        (expected_gradient,) = torch.autograd.grad(total(expected, NUM_TEXT, NUM_SLOTS), logits)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-8)
        assert gradient.abs().sum() > 0
        step += found.item()
        for name, value in expected.items():
            sums[name] += value.item() if torch.is_tensor(value) else value
    assert step == pytest.approx(total(sums, NUM_TEXT, NUM_SLOTS), rel=1e-5)
    metrics = trainer.custom_metrics["train"]
    assert metrics.keys() == {f"loss/{name}" for name in sums}
    for name, value in sums.items():
        values = metrics[f"loss/{name}"].values
        assert len(values) == (NUM_TEXT if name == "text" else NUM_SLOTS)
        assert sum(values) == pytest.approx(value, rel=1e-5)


def test_evaluation_counts_its_own_labels(plugin, weighted):
    trainer = Trainer()
    loss = make_loss(plugin, trainer)
    trainer.get_batch_samples(BATCHES, 2, None)
    trainer.model.training = False
    logits = random_logits(BATCHES[1])
    found = loss(SimpleNamespace(logits=logits), BATCHES[1], num_items_in_batch=torch.tensor(3))
    assert found.item() == pytest.approx(total(reference(logits, BATCHES[1]), 2, 1).item(), rel=1e-5)
    assert not trainer.custom_metrics["train"] and trainer.custom_metrics["eval"]


@pytest.mark.parametrize("across, share", [(True, 1 / 3), (False, 1)])
def test_processes_share_the_average(plugin, across, share):
    losses = []
    for processes in (1, 3):
        trainer = Trainer(processes)
        loss = make_loss(plugin, trainer, across)
        trainer.get_batch_samples(BATCHES, 1, None)
        losses.append(loss(SimpleNamespace(logits=random_logits(BATCHES[0])), BATCHES[0]).item())
    assert losses[1] == pytest.approx(share * losses[0])


@pytest.mark.parametrize(
    "labels, reached", [([[X, FIRST, LAST]], 2), ([[X, 7, 8]], 2), ([[X, X, X]], 0)], ids=["slots", "text", "none"]
)
def test_micro_batches_without_a_kind(plugin, weighted, labels, reached):
    labels = torch.tensor(labels)
    trainer = Trainer()
    loss = make_loss(plugin, trainer)
    trainer.get_batch_samples((labels,), 1, None)
    logits = random_logits(labels)
    found = loss(SimpleNamespace(logits=logits), labels)
    found.backward()
    assert found.isfinite() and logits.grad.isfinite().all()
    assert (logits.grad.abs().sum(-1) > 0).sum() == reached


def test_half_precision_is_reduced_in_float32(plugin):
    trainer = Trainer()
    loss = make_loss(plugin, trainer)
    trainer.get_batch_samples(BATCHES, 1, None)
    logits = random_logits(BATCHES[0]).detach().bfloat16()
    found, exact = (loss(SimpleNamespace(logits=each), BATCHES[0]) for each in (logits, logits.float()))
    assert found.dtype == torch.float32 and found == exact


def test_options_are_those_of_stage_1(plugin, monkeypatch):
    theirs = {item.name: item.default for item in fields(CoordExpStage1Config) if item.default is not MISSING}
    options = plugin.CoordExpOptions()
    assert vars(options) == {name: theirs[name] for name in vars(options)}
    assert {name for name in theirs if name.startswith("coord_") and name != "coord_rows"} == vars(options).keys()
    monkeypatch.setenv("COORD_GATE_WEIGHT", "0.5")
    assert plugin.CoordExpOptions.from_environment() == plugin.CoordExpOptions(coord_gate_weight=0.5)


@pytest.mark.parametrize("value", ["half", "-1", "nan", "inf"])
def test_an_option_that_is_no_weight_is_named(plugin, monkeypatch, value):
    monkeypatch.setenv("COORD_GATE_WEIGHT", value)
    with pytest.raises(ValueError, match=f"COORD_GATE_WEIGHT='{value}': must be a finite number, 0 or greater"):
        plugin.CoordExpOptions.from_environment()


def test_terms_without_weight_are_not_computed(plugin):
    trainer = Trainer()
    loss = make_loss(plugin, trainer)
    assert loss.coordinate_terms(torch.zeros(2, len(TOKENIZER)), torch.tensor([0, 999])).keys() == {
        "coord_ce",
        "coord_soft_ce",
        "coord_gate",
    }
    gate = loss.coordinate_terms(torch.zeros(1, len(TOKENIZER)), torch.tensor([5]))["coord_gate"]
    assert gate.item() == pytest.approx(log(len(TOKENIZER) / 1000), rel=1e-5)


class BaseMegatronTrainer(Trainer):
    """Known to ms-swift by its name."""


@pytest.mark.parametrize("trainer", [Trainer(sequence_parallel_size=2), BaseMegatronTrainer()], ids=["sp", "megatron"])
def test_partial_sequences_are_refused(plugin, trainer):
    with pytest.raises(ValueError, match="needs the logits of whole sequences"):
        make_loss(plugin, trainer)


def test_other_mistakes(plugin):
    with pytest.raises(ValueError, match="1000 of the 1000 coordinate tokens are missing"):
        make_loss(plugin, Trainer(tokenizer=build_tiny_tokenizer(num_bins=0)))
    with pytest.raises(ValueError, match="Leave --loss_scale at its default"):
        make_loss(plugin, Trainer())(None, BATCHES[0], loss_scale=torch.ones(10))
