# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The sparse head against dense logits: values, gradients, memory, adapters, empty batches."""

import copy
from contextlib import nullcontext

import peft
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from coordexp_trl.losses import head as head_module
from coordexp_trl.losses.head import HeadOutput, supervised_logits

V, H, K, T, M = 97, 16, 13, 5, 6
CONTIGUOUS = torch.arange(80, 80 + K)
SCATTERED = torch.randperm(V, generator=torch.Generator().manual_seed(3))[:K]
CHUNKS = [1, 300, 2**24]  # scratch elements: one vocabulary row at a time, several tiles, all at once


class Wrapped(nn.Module):
    """A head that is not a plain linear layer."""

    def __init__(self, lm_head):
        super().__init__()
        self.lm_head = lm_head

    def forward(self, hidden):
        return self.lm_head(hidden)


def make_inputs(seed=0, num_text=T, num_slots=M):
    torch.manual_seed(seed)
    hidden = torch.randn(num_text + num_slots, H, requires_grad=True)
    weights = (torch.randn(num_text), torch.randn(num_slots, K), torch.randn(num_slots))
    return hidden, torch.randint(V, (num_text,)), weights


def dense(hidden, head, text_targets, coord_ids):
    """The reference: full logits, ordinary autograd."""
    logits = head(hidden)
    num_text = text_targets.numel()
    coord_logits = logits[num_text:, coord_ids]
    text_nll = nn.functional.cross_entropy(logits[:num_text], text_targets, reduction="none")
    return HeadOutput(text_nll, coord_logits, logits[num_text:].logsumexp(-1) - coord_logits.logsumexp(-1))


def weighted_sum(out, weights):
    terms = (out.text_nll, out.coord_logits, out.coord_gate)
    return sum((term * weight.to(term.dtype)).sum() for term, weight in zip(terms, weights, strict=True))


def gradients(out, weights, inputs):
    return torch.autograd.grad(weighted_sum(out, weights), inputs)


def assert_close(ours, reference, tolerance=1e-5):
    """Relative to the largest element of each tensor."""
    for a, b in zip(ours, reference, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b.double()).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6)


def values(out):
    return out.text_nll, out.coord_logits, out.coord_gate


@pytest.mark.parametrize("max_elements", CHUNKS)
@pytest.mark.parametrize("coord_ids", [CONTIGUOUS, SCATTERED], ids=["contiguous", "scattered"])
@pytest.mark.parametrize("with_gate", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wrap", [lambda head: head, Wrapped], ids=["linear", "generic"])
def test_equals_dense_logits_in_float64(wrap, bias, with_gate, coord_ids, max_elements):
    hidden, text_targets, weights = make_inputs()
    head = nn.Linear(H, V, bias=bias)
    out = supervised_logits(hidden, wrap(head), text_targets, coord_ids, with_gate, max_elements)
    ours = gradients(out, weights, [hidden, *head.parameters()])

    exact_head, exact_hidden = copy.deepcopy(head).double(), hidden.detach().double().requires_grad_()
    reference = dense(exact_hidden, exact_head, text_targets, coord_ids)
    if not with_gate:
        assert not out.coord_gate.requires_grad and not out.coord_gate.any()
        reference.coord_gate = torch.zeros(M)
    assert all(value.dtype == torch.float32 for value in values(out))
    assert_close(values(out), values(reference))
    assert_close(ours, gradients(reference, weights, [exact_hidden, *exact_head.parameters()]))


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(bias):
    hidden, text_targets, _ = make_inputs()
    hidden, head = hidden.detach().double().requires_grad_(), nn.Linear(H, V, bias=bias).double()

    def function(hidden, *parameters):
        return values(supervised_logits(hidden, head, text_targets, SCATTERED, max_elements=300))

    assert torch.autograd.gradcheck(function, (hidden, *head.parameters()), fast_mode=True)


def test_partial_losses_give_the_gradients_of_their_terms_alone():
    hidden, text_targets, _ = make_inputs()
    head = nn.Linear(H, V)
    for term in range(3):
        ours = values(supervised_logits(hidden, head, text_targets, CONTIGUOUS))[term].square().sum()
        reference = values(dense(hidden, head, text_targets, CONTIGUOUS))[term].square().sum()
        inputs = [hidden, *head.parameters()]
        assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(reference, inputs))


