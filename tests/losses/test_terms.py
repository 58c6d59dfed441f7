# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""All loss terms of a batch against a dense implementation: values, units, gradients, and batches without targets."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from coordexp_trl.losses.terms import DIAGNOSTICS, TERMS, LossConfig, Supervision, count_units, loss_terms
from coordexp_trl.sequences import BoxTarget, SlotTarget, TextTarget, TrainingSequence

VOCAB, HIDDEN, BINS = 60, 16, 30
COORD_IDS = torch.arange(25, 25 + BINS)[torch.randperm(BINS, generator=torch.Generator().manual_seed(3))]
ALL = dict.fromkeys(TERMS, 1.0)
PROMPTS = [3, 5]  # prompt lengths
LENGTH = 20


def sequences() -> list[TrainingSequence]:
    """Two sequences: one fully supervised, one with weights, a box whose slots have no weight, and loose slots."""
    box = (4, 5, 7, 9)
    return [
        TrainingSequence(
            ids=[1, 2, 3, 4, *COORD_IDS[[2, 3, 5, 6]].tolist(), 9, 10],
            text=[TextTarget(position, token, 1.0) for position, token in ((0, 1), (1, 2), (8, 9), (9, 40))],
            slots=[SlotTarget(4 + k, target, 1.0) for k, target in enumerate((0, 4, 12, 29))],
            boxes=[BoxTarget((4, 5, 6, 7), (0.0, 0.13, 0.41, 1.0), 1.0)],
        ),
        TrainingSequence(
            ids=list(range(10)),
            text=[TextTarget(1, 7, 0.5), TextTarget(2, 59, 0.25), TextTarget(3, 3, 0.0)],
            slots=[
                *(SlotTarget(slot, target, 0.0) for slot, target in zip(box, (3, 8, 20, 21), strict=True)),
                SlotTarget(8, 11, 0.75),
            ],
            boxes=[BoxTarget(box, (0.1, 0.25, 0.7, 0.72), 0.5)],
        ),
    ]


@pytest.fixture
def batch():
    """Hidden states (batch, length, hidden_size), a head, and the supervision of [`sequences`]."""
    hidden = torch.randn(2, LENGTH, HIDDEN, dtype=torch.float64, requires_grad=True)
    head = nn.Linear(HIDDEN, VOCAB, bias=False, dtype=torch.float64)
    return hidden, head, Supervision.collate(sequences(), PROMPTS, LENGTH)


def dense_terms(hidden, head, config: LossConfig) -> dict[str, torch.Tensor]:
    """Every term, position by position, from the full logits."""
    sums = {name: hidden.new_zeros(()) for name in TERMS}
    values = torch.arange(BINS, dtype=hidden.dtype) / (BINS - 1)
    iou_loss = {"giou": generalized_box_iou_loss, "ciou": complete_box_iou_loss}[config.iou_loss]
    for row, (sequence, prompt_length) in enumerate(zip(sequences(), PROMPTS, strict=True)):
        # The logits at position p - 1 predict the token at p.
        logits = head(hidden)[row, prompt_length - 1 :]
        expected = {}
        for position, token, weight in sequence.text:
            sums["text"] = sums["text"] + weight * F.cross_entropy(logits[position][None], torch.tensor([token]))
        for position, target, weight in sequence.slots:
            slot = logits[position][COORD_IDS]
            p = slot.softmax(0)
            distance = (torch.arange(BINS) - target).abs().to(hidden.dtype)
            q = torch.exp(-0.5 * (distance / config.sigma) ** 2) * (distance <= 4 * config.sigma)
            q = q / q.sum()
            parts = {
                "coord_ce": F.cross_entropy(slot[None], torch.tensor([target])),
                "coord_soft_ce": F.cross_entropy(slot[None], q[None]),
                "coord_w1": (torch.ones(BINS, BINS, dtype=p.dtype).tril() @ (p - q)).abs().sum() / (BINS - 1),
                "coord_gate": -logits[position].softmax(0)[COORD_IDS].sum().log(),
                "coord_entropy": -(p * p.log()).sum(),
            }
            for name, value in parts.items():
                sums[name] = sums[name] + weight * value
            scaled = (slot / config.temperature).softmax(0)
            if config.top_k is not None:
                kept = scaled >= scaled.sort().values[-config.top_k]
                scaled = scaled * kept / (scaled * kept).sum()
            expected[position] = (scaled * values).sum()
        for slots, box, weight in sequence.boxes:
            predicted = torch.stack([expected[slot] for slot in slots])[None]
            target = torch.tensor([box], dtype=hidden.dtype)
            corners = torch.cat(
                [torch.minimum(predicted[:, :2], predicted[:, 2:]), torch.maximum(predicted[:, :2], predicted[:, 2:])],
                dim=1,
            )
            sums["bbox_l1"] = sums["bbox_l1"] + weight * F.l1_loss(predicted, target, reduction="sum")
            sums["bbox_iou"] = sums["bbox_iou"] + weight * iou_loss(corners, target, reduction="sum")
    return sums


