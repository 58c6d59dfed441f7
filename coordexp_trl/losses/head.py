# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
The output head at the supervised positions only, without ever holding `[positions, vocabulary]` logits.

Text rows need one number of the full vocabulary, the log-sum-exp, and the logit of their target. Coordinate rows need
the logits of the K coordinate tokens and, for the gate, the log-sum-exp. A plain linear head is therefore walked in
tiles of vocabulary rows with an online log-sum-exp. Because d lse / d hidden = softmax(logits) @ weight does not
depend on the loss, it is accumulated in the same walk (as flash attention accumulates its values): a frozen head costs
two matrix products instead of three and its backward touches the coordinate and target rows only. A trained head is
walked once more in the backward pass, and every tile of its gradient is written exactly once. A frozen head with some
trained rows (PEFT's trainable tokens) is a frozen head without those rows and a small dense head of those rows. Any
other head (a LoRA layer, a quantised layer) is called on chunks of rows under activation checkpointing.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

MAX_ELEMENTS = 2**24


@dataclass
class HeadOutput:
    """
    What the losses need of the head.

    Args:
        text_nll (`torch.Tensor`):
            Negative log-likelihood of each text target over the full vocabulary, shape `(T,)`, float32.
        coord_logits (`torch.Tensor`):
            Logits of the K coordinate tokens at each coordinate slot, shape `(M, K)`, float32.
        coord_gate (`torch.Tensor`):
            -log P(coordinate tokens | full vocabulary) at each slot, shape `(M,)`, float32; zeros without the gate.
    """

    text_nll: torch.Tensor
    coord_logits: torch.Tensor
    coord_gate: torch.Tensor


def supervised_logits(
    hidden: torch.Tensor,
    head: nn.Module,
    text_targets: torch.Tensor,
    coord_ids: torch.Tensor,
    with_gate: bool = True,
    max_elements: int = MAX_ELEMENTS,
) -> HeadOutput:
    """
    Apply the output head to hidden states gathered at the supervised positions.

    Every output is connected to `hidden` and to the head's parameters, also when there are no rows at all: an empty
    batch gives zero gradients, so that all ranks run the same collectives. Products are taken in the dtype of `hidden`
    (or of autocast) and reduced in float32 (float64 for float64 hidden states). Non-finite hidden states give NaN, not
    an exception. Under DeepSpeed ZeRO-3 and FSDP, call it inside the model's forward.

    Args:
        hidden (`torch.Tensor`):
            Hidden states of shape `(T + M, H)`: first the T text rows, then the M coordinate slots.
        head (`torch.nn.Module`):
            The model's output embedding, mapping `(rows, H)` to `(rows, vocabulary)`. A plain `torch.nn.Linear` and
            PEFT's trainable tokens on a frozen one take the fast path.
        text_targets (`torch.Tensor`):
            Token ids of the text targets, shape `(T,)`.
        coord_ids (`torch.Tensor`):
            Token ids of the K coordinate tokens in bin order, shape `(K,)`, all distinct.
        with_gate (`bool`, *optional*, defaults to `True`):
            Whether to compute the gate. Without it the coordinate slots skip the full vocabulary on the fast path.
        max_elements (`int`, *optional*, defaults to `2**24`):
            Largest number of scratch elements (a tile of logits and of the head's weight) held at once.

    Returns:
        [`HeadOutput`]: per-row terms, unreduced.
    """
    num_text = text_targets.numel()
    assert num_text <= hidden.shape[0], f"{num_text} text targets for {hidden.shape[0]} rows"
    num_full = hidden.shape[0] if with_gate else num_text
    if isinstance(head, TrainableTokensWrapper):  # trained rows beside LoRA
        head = head.token_adapter
    if type(head) is nn.Linear:
        terms = _linear_head(hidden, head.weight, head.bias, text_targets, coord_ids, num_full, max_elements)
    elif _is_frozen_with_trained_rows(head):
        terms = _row_trained_head(hidden, head, text_targets, coord_ids, num_full, max_elements)
    else:
        return _generic_head(hidden, head, text_targets, coord_ids, with_gate, max_elements)
    lse, target_logits, coord_logits = terms
    gate = lse[num_text:] - coord_logits.logsumexp(-1) if with_gate else lse.new_zeros(coord_logits.shape[0])
    return HeadOutput(lse[:num_text] - target_logits, coord_logits, gate)


def _linear_head(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    coord_ids: torch.Tensor,
    num_full: int,
    max_elements: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # One all-gather for all tiles; its backward reduce-scatters the gradient.
    weight, bias = _full_tensor(weight), _full_tensor(bias)
    device = weight.device
    autocast = torch.is_autocast_enabled(device.type)
    hidden = hidden.to(device, torch.get_autocast_dtype(device.type) if autocast else hidden.dtype)
    needs_hidden_grad = hidden.requires_grad and torch.is_grad_enabled()
    return _LinearHead.apply(
        hidden, weight, bias, targets.to(device), coord_ids.to(device), num_full, max_elements, needs_hidden_grad
    )


class _LinearHead(torch.autograd.Function):
    """
    Log-sum-exp over the vocabulary of the first `num_full` rows, the text rows' target logits and the remaining rows'
    coordinate logits of a linear head. Not differentiable twice.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: torch.Tensor,  # [N, H]
        weight: torch.Tensor,  # [V, H]
        bias: torch.Tensor | None,  # [V]
        targets: torch.Tensor,  # [T]
        coord_ids: torch.Tensor,  # [K]
        num_full: int,  # R: the rows that need the full vocabulary
        max_elements: int,
        needs_hidden_grad: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        ctx.max_elements = max_elements
        num_text, dtype = targets.shape[0], torch.promote_types(hidden.dtype, torch.float32)
        rows = hidden[:num_full]
        running_max = rows.new_full((num_full,), torch.finfo(dtype).min, dtype=dtype)
        total = torch.zeros_like(running_max)
        # A target outside the vocabulary is found in no tile: NaN, which the caller sees without a device sync.
        target_logits = rows.new_full((num_text,), torch.nan, dtype=dtype)
        mean_weight = torch.zeros_like(rows, dtype=dtype) if needs_hidden_grad else None  # softmax(logits) @ weight

        with torch.autocast(hidden.device.type, enabled=False), _gathered(weight, bias):
            for columns, tile, logits in _logit_tiles(rows, weight, bias, max_elements):
                local, inside = _local_targets(targets, columns)
                picked = logits[:num_text].gather(1, local[:, None])[:, 0]
                target_logits = torch.where(inside, picked, target_logits)
                new_max = torch.maximum(running_max, logits.amax(-1))
                rescale = (running_max - new_max).exp_()
                running_max = new_max
                exps = logits.sub_(new_max[:, None]).exp_()
                total.mul_(rescale).add_(exps.sum(-1))
                if mean_weight is not None:
                    _add_product(mean_weight.mul_(rescale[:, None]), exps.to(tile.dtype), tile)
            coord_logits = _product(hidden[num_text:], weight[coord_ids].to(hidden.dtype).t())
            if bias is not None:
                coord_logits.add_(bias[coord_ids])

        lse = running_max + total.log()
        if mean_weight is not None:
            mean_weight.div_(total[:, None])
        ctx.save_for_backward(hidden, weight, bias, targets, coord_ids, lse, mean_weight)
        return lse, target_logits, coord_logits

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_lse, grad_target, grad_coord):
        hidden, weight, bias, targets, coord_ids, lse, mean_weight = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        num_text, num_full = targets.shape[0], lse.shape[0]
        rows, slots = hidden[:num_full], hidden[num_text:]
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if needs_hidden else None
        grad_bias = None

        with torch.autocast(hidden.device.type, enabled=False), _gathered(weight, bias):
            if needs_hidden:
                if grad_lse is not None:
                    torch.mul(mean_weight, grad_lse[:, None], out=grad_hidden[:num_full])
                if grad_target is not None:
                    # Rounded as in the forward pass, so that it cancels against `mean_weight` where p(target) is 1.
                    target_weight = weight[targets.clamp(0, weight.shape[0] - 1)].to(hidden.dtype)
                    grad_hidden[:num_text].addcmul_(grad_target[:, None], target_weight)
                if grad_coord is not None:
                    coord_weight = weight[coord_ids].to(hidden.dtype)
                    _add_product(grad_hidden[num_text:], grad_coord.to(hidden.dtype), coord_weight)
                grad_hidden = grad_hidden.to(hidden.dtype)

            grad_weight = torch.zeros_like(weight) if needs_weight else None
            grad_bias = torch.zeros_like(bias) if needs_bias else None
            if (needs_weight or needs_bias) and not (grad_lse is None and grad_target is None):
                grad_lse = torch.zeros_like(lse) if grad_lse is None else grad_lse
                grad_target = lse.new_zeros(num_text) if grad_target is None else grad_target
                for columns, _, logits in _logit_tiles(rows, weight, bias, ctx.max_elements):
                    grad_logits = logits.sub_(lse[:, None]).exp_().mul_(grad_lse[:, None])
                    local, inside = _local_targets(targets, columns)
                    grad_logits[:num_text].scatter_add_(1, local[:, None], (grad_target * inside)[:, None])
                    if needs_bias:
                        grad_bias[columns] = grad_logits.sum(0)
                    if needs_weight:
                        _add_product(grad_weight[columns], grad_logits.to(rows.dtype).t(), rows)
            if grad_coord is not None:
                if needs_bias:
                    grad_bias.index_add_(0, coord_ids, grad_coord.sum(0).to(bias.dtype))
                if needs_weight:
                    product = _product(grad_coord.to(slots.dtype).t(), slots)
                    grad_weight.index_add_(0, coord_ids, product.to(weight.dtype))
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def _logit_tiles(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, max_elements: int):
    """
    Yield tiles of vocabulary rows: their slice, the weight in the rows' dtype, and the logits in at least float32, to
    be changed in place at will: the next tile overwrites them. Nothing when there are no rows.
    """
    if not rows.shape[0]:
        return
    size = min(weight.shape[0], max(1, max_elements // sum(rows.shape)))
    buffer = rows.new_empty(rows.shape[0] * size, dtype=torch.promote_types(rows.dtype, torch.float32))
    for start in range(0, weight.shape[0], size):
        tile = weight[start : start + size].to(rows.dtype)
        columns = slice(start, start + tile.shape[0])
        logits = buffer[: rows.shape[0] * tile.shape[0]].view(rows.shape[0], -1)
        if logits.dtype == rows.dtype:
            torch.mm(rows, tile.t(), out=logits)
        else:
            logits.copy_(_product(rows, tile.t()))
        if bias is not None:
            logits.add_(bias[columns])
        yield columns, tile, logits


def _local_targets(targets: torch.Tensor, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Position of each target in the tile (clamped), and whether it lies in the tile."""
    inside = (targets >= columns.start) & (targets < columns.stop)
    return (targets - columns.start).clamp(0, columns.stop - columns.start - 1), inside


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`a @ b` in at least float32: half-precision products are not rounded to the inputs' dtype."""
    if a.dtype not in (torch.float16, torch.bfloat16):
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """`total += a @ b` in place, without a temporary where the dtypes agree."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(_product(a, b))


def _gathered(*params: torch.Tensor | None) -> AbstractContextManager:
    """Gather parameters that DeepSpeed ZeRO-3 has partitioned, for a direct access."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    from trl.trainer.utils import maybe_gather_lm_head_ctx

    return maybe_gather_lm_head_ctx(*params)


def _full_tensor(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _is_frozen_with_trained_rows(head: nn.Module) -> bool:
    if not isinstance(head, TrainableTokensLayer) or is_deepspeed_zero3_enabled():
        return False
    base_is_frozen = type(head.base_layer) is nn.Linear and not head.base_layer.weight.requires_grad
    return base_is_frozen and not head.disable_adapters and not head.merged and len(head.active_adapters) == 1


def _row_trained_head(
    hidden: torch.Tensor,
    head: TrainableTokensLayer,
    targets: torch.Tensor,
    coord_ids: torch.Tensor,
    num_full: int,
    max_elements: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[`_linear_head`] of the frozen rows, joined with the logits of the P trained rows."""
    (adapter,) = head.active_adapters
    weight = _full_tensor(head.base_layer.weight)
    device, num_text = weight.device, targets.shape[0]
    hidden, targets, coord_ids = hidden.to(device), targets.to(device), coord_ids.to(device)
    rows = _full_tensor(head.trainable_tokens_delta[adapter]).to(weight.dtype)  # [P, H]
    row_ids = torch.tensor(head.token_indices[adapter], device=device)
    position = row_ids.new_full(weight.shape[:1], -1).index_copy_(0, row_ids, torch.arange(len(rows), device=device))

    without_rows = torch.where(position >= 0, -torch.inf, 0.0)  # PEFT's layer ignores the bias of a linear layer
    lse, target_logits, coord_logits = _linear_head(
        hidden, weight, without_rows, targets, coord_ids, num_full, max_elements
    )
    with torch.autocast(device.type, enabled=False):
        row_logits = hidden.to(lse.dtype) @ rows.to(lse.dtype).t()  # [N, P]

    def join(frozen, trained, columns):  # [R, C], [R, P], [R, C]
        return torch.where(columns >= 0, trained.gather(1, columns.clamp(min=0)), frozen)

    lse = torch.logaddexp(lse, row_logits[:num_full].logsumexp(-1))
    target_logits = join(target_logits[:, None], row_logits[:num_text], position[targets][:, None])[:, 0]
    coord_logits = join(coord_logits, row_logits[num_text:], position[coord_ids].expand_as(coord_logits))
    return lse, target_logits, coord_logits


def _generic_head(
    hidden: torch.Tensor,
    head: nn.Module,
    text_targets: torch.Tensor,
    coord_ids: torch.Tensor,
    with_gate: bool,
    max_elements: int,
) -> HeadOutput:
    """[`supervised_logits`] for any callable head: row chunks whose logits are recomputed in the backward pass."""
    num_text = text_targets.numel()
    text_targets, coord_ids = text_targets.to(hidden.device), coord_ids.to(hidden.device)
    with torch.no_grad():
        vocab_size = head(hidden[:0]).shape[-1]
    chunk = max(1, max_elements // vocab_size)

    def text_terms(rows, targets):
        return F.cross_entropy(_at_least_float32(head(rows)), targets, reduction="none")

    def slot_terms(rows):
        logits = head(rows)
        coord_logits = _at_least_float32(logits[:, coord_ids])
        if not with_gate:
            return coord_logits, coord_logits.new_zeros(rows.shape[0])
        return coord_logits, _at_least_float32(logits).logsumexp(-1) - coord_logits.logsumexp(-1)

    def run(function, *tensors):
        chunks = [_row_chunks(tensor, chunk) for tensor in tensors]
        return [checkpoint(function, *parts, use_reentrant=False) for parts in zip(*chunks, strict=True)]

    text_nll = torch.cat(run(text_terms, hidden[:num_text], text_targets))
    coord_logits, gate = (torch.cat(parts) for parts in zip(*run(slot_terms, hidden[num_text:]), strict=True))
    return HeadOutput(text_nll, coord_logits, gate)


def _row_chunks(tensor: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Chunks of rows, at least one. ZeRO-3 gathers at every call of the head, so all ranks make as many calls."""
    chunks = list(tensor.split(size))
    if is_deepspeed_zero3_enabled():
        count = torch.tensor(len(chunks), device=tensor.device)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        chunks += [tensor[:0]] * (int(count) - len(chunks))
    return chunks


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