def test_gate_is_minus_log_of_the_coordinate_mass():
    hidden, text_targets, _ = make_inputs()
    head = nn.Linear(H, V)
    out = supervised_logits(hidden, head, text_targets, SCATTERED)
    mass = head(hidden)[T:].softmax(-1)[:, SCATTERED].sum(-1)
    torch.testing.assert_close(out.coord_gate, -mass.log())
    everything = supervised_logits(hidden, head, text_targets, torch.arange(V)).coord_gate
    torch.testing.assert_close(everything, torch.zeros(M), atol=1e-6, rtol=0)


def test_rows_of_coordinate_targets_and_repeated_targets():
    # Text targets may be coordinate tokens, and several rows may share one target row of the weight.
    hidden, _, weights = make_inputs()
    head = nn.Linear(H, V)
    text_targets = torch.tensor([80, 80, 80, 0, V - 1])
    inputs = [hidden, *head.parameters()]
    ours = gradients(supervised_logits(hidden, head, text_targets, CONTIGUOUS, max_elements=700), weights, inputs)
    assert_close(ours, gradients(dense(hidden, head, text_targets, CONTIGUOUS), weights, inputs))


@pytest.mark.parametrize("master", [torch.bfloat16, torch.float32], ids=["bfloat16 weight", "float32 weight"])
def test_bfloat16_hidden_states(master):
    hidden, text_targets, weights = make_inputs()
    hidden = hidden.detach().bfloat16().requires_grad_()
    head = nn.Linear(H, V).to(master)
    out = supervised_logits(hidden, head, text_targets, SCATTERED, max_elements=300)
    ours = gradients(out, weights, [hidden, *head.parameters()])

    rounded = nn.Linear(H, V).double()
    rounded.load_state_dict({name: p.bfloat16() if name == "weight" else p for name, p in head.state_dict().items()})
    exact = hidden.detach().double().requires_grad_()
    reference = dense(exact, rounded, text_targets, SCATTERED)
    assert [gradient.dtype for gradient in ours] == [torch.bfloat16, master, master]
    assert_close(values(out), values(reference))  # products are not rounded to bfloat16
    assert_close(ours, gradients(reference, weights, [exact, *rounded.parameters()]), tolerance=1e-2)


def test_autocast_computes_in_its_dtype_and_keeps_float32_gradients():
    hidden, text_targets, weights = make_inputs()
    head = nn.Linear(H, V)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = supervised_logits(hidden, head, text_targets, SCATTERED, max_elements=300)
        ours = gradients(out, weights, [hidden, *head.parameters()])
    rounded = supervised_logits(hidden.bfloat16(), head, text_targets, SCATTERED)
    assert all(gradient.dtype == torch.float32 for gradient in ours)
    assert_close(values(out), values(rounded))
    reference = gradients(dense(hidden, head, text_targets, SCATTERED), weights, [hidden, *head.parameters()])
    assert_close(ours, reference, tolerance=3e-2)


def test_tied_weight_collects_both_gradients():
    _, text_targets, weights = make_inputs()
    embedding, head = nn.Embedding(V, H), nn.Linear(H, V, bias=False)
    head.weight = embedding.weight
    tokens = torch.randint(V, (T + M,))
    ours = gradients(supervised_logits(embedding(tokens), head, text_targets, CONTIGUOUS), weights, [head.weight])
    assert_close(ours, gradients(dense(embedding(tokens), head, text_targets, CONTIGUOUS), weights, [head.weight]))


def test_frozen_head_never_walks_the_vocabulary_in_the_backward_pass(monkeypatch):
    hidden, text_targets, weights = make_inputs()
    head = nn.Linear(H, V).requires_grad_(False)
    out = supervised_logits(hidden, head, text_targets, CONTIGUOUS, max_elements=300)
    monkeypatch.setattr(head_module, "_logit_tiles", None)
    ours = gradients(out, weights, [hidden])
    assert_close(ours, gradients(dense(hidden, head, text_targets, CONTIGUOUS), weights, [hidden]))
    assert head.weight.grad is None


def test_trained_head_on_frozen_hidden_states():
    hidden, text_targets, weights = make_inputs()
    hidden, head = hidden.detach(), nn.Linear(H, V)
    ours = gradients(supervised_logits(hidden, head, text_targets, CONTIGUOUS), weights, [*head.parameters()])
    reference = gradients(dense(hidden, head, text_targets, CONTIGUOUS), weights, [*head.parameters()])
    assert_close(ours, reference)