CONFIGS = {
    "defaults": LossConfig(ALL),
    "sigma": LossConfig(ALL, sigma=0.7),
    "temperature": LossConfig(ALL, temperature=0.3),
    "top_k": LossConfig(ALL, top_k=4),
    "ciou": LossConfig(ALL, iou_loss="ciou"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_values_and_gradients_are_those_of_full_logits(batch, config):
    hidden, head, supervision = batch
    sums, _ = loss_terms(hidden, head, COORD_IDS, supervision, config)
    expected = dense_terms(hidden, head, config)
    assert list(sums) == list(expected)
    for name in TERMS:
        torch.testing.assert_close(sums[name], expected[name], rtol=1e-6, atol=1e-9)
        got, wanted = (
            torch.autograd.grad(values[name], (hidden, head.weight), retain_graph=True) for values in (sums, expected)
        )
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ({"sigma": 0.7}, {"coord_soft_ce", "coord_w1"}),
        ({"temperature": 0.3}, {"bbox_l1", "bbox_iou"}),
        ({"top_k": 4}, {"bbox_l1", "bbox_iou"}),
        ({"iou_loss": "ciou"}, {"bbox_iou"}),
    ],
)
def test_options_change_their_own_terms_alone(batch, option, changed):
    hidden, head, supervision = batch
    plain, other = (
        loss_terms(hidden, head, COORD_IDS, supervision, config)[0]
        for config in (LossConfig(ALL), LossConfig(ALL, **option))
    )
    assert {name for name in ALL if plain[name] != other[name]} == changed


@pytest.mark.parametrize("name", TERMS)
def test_each_term_reaches_hidden_states_and_head(batch, name):
    hidden, head, supervision = batch
    sums, _ = loss_terms(hidden, head, COORD_IDS, supervision, LossConfig({name: 1.0}))
    assert list(sums) == [name]
    sums[name].backward()
    rows = hidden.grad.flatten(0, 1).abs().sum(-1).nonzero()[:, 0].tolist()
    weighted = {  # rows whose targets have a weight
        "text": supervision.text_rows[supervision.text_weights > 0],
        "slots": supervision.slot_rows[supervision.slot_weights > 0],
        "boxes": supervision.slot_rows[supervision.box_slots.flatten()],
    }[TERMS[name].unit]
    assert rows == sorted(weighted.tolist())
    touched = set(head.weight.grad.abs().sum(-1).nonzero()[:, 0].tolist())
    # Text and gate compare with the whole vocabulary, the other terms with the coordinate tokens
    assert touched == (set(range(VOCAB)) if name in ("text", "coord_gate") else set(COORD_IDS.tolist()))


@pytest.mark.parametrize("weights", [{}, {"text": 0.0}, {"text": 2.0}, {"coord_ce": 1, "bbox_iou": 0.5, "text": 0}])
def test_terms_without_a_weight_are_absent(batch, weights):
    config = LossConfig(weights)
    sums, _ = loss_terms(*batch[:2], COORD_IDS, batch[2], config)
    assert list(sums) == config.active == [name for name in TERMS if weights.get(name)]


def test_sums_are_not_multiplied_by_the_weights_of_the_terms(batch):
    # The trainer does it, after dividing by the units of the step.
    one, two = (
        loss_terms(*batch[:2], COORD_IDS, batch[2], LossConfig(dict.fromkeys(ALL, weight)))[0] for weight in (1.0, 2.0)
    )
    assert one == two


@pytest.mark.parametrize(
    "empty",
    [[], [TrainingSequence([])], [TrainingSequence([1, 2, 3]), TrainingSequence([4])]],
    ids=["no sequence", "empty sequence", "nothing supervised"],
)
def test_nothing_supervised_gives_connected_zeros(empty):
    hidden = torch.randn(max(len(empty), 1), 8, HIDDEN, requires_grad=True)
    head = nn.Linear(HIDDEN, VOCAB, bias=False)
    supervision = Supervision.collate(empty, [2] * len(empty), 8)
    sums, diagnostics = loss_terms(hidden, head, COORD_IDS, supervision, LossConfig(ALL))
    assert {name: value.item() for name, value in (sums | diagnostics).items()} == dict.fromkeys(
        [*TERMS, *DIAGNOSTICS], 0.0
    )
    for name, value in sums.items():
        assert value.dtype == torch.float32 and value.requires_grad, name
        hidden.grad = head.weight.grad = None
        value.backward(retain_graph=True)
        for grad in (hidden.grad, head.weight.grad):
            assert grad is not None and not grad.any(), name


