# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Options that both stages share."""

import math
from dataclasses import dataclass, field
from typing import Any

from coordexp_trl.generation import DEFAULT_PROMPT, SamplingConfig
from coordexp_trl.models import MODULE_PATTERNS
from coordexp_trl.protocols import PROTOCOLS
from coordexp_trl.sequences import GEOMETRIES

TOO_LONG_POLICIES = ("error", "drop")
DICT_OPTIONS = ["chat_template_kwargs", "learning_rates", "weight_decays"]  # JSON on the command line


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises a `ValueError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known. Choose one of {', '.join(map(repr, allowed))}.")


@dataclass
class DetectionConfig:
    r"""
    Options of every trainer of this package; a mixin for subclasses of [`~transformers.TrainingArguments`].

    Parameters:
        > Parameters that control the model

        freeze (`list[str]`, *optional*, defaults to `[]`):
            Parts that do not learn: `"vision_tower"`, `"projector"`, `"language_model"`, or regular expressions
            searched in parameter names.
        coord_rows (`bool`, *optional*, defaults to `False`):
            Whether only the rows of the coordinate tokens learn in embedding and head, beside LoRA, or alone where
            there is no `peft_config`. They are saved in the adapter.
        learning_rates (`dict[str, float]`, *optional*):
            Learning rates of parts of the model where they differ from `learning_rate`: `"vision_tower"`,
            `"projector"`, `"language_model"`, `"coord_embed_rows"`, `"coord_head_rows"` (a tied head has the rows of
            the embedding).
        weight_decays (`dict[str, float]`, *optional*):
            Weight decays of parts of the model where they differ from `weight_decay`.

        > Parameters that control the data

        prompt (`str`, *optional*):
            Instruction that follows the image.
        system_prompt (`str`, *optional*):
            System message; none by default.
        protocol (`str`, *optional*, defaults to `"tags"`):
            Text form of an object set: `"tags"`, `"json"`, or the name of another one in
            `coordexp_trl.protocols.PROTOCOLS`.
        geometry (`str`, *optional*, defaults to `"box"`):
            `"box"` writes every object as a box, a polygon as its enclosing one; `"native"` writes polygons as such.
        min_pixels (`int`, *optional*):
            Images with a smaller area are enlarged; the processor's own limit by default.
        max_pixels (`int`, *optional*):
            Images with a larger area are reduced; the processor's own limit by default.
        max_length (`int`, *optional*):
            Most tokens of prompt and completion together; the model's number of positions by default. Nothing is ever
            cut to it.
        too_long (`str`, *optional*, defaults to `"error"`):
            What happens to training records whose prompt and ground truth exceed `max_length`: `"error"` lists them
            and stops before training begins, `"drop"` lists them and leaves them out.
        chat_template_kwargs (`dict[str, Any]`, *optional*):
            Passed to `apply_chat_template`.

        > Parameters that control the losses

        coord_ce_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the cross-entropy of the target bin among the coordinate tokens.
        coord_soft_ce_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the cross-entropy against a Gaussian around the target bin.
        coord_w1_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the Wasserstein-1 distance to that Gaussian.
        coord_gate_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the gate, −log P(any coordinate token) at coordinate slots. Without it other tokens leak into
            slots.
        coord_entropy_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the entropy of the distribution over the coordinate tokens.
        coord_sigma (`float`, *optional*, defaults to `2.0`):
            Width of the Gaussian target, in bins.

        > Parameters that control rollouts and evaluation

        max_completion_length (`int`, *optional*, defaults to `1024`):
            Most tokens of a rollout.
        repetition_penalty (`float`, *optional*, defaults to `1.0`):
            Values above 1 also penalise coordinates that boxes share.
        ds3_gather_for_generation (`bool`, *optional*, defaults to `True`):
            Whether DeepSpeed ZeRO-3 gathers the weights for generation.
        eval_iou_threshold (`float`, *optional*, defaults to `0.5`):
            IoU from which a prediction of the right description counts in `eval_f1`, `eval_precision`, `eval_recall`.

        > Parameters that control logging

        log_overlays (`int`, *optional*, defaults to `4`):
            Number of evaluation images, the first ones, that every evaluation sends to TensorBoard, W&B and trackio
            (those of them in `report_to`) with ground truth and predictions drawn in; `0` sends none.

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]:
    > - `remove_unused_columns`: Defaults to `False` instead of `True`; records are consumed whole.
    > - `metric_for_best_model`: Where one is needed, `"f1"` instead of `"loss"`; evaluation rolls out and has no loss.
    """

    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Records are consumed whole; must stay False."}
    )

    # Parameters that control the model
    freeze: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Parts that do not learn: vision_tower, projector, language_model, or regular expressions "
            "searched in parameter names."
        },
    )

    coord_rows: bool = field(
        default=False,
        metadata={
            "help": "Whether, with LoRA or alone, the rows of the coordinate tokens in embedding and head learn too."
        },
    )
    learning_rates: dict[str, float] | str | None = field(
        default=None, metadata={"help": "Learning rates of parts of the model, such as {'vision_tower': 2e-6}."}
    )
    weight_decays: dict[str, float] | str | None = field(
        default=None, metadata={"help": "Weight decays of parts of the model, such as {'coord_embed_rows': 0.0}."}
    )

    # Parameters that control the data
    prompt: str = field(default=DEFAULT_PROMPT, metadata={"help": "Instruction that follows the image."})
    system_prompt: str | None = field(default=None, metadata={"help": "System message; none by default."})
    protocol: str = field(default="tags", metadata={"help": "Text form of an object set: tags or json."})
    geometry: str = field(
        default="box", metadata={"help": "How objects with a polygon are written: box (the enclosing one) or native."}
    )
    min_pixels: int | None = field(default=None, metadata={"help": "Images with a smaller area are enlarged."})
    max_pixels: int | None = field(default=None, metadata={"help": "Images with a larger area are reduced."})
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of prompt and completion; the model's number of positions by default."},
    )
    too_long: str = field(
        default="error",
        metadata={"help": "What happens to training records that exceed max_length: error or drop."},
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Additional keyword arguments for `apply_chat_template`."}
    )

    # Parameters that control the losses
    coord_ce_weight: float = field(default=1.0, metadata={"help": "Weight of the bins' cross-entropy."})
    coord_soft_ce_weight: float = field(default=1.0, metadata={"help": "Weight of the soft cross-entropy."})
    coord_w1_weight: float = field(default=0.0, metadata={"help": "Weight of the Wasserstein-1 distance."})
    coord_gate_weight: float = field(default=1.0, metadata={"help": "Weight of the gate."})
    coord_entropy_weight: float = field(default=0.0, metadata={"help": "Weight of the entropy."})
    coord_sigma: float = field(default=2.0, metadata={"help": "Width of the Gaussian target, in bins."})

    # Parameters that control rollouts and evaluation
    max_completion_length: int = field(default=1024, metadata={"help": "Most tokens of a rollout."})
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Values above 1 also penalise coordinates that boxes share."}
    )
    ds3_gather_for_generation: bool = field(
        default=True, metadata={"help": "Whether DeepSpeed ZeRO-3 gathers the weights for generation."}
    )
    eval_iou_threshold: float = field(default=0.5, metadata={"help": "IoU of a true positive in evaluation."})

    # Parameters that control logging
    log_overlays: int = field(
        default=4, metadata={"help": "Evaluation images that are drawn for the trackers in report_to; 0 for none."}
    )

    def __post_init__(self):
        needs_metric = self.load_best_model_at_end or self.save_strategy == "best"
        needs_metric |= self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        if needs_metric and self.metric_for_best_model is None:
            self.metric_for_best_model = "f1"  # there is no evaluation loss
        super().__post_init__()
        check_choice("protocol", self.protocol, tuple(PROTOCOLS))
        check_choice("geometry", self.geometry, GEOMETRIES)
        check_choice("too_long", self.too_long, TOO_LONG_POLICIES)
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would drop the records. Leave it False.")
        for name, value in vars(self).items():
            if name.endswith(("_weight", "_weight_end")) and value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or greater, got {value}.")
        for name in ("coord_sigma", "max_length"):
            self._check_positive(name)
        if not 0 < self.eval_iou_threshold <= 1:
            raise ValueError(f"eval_iou_threshold must be in (0, 1], got {self.eval_iou_threshold}.")
        if self.log_overlays < 0:
            raise ValueError(f"log_overlays must be 0 or greater, got {self.log_overlays}.")
        self.eval_sampling_config  # noqa: B018  (refuses what cannot be decoded)
        for name in ("learning_rates", "weight_decays"):
            self._check_parts(name)

    def _check_parts(self, name: str) -> None:
        values = getattr(self, name)
        if not isinstance(values, dict | None):
            raise ValueError(f"{name}={values!r}: must map parts of the model to numbers, as {{'projector': 1e-5}}.")
        for part, value in (values or {}).items():
            if part not in MODULE_PATTERNS:
                raise ValueError(f"{name}: {part!r} is no part of the model. Parts: {', '.join(MODULE_PATTERNS)}.")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name}[{part!r}] = {value!r}: must be a finite number, 0 or greater.")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}.")

    @property
    def eval_sampling_config(self) -> SamplingConfig:
        """How evaluation decodes: greedily, keeping the log-probabilities that scores are made of."""
        return SamplingConfig(
            max_completion_length=self.max_completion_length,
            repetition_penalty=self.repetition_penalty,
            logprobs=True,
        )