def test_without_gradients():
    hidden, text_targets, _ = make_inputs()
    head = nn.Linear(H, V)
    with torch.no_grad():
        out = supervised_logits(hidden, head, text_targets, CONTIGUOUS)
    assert not any(value.requires_grad for value in values(out))
    assert_close(values(out), values(dense(hidden, head, text_targets, CONTIGUOUS)))


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest result of any operation."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("wrap", [lambda head: head, Wrapped], ids=["linear", "generic"])
def test_full_logits_are_never_built(wrap):
    vocab_size, num_rows, max_elements = 2000, 400, 2**14
    hidden = torch.randn(num_rows, H, requires_grad=True)
    head = nn.Linear(H, vocab_size, bias=False)
    with LargestTensor() as largest:
        out = supervised_logits(
            hidden, wrap(head), torch.randint(vocab_size, (300,)), torch.arange(10), max_elements=max_elements
        )
        (out.text_nll.sum() + out.coord_gate.sum()).backward()
    assert largest.numel <= max(max_elements, head.weight.numel()) < num_rows * vocab_size / 10


def lora_head():
    """A LoRA layer on a head, with dropout off and B not zero."""
    model = nn.ModuleDict({"lm_head": nn.Linear(H, V, bias=False)})
    layer = peft.get_peft_model(model, peft.LoraConfig(target_modules=["lm_head"], r=4)).base_model.model["lm_head"]
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer


def row_trained_head(row_ids=SCATTERED):
    """PEFT's trainable tokens on a head, moved away from their initial values."""
    model = nn.ModuleDict({"lm_head": nn.Linear(H, V, bias=False)})
    config = peft.TrainableTokensConfig(target_modules=["lm_head"], token_indices=row_ids.tolist())
    layer = peft.get_peft_model(model, config).base_model.model["lm_head"]
    nn.init.normal_(layer.trainable_tokens_delta["default"])
    return layer


def trainable(module):
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("max_elements", CHUNKS)
@pytest.mark.parametrize("with_gate", [True, False])
@pytest.mark.parametrize(
    "make_head",
    [
        lora_head,
        row_trained_head,  # exactly the coordinate rows are trained
        lambda: row_trained_head(CONTIGUOUS[:7]),  # only some of them
        lambda: row_trained_head(torch.tensor([0, V - 1])),  # none of them
    ],
    ids=["lora", "all rows", "some rows", "other rows"],
)
def test_adapters_on_the_head(make_head, with_gate, max_elements):
    hidden, text_targets, weights = make_inputs()
    text_targets[:2] = torch.tensor([80, V - 1])  # a trained row as text target
    head = make_head()
    inputs = [hidden, *trainable(head)]
    assert 0 < sum(parameter.numel() for parameter in inputs[1:]) < V * H
    out = supervised_logits(hidden, head, text_targets, SCATTERED, with_gate, max_elements)
    reference = dense(hidden, head, text_targets, SCATTERED)
    if not with_gate:
        reference.coord_gate = torch.zeros(M)
    assert_close(values(out), values(reference))
    assert_close(gradients(out, weights, inputs), gradients(reference, weights, inputs))


def test_trained_rows_take_the_fast_path_and_a_disabled_adapter_does_not(monkeypatch):
    hidden, text_targets, _ = make_inputs()
    head = row_trained_head()
    head.enable_adapters(False)
    disabled = supervised_logits(hidden, head, text_targets, SCATTERED)
    assert_close(values(disabled), values(dense(hidden, head.base_layer, text_targets, SCATTERED)))
    head.enable_adapters(True)
    monkeypatch.setattr(head_module, "_generic_head", None)
    assert_close(
        values(supervised_logits(hidden, head, text_targets, SCATTERED)),
        values(dense(hidden, head, text_targets, SCATTERED)),
    )


@pytest.mark.parametrize("autocast", [True, False])
def test_trained_rows_in_bfloat16(autocast):
    hidden, text_targets, weights = make_inputs()
    head = row_trained_head().bfloat16()
    dtype = torch.float32 if autocast else torch.bfloat16
    hidden = hidden.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        out = supervised_logits(hidden, head, text_targets, SCATTERED)
    ours = gradients(out, weights, [hidden, *trainable(head)])
    exact_head, exact = copy.deepcopy(head).double(), hidden.detach().double().requires_grad_()
    reference = dense(exact, exact_head, text_targets, SCATTERED)
    assert [gradient.dtype for gradient in ours] == [dtype, torch.bfloat16]
    assert_close(values(out), values(reference), tolerance=1e-2)
    assert_close(ours, gradients(reference, weights, [exact, *trainable(exact_head)]), tolerance=2e-2)