def test_slots_without_weight_keep_their_box(batch):
    # What `self_context_coord_weight=0` builds: geometry alone on the rollout's own tokens.
    hidden, head, _ = batch
    sequence = TrainingSequence(
        ids=list(range(4)),
        slots=[SlotTarget(k, 2 * k, 0.0) for k in range(4)],
        boxes=[BoxTarget((0, 1, 2, 3), (0.0, 0.1, 0.9, 1.0), 1.0)],
    )
    supervision = Supervision.collate([sequence], [4], LENGTH)
    sums, diagnostics = loss_terms(hidden[:1], head, COORD_IDS, supervision, LossConfig(ALL))
    assert count_units([sequence]) == [0, 0, 1]
    for name, (unit, _) in TERMS.items():
        assert (sums[name] != 0) == (unit == "boxes"), name
    assert not any(diagnostics.values())


def test_units_are_counted_where_there_is_a_weight():
    assert count_units(sequences()) == [6, 5, 2]
    assert count_units([]) == [0, 0, 0]
    assert count_units(sequences() * 2) == [12, 10, 4]


def test_diagnostics_are_those_of_weighted_slots(batch):
    hidden, head, supervision = batch
    sums, diagnostics = loss_terms(hidden, head, COORD_IDS, supervision, LossConfig(ALL))
    probs = head(hidden).flatten(0, 1).softmax(-1)[:, COORD_IDS]
    mass, error, entropy = 0.0, 0.0, 0.0
    for row, target, weight in zip(
        supervision.slot_rows, supervision.slot_bins, supervision.slot_weights, strict=True
    ):
        if weight > 0:
            p = probs[row] / probs[row].sum()
            mass += probs[row].sum()
            error += ((p * torch.arange(BINS)).sum() - target).abs()
            entropy -= (p * p.log()).sum()
    expected = {"coord_bin_error": error, "coord_entropy": entropy, "coord_mass": mass}
    assert tuple(diagnostics) == tuple(expected) == DIAGNOSTICS
    for name, value in expected.items():
        assert not diagnostics[name].requires_grad
        torch.testing.assert_close(diagnostics[name], value.detach(), rtol=1e-5, atol=1e-5, check_dtype=False)


def test_coordinate_mass_is_reported_only_where_it_is_computed(batch):
    # Without the gate the full vocabulary is skipped at slots; a constant 1.0 would hide that mass leaks out.
    _, diagnostics = loss_terms(*batch[:2], COORD_IDS, batch[2], LossConfig(ALL | {"coord_gate": 0.0}))
    assert list(diagnostics) == ["coord_bin_error", "coord_entropy"]


def test_collate_finds_the_rows_that_predict():
    supervision = Supervision.collate(sequences(), PROMPTS, LENGTH)
    # Completion token 0 of a sequence is predicted by the last token of its prompt.
    assert supervision.text_rows.tolist() == [2, 3, 10, 11, 20 + 4 + 1, 20 + 4 + 2, 20 + 4 + 3]
    assert supervision.slot_rows.tolist() == [6, 7, 8, 9, 28, 29, 31, 33, 32]
    assert supervision.box_slots.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert supervision.text_tokens.tolist() == [1, 2, 9, 40, 7, 59, 3]
    assert supervision.slot_bins.tolist() == [0, 4, 12, 29, 3, 8, 20, 21, 11]
    torch.testing.assert_close(supervision.boxes[1], torch.tensor([0.1, 0.25, 0.7, 0.72]))
    assert supervision.box_weights.tolist() == [1.0, 0.5]


def test_padding_changes_nothing(batch):
    hidden, head, supervision = batch
    padded = torch.cat([hidden, torch.randn(2, 7, HIDDEN, dtype=torch.float64)], dim=1)
    longer = Supervision.collate(sequences(), PROMPTS, LENGTH + 7)
    one, _ = loss_terms(hidden, head, COORD_IDS, supervision, LossConfig(ALL))
    other, _ = loss_terms(padded, head, COORD_IDS, longer, LossConfig(ALL))
    for name in ALL:
        torch.testing.assert_close(one[name], other[name])


def test_a_batch_is_the_sum_of_its_sequences(batch):
    hidden, head, supervision = batch
    together, _ = loss_terms(hidden, head, COORD_IDS, supervision, LossConfig(ALL))
    alone = [
        loss_terms(
            hidden[k : k + 1],
            head,
            COORD_IDS,
            Supervision.collate([sequences()[k]], [PROMPTS[k]], LENGTH),
            LossConfig(ALL),
        )[0]
        for k in range(2)
    ]
    for name in ALL:
        torch.testing.assert_close(together[name], alone[0][name] + alone[1][name])
