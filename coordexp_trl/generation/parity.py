# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Does a rollout engine with a copy of the model write what the model in training would?

A stale weight, a twice-expanded image or another position encoding leaves the text plausible and shifts the boxes. The
probe runs the model in training over the engine's greedy tokens and compares, token by token, what it would have
chosen. Up to the first difference that is what its own greedy decoding gives, and beyond it every token still counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import torch
from transformers import PreTrainedModel

from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.generation.base import Rollout
from coordexp_trl.generation.prompts import Prompt
from coordexp_trl.models import backbone

MIN_AGREEMENT = 0.9  # of text tokens; two dtypes may disagree on a few near ties
HEAD_ROWS = 128  # positions whose full-vocabulary logits exist at the same time


@dataclass
class Parity:
    """
    How an engine's greedy completions compare with the model's own choices.

    Attributes:
        bins (`float`):
            Mean distance of the chosen bins, where both wrote a coordinate; NaN where nothing could be compared.
        agreement (`float`):
            Share of equal choices among all other tokens, the end included.
        first_difference (`tuple[int, int]`, *optional*):
            Prompt and position of the first differing token; `None` if there is none.
    """

    bins: float
    agreement: float
    first_difference: tuple[int, int] | None = None

    def acceptable(self, max_bins: float) -> bool:
        """Whether both agree as well as different arithmetic can explain."""
        return not self.bins > max_bins and self.agreement >= MIN_AGREEMENT


@torch.no_grad()
def model_choices(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    rollouts: Sequence[Rollout],
    image_token_id: int,
    suppress_tokens: Sequence[int],
) -> list[list[int]]:
    """
    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model in training.
        prompts (`Sequence[Prompt]`):
            Prompts.
        rollouts (`Sequence[Rollout]`):
            One completion a prompt.
        image_token_id (`int`):
            Image placeholder.
        suppress_tokens (`Sequence[int]`):
            Tokens that are never chosen.

    Returns:
        `list[list[int]]`: For each completion the likeliest token at each of its positions, given the tokens before
        it, and the likeliest one after its last.
    """
    head, device = model.get_output_embeddings(), model.device
    choices = []
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        input_ids = torch.tensor([prompt.ids + rollout.completion_ids], device=device)
        hidden = backbone(model)(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            mm_token_type_ids=(input_ids == image_token_id).int(),
            pixel_values=prompt.pixel_values.to(device),
            image_grid_thw=prompt.image_grid_thw.to(device),
            use_cache=False,
        ).last_hidden_state[0, len(prompt.ids) - 1 :]
        chosen = []
        for rows in hidden.split(HEAD_ROWS):
            logits = head(rows)
            logits[:, list(suppress_tokens)] = -torch.inf
            chosen += logits.argmax(-1).tolist()
        choices.append(chosen)
    return choices


def compare(
    rollouts: Sequence[Rollout],
    choices: Sequence[Sequence[int]],
    vocabulary: CoordVocabulary,
    eos_token_ids: Sequence[int],
) -> Parity:
    """
    Args:
        rollouts (`Sequence[Rollout]`):
            The engine's greedy completions.
        choices (`Sequence[Sequence[int]]`):
            See [`model_choices`].
        vocabulary ([`CoordVocabulary`]):
            Coordinate tokens.
        eos_token_ids (`Sequence[int]`):
            Tokens that end a completion; they count as equal.

    Returns:
        [`Parity`]: The comparison.
    """
    distances, equal, first = [], [], None
    for index, (rollout, chosen) in enumerate(zip(rollouts, choices, strict=True)):
        written = [*rollout.completion_ids, *eos_token_ids[: rollout.finish_reason == "stop"]]
        for position, (ours, theirs) in enumerate(zip(chosen, written, strict=False)):
            if ours in eos_token_ids:
                ours = eos_token_ids[0]
            bins = vocabulary.to_bin(ours), vocabulary.to_bin(theirs)
            if None in bins:
                equal.append(ours == theirs)
            else:
                distances.append(abs(bins[0] - bins[1]))
            if first is None and ours != theirs:
                first = (index, position)
    return Parity(
        bins=sum(distances) / len(distances) if distances else nan,
        agreement=sum(equal) / len(equal) if equal else 1.0,
        first_difference=first,
    )


def require_parity(parity: Parity, max_bins: float, places: Sequence[str]) -> None:
    """
    Args:
        parity ([`Parity`]):
            The comparison.
        max_bins (`float`):
            Largest acceptable mean distance.
        places (`Sequence[str]`):
            Where each prompt's record was read, for the message.

    Raises:
        `ValueError`: If the engine does not write what the model would; lists likely causes.
    """
    if parity.acceptable(max_bins):
        return
    index, position = parity.first_difference
    raise ValueError(
        "vLLM does not write what the model in training would: over the same tokens their coordinates differ by "
        f"{parity.bins:.1f} bins on average (parity_max_bins={max_bins:g}) and {parity.agreement:.1%} of the other "
        f"tokens agree (at least {MIN_AGREEMENT:.0%} must); the first difference is token {position} of the "
        f"completion for {places[index]}. Likely causes, the commonest first: the server serves another checkpoint "
        "than the one that is trained; vLLM's weights are older than the model's (a transfer failed); vLLM resizes "
        "images in its own way (vllm_mm_processor_kwargs, --mm-processor-kwargs); this vLLM version computes "
        "positions or the vision tower differently; the dtypes differ very much (vllm_dtype, --dtype). "
        "parity_check_steps=-1 turns this check off."
    )