@pytest.mark.parametrize("with_gate", [True, False])
@pytest.mark.parametrize("counts", [(0, 0), (0, M), (T, 0)], ids=["no rows", "no text", "no slots"])
@pytest.mark.parametrize(
    "make_head",
    [lambda: nn.Linear(H, V), lambda: Wrapped(nn.Linear(H, V)), lora_head, row_trained_head],
    ids=["linear", "generic", "lora", "trained rows"],
)
def test_empty_parts_are_connected_zeros(make_head, counts, with_gate):
    hidden, text_targets, _ = make_inputs(num_text=counts[0], num_slots=counts[1])
    head = make_head()
    out = supervised_logits(hidden, head, text_targets, CONTIGUOUS, with_gate)
    assert [tuple(value.shape) for value in values(out)] == [counts[:1], (counts[1], K), counts[1:]]
    (out.text_nll.sum() * 0 + out.coord_logits.sum() * 0 + out.coord_gate.sum() * 0).backward()
    for tensor in [hidden, *trainable(head)]:
        assert tensor.grad is not None and tensor.grad.shape == tensor.shape and not tensor.grad.any()


@pytest.mark.parametrize("wrap", [lambda head: head, Wrapped], ids=["linear", "generic"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_hidden_states_do_not_raise(wrap, bad):
    hidden, text_targets, weights = make_inputs()
    hidden.data[0, 0] = hidden.data[T, 3] = bad
    head = nn.Linear(H, V)
    out = supervised_logits(hidden, wrap(head), text_targets, CONTIGUOUS)
    gradients(out, weights, [hidden, *head.parameters()])
    assert not out.text_nll[0].isfinite() and not out.coord_logits[0].isfinite().all()
    assert out.text_nll[1:].isfinite().all() and out.coord_gate[1:].isfinite().all()  # other rows are untouched


def test_a_target_outside_the_vocabulary_is_nan():
    hidden, text_targets, _ = make_inputs()
    text_targets[1], text_targets[3] = -100, V
    text_nll = supervised_logits(hidden, nn.Linear(H, V), text_targets, CONTIGUOUS).text_nll
    assert text_nll.isnan().tolist() == [False, True, False, True, False]


def test_extreme_logits_stay_finite():
    hidden, text_targets, weights = make_inputs()
    head = nn.Linear(H, V)
    head.weight.data.mul_(1e4)
    head.bias.data[:10] = -torch.inf  # tokens that are ruled out, a whole tile of them
    text_targets.clamp_(min=10)
    out = supervised_logits(hidden, head, text_targets, CONTIGUOUS, max_elements=100)
    assert all(value.isfinite().all() for value in values(out))
    assert all(gradient.isfinite().all() for gradient in gradients(out, weights, [hidden, *head.parameters()]))


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_sharded_weight_gets_a_sharded_gradient(process_group):
    hidden, text_targets, weights = make_inputs()
    plain = nn.Linear(H, V)
    mesh = dist.init_device_mesh("cpu", (1,))
    sharded = nn.Linear(H, V)
    for name, parameter in plain.named_parameters():
        setattr(sharded, name, nn.Parameter(distribute_tensor(parameter.detach().clone(), mesh, [Shard(0)])))
    for head in (plain, sharded):
        weighted_sum(supervised_logits(hidden, head, text_targets, CONTIGUOUS), weights).backward()
    assert isinstance(sharded.weight.grad, DTensor) and isinstance(sharded.bias.grad, DTensor)
    assert_close([p.grad.full_tensor() for p in sharded.parameters()], [p.grad for p in plain.parameters()])


def test_zero3_ranks_call_a_generic_head_equally_often(monkeypatch):
    hidden, text_targets, weights = make_inputs()
    head = Wrapped(nn.Linear(H, V))
    reference = dense(hidden, head, text_targets, CONTIGUOUS)
    inputs = [hidden, *head.parameters()]
    expected = gradients(reference, weights, inputs)

    calls = []
    head.register_forward_hook(lambda module, args, result: calls.append(len(args[0])))
    monkeypatch.setattr(head_module, "is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr(head_module.dist, "all_reduce", lambda tensor, op: tensor.fill_(9))  # another rank has 9
    out = supervised_logits(hidden, head, text_targets, CONTIGUOUS, max_elements=V)
    assert calls == [0] + [1] * T + [0] * (9 - T) + [1] * M + [0] * (9 - M)
    assert_close(values(out), values(reference))
    calls.clear()
    assert_close(gradients(out, weights, inputs), expected)
    assert len(calls) == 18  # recomputed in the backward pass
