# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Configuration of Stage-2."""

import math
from dataclasses import dataclass, field
from typing import Any

from trl.trainer.base_config import _BaseConfig

from coordexp_trl.generation import DEFAULT_PROMPT, SamplingConfig
from coordexp_trl.losses.terms import LossConfig
from coordexp_trl.matching import MatchingConfig
from coordexp_trl.sequences import EXTRA_POLICIES, MODES


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known. Choose one of {', '.join(map(repr, allowed))}.")


@dataclass
class CoordExpStage2Config(_BaseConfig):
    r"""
    Configuration class for the [`CoordExpStage2Trainer`].

    Extends [`~transformers.TrainingArguments`] with the options of training on the model's own, matched predictions.
    Options that TRL's online trainers have keep TRL's names. Using [`~transformers.HfArgumentParser`] this class turns
    into command-line arguments.

    Parameters:
        > Parameters that control the model

        model_init_kwargs (`str` or `dict[str, Any]`, *optional*):
            Keyword arguments for `from_pretrained`, used when the `model` argument of the trainer is a string.
        disable_dropout (`bool`, *optional*, defaults to `False`):
            Whether to disable dropout in the model.
        freeze (`list[str]`, *optional*, defaults to `[]`):
            Parts that do not learn: `"vision_tower"`, `"projector"`, `"language_model"`, or regular expressions
            searched in parameter names. With tower and projector frozen each image's features are computed once a
            generation and shared by the rollout and the forwards.

        > Parameters that control the data

        prompt (`str`, *optional*):
            Instruction that follows the image.
        system_prompt (`str`, *optional*):
            System message; none by default.
        protocol (`str`, *optional*, defaults to `"tags"`):
            Text form of an object set: `"tags"` or `"json"`.
        min_pixels (`int`, *optional*):
            Images with a smaller area are enlarged; the processor's own limit by default.
        max_pixels (`int`, *optional*):
            Images with a larger area are reduced; the processor's own limit by default.
        max_length (`int`, *optional*):
            Most tokens of prompt and completion together; the model's number of positions by default. A record that
            cannot fit is an error before training begins.
        shuffle_dataset (`bool`, *optional*, defaults to `True`):
            Whether to shuffle the training set each epoch.
        chat_template_kwargs (`dict[str, Any]`, *optional*):
            Passed to `apply_chat_template`.

        > Parameters that control generation

        max_completion_length (`int`, *optional*, defaults to `1024`):
            Most tokens of a rollout.
        num_generations (`int`, *optional*, defaults to `1`):
            Rollouts per image. `per_device_train_batch_size` counts images.
        temperature (`float`, *optional*, defaults to `0.0`):
            Sampling temperature of training rollouts; `0` decodes greedily. Evaluation is always greedy.
        top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus mass.
        top_k (`int`, *optional*, defaults to `0`):
            Number of candidates; `0` keeps all.
        min_p (`float`, *optional*):
            Smallest probability kept, relative to the likeliest token.
        repetition_penalty (`float`, *optional*, defaults to `1.0`):
            Values above 1 also penalise coordinates that boxes share.
        num_beams (`int`, *optional*, defaults to `1`):
            Beam width of training rollouts.
        generation_kwargs (`dict[str, Any]`, *optional*):
            Passed to [`~transformers.GenerationConfig`]; they override the options above.
        steps_per_generation (`int`, *optional*):
            Micro-steps served by one generation, a multiple of `gradient_accumulation_steps` (its default).
        ds3_gather_for_generation (`bool`, *optional*, defaults to `True`):
            Whether DeepSpeed ZeRO-3 gathers the weights for generation.

        > Parameters that control matching and supervision

        match_min_iou (`float`, *optional*, defaults to `0.3`):
            Pairs with a smaller IoU are never matched.
        match_l1_weight (`float`, *optional*, defaults to `5.0`):
            Weight of the box distance in the matching cost.
        match_giou_weight (`float`, *optional*, defaults to `2.0`):
            Weight of 1 − GIoU in the matching cost.
        match_desc_weight (`float`, *optional*, defaults to `1.0`):
            Cost of a pair whose descriptions differ.
        mode (`str`, *optional*, defaults to `"two_sequence"`):
            What a rollout becomes: `"two_sequence"`, `"appended"` or `"expert"`, see [`SequenceBuilder`].
        eos_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the end token. Lower values let rollouts grow and cost precision.
        self_context_coord_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the coordinate terms at matched slots of the rollout; `0` leaves geometry alone there.
        own_token_weight (`float`, *optional*, defaults to `0.5`):
            Weight of the expert's labels on the rollout's own text (`mode="expert"`).
        extra_policy (`str`, *optional*, defaults to `"expert"`):
            `"expert"` or `"neutral"`: what is asked of unmatched predictions (`mode="expert"`).

        > Parameters that control the losses

        text_weight (`float`, *optional*, defaults to `1.0`):
            Cross-entropy of text tokens.
        coord_ce_weight (`float`, *optional*, defaults to `1.0`):
            Cross-entropy of the target bin among the coordinate tokens.
        coord_soft_ce_weight (`float`, *optional*, defaults to `1.0`):
            Cross-entropy against a Gaussian around the target bin.
        coord_w1_weight (`float`, *optional*, defaults to `0.0`):
            Wasserstein-1 distance to that Gaussian.
        coord_gate_weight (`float`, *optional*, defaults to `1.0`):
            −log P(any coordinate token) at coordinate slots. Without it other tokens leak into slots.
        coord_gate_weight_end (`float`, *optional*):
            If set, the gate's weight moves linearly to this value over the run.
        coord_entropy_weight (`float`, *optional*, defaults to `0.0`):
            Entropy of the coordinate distribution.
        bbox_l1_weight (`float`, *optional*, defaults to `5.0`):
            L1 distance of expectation-decoded matched boxes, summed over the four coordinates.
        bbox_iou_weight (`float`, *optional*, defaults to `2.0`):
            1 − GIoU (or CIoU) of expectation-decoded matched boxes.
        iou_loss (`str`, *optional*, defaults to `"giou"`):
            `"giou"` or `"ciou"`.
        coord_sigma (`float`, *optional*, defaults to `2.0`):
            Width of the Gaussian target, in bins.
        coord_temperature (`float`, *optional*, defaults to `1.0`):
            Softmax temperature of the expectation.
        coord_temperature_end (`float`, *optional*):
            If set, the temperature moves linearly to this value over the run.
        coord_top_k (`int`, *optional*):
            Number of likeliest bins in the expectation; all by default.

        > Parameters that control evaluation and logging

        eval_iou_threshold (`float`, *optional*, defaults to `0.5`):
            IoU from which a prediction of the right description counts in `eval_f1`, `eval_precision`, `eval_recall`.
        log_completions (`bool`, *optional*, defaults to `False`):
            Whether to print a sample of completions at every log, and write it under `completions/`.
        num_completions_to_print (`int`, *optional*):
            Number of completions to print; all of the last generation by default.

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]:
    > - `learning_rate`: Defaults to `1e-5` instead of `5e-5`.
    > - `logging_steps`: Defaults to `10` instead of `500`.
    > - `gradient_checkpointing`: Defaults to `True` instead of `False`.
    > - `bf16`: Defaults to `True` if `fp16` is not set, instead of `False`.
    > - `metric_for_best_model`: Where one is needed, defaults to `"f1"` instead of `"loss"`.
    """

    _VALID_DICT_FIELDS = _BaseConfig._VALID_DICT_FIELDS + [
        "model_init_kwargs",
        "generation_kwargs",
        "chat_template_kwargs",
    ]

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate for AdamW."})
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Records are consumed whole; must stay False."}
    )

    # Parameters that control the model
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Keyword arguments for `from_pretrained` when the model is given as a string."},
    )
    disable_dropout: bool = field(default=False, metadata={"help": "Whether to disable dropout in the model."})
    freeze: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Parts that do not learn: vision_tower, projector, language_model, or regular expressions "
            "searched in parameter names."
        },
    )

    # Parameters that control the data
    prompt: str = field(default=DEFAULT_PROMPT, metadata={"help": "Instruction that follows the image."})
    system_prompt: str | None = field(default=None, metadata={"help": "System message; none by default."})
    protocol: str = field(default="tags", metadata={"help": "Text form of an object set: tags or json."})
    min_pixels: int | None = field(default=None, metadata={"help": "Images with a smaller area are enlarged."})
    max_pixels: int | None = field(default=None, metadata={"help": "Images with a larger area are reduced."})
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of prompt and completion; the model's number of positions by default."},
    )
    shuffle_dataset: bool = field(default=True, metadata={"help": "Whether to shuffle the training set each epoch."})
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Additional keyword arguments for `apply_chat_template`."}
    )

    # Parameters that control generation
    max_completion_length: int = field(default=1024, metadata={"help": "Most tokens of a rollout."})
    num_generations: int = field(default=1, metadata={"help": "Rollouts per image."})
    temperature: float = field(default=0.0, metadata={"help": "Temperature of training rollouts; 0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus mass."})
    top_k: int = field(default=0, metadata={"help": "Number of candidates; 0 keeps all."})
    min_p: float | None = field(
        default=None, metadata={"help": "Smallest probability kept, relative to the likeliest token."}
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Values above 1 also penalise coordinates that boxes share."}
    )
    num_beams: int = field(default=1, metadata={"help": "Beam width of training rollouts."})
    generation_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Additional keyword arguments for `GenerationConfig`."}
    )
    steps_per_generation: int | None = field(
        default=None,
        metadata={"help": "Micro-steps served by one generation; gradient_accumulation_steps by default."},
    )
    ds3_gather_for_generation: bool = field(
        default=True, metadata={"help": "Whether DeepSpeed ZeRO-3 gathers the weights for generation."}
    )

    # Parameters that control matching and supervision
    match_min_iou: float = field(default=0.3, metadata={"help": "Pairs with a smaller IoU are never matched."})
    match_l1_weight: float = field(default=5.0, metadata={"help": "Weight of the box distance in the cost."})
    match_giou_weight: float = field(default=2.0, metadata={"help": "Weight of 1 - GIoU in the cost."})
    match_desc_weight: float = field(default=1.0, metadata={"help": "Cost of differing descriptions."})
    mode: str = field(
        default="two_sequence", metadata={"help": "What a rollout becomes: two_sequence, appended or expert."}
    )
    eos_weight: float = field(default=1.0, metadata={"help": "Weight of the end token."})
    self_context_coord_weight: float = field(
        default=1.0, metadata={"help": "Weight of the coordinate terms at matched slots of the rollout."}
    )
    own_token_weight: float = field(
        default=0.5, metadata={"help": "Weight of the expert's labels on the rollout's own text (mode expert)."}
    )
    extra_policy: str = field(
        default="expert", metadata={"help": "What is asked of unmatched predictions (mode expert): expert or neutral."}
    )

    # Parameters that control the losses
    text_weight: float = field(default=1.0, metadata={"help": "Weight of the text cross-entropy."})
    coord_ce_weight: float = field(default=1.0, metadata={"help": "Weight of the bins' cross-entropy."})
    coord_soft_ce_weight: float = field(default=1.0, metadata={"help": "Weight of the soft cross-entropy."})
    coord_w1_weight: float = field(default=0.0, metadata={"help": "Weight of the Wasserstein-1 distance."})
    coord_gate_weight: float = field(default=1.0, metadata={"help": "Weight of the gate."})
    coord_gate_weight_end: float | None = field(
        default=None, metadata={"help": "The gate's weight moves linearly to this value."}
    )
    coord_entropy_weight: float = field(default=0.0, metadata={"help": "Weight of the entropy."})
    bbox_l1_weight: float = field(default=5.0, metadata={"help": "Weight of the matched boxes' L1 distance."})
    bbox_iou_weight: float = field(default=2.0, metadata={"help": "Weight of the matched boxes' 1 - IoU."})
    iou_loss: str = field(default="giou", metadata={"help": "giou or ciou."})
    coord_sigma: float = field(default=2.0, metadata={"help": "Width of the Gaussian target, in bins."})
    coord_temperature: float = field(default=1.0, metadata={"help": "Softmax temperature of the expectation."})
    coord_temperature_end: float | None = field(
        default=None, metadata={"help": "The temperature moves linearly to this value."}
    )
    coord_top_k: int | None = field(default=None, metadata={"help": "Number of bins in the expectation."})

    # Parameters that control evaluation and logging
    eval_iou_threshold: float = field(default=0.5, metadata={"help": "IoU of a true positive in evaluation."})
    log_completions: bool = field(
        default=False, metadata={"help": "Whether to print a sample of completions at every log."}
    )
    num_completions_to_print: int | None = field(
        default=None, metadata={"help": "Number of completions to print; all by default."}
    )

    def __post_init__(self):
        needs_metric = self.load_best_model_at_end or self.save_strategy == "best"
        needs_metric |= self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        if needs_metric and self.metric_for_best_model is None:
            self.metric_for_best_model = "f1"  # there is no evaluation loss
        super().__post_init__()
        _choice("protocol", self.protocol, ("tags", "json"))
        _choice("mode", self.mode, MODES)
        _choice("extra_policy", self.extra_policy, EXTRA_POLICIES)
        _choice("iou_loss", self.iou_loss, ("giou", "ciou"))
        for name, value in vars(self).items():
            if name.endswith(("_weight", "_weight_end")) and value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or greater, got {value}.")
        for name in ("coord_sigma", "coord_temperature", "coord_temperature_end", "coord_top_k", "max_length"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        if not 0 <= self.match_min_iou <= 1:
            raise ValueError(f"match_min_iou must be in [0, 1], got {self.match_min_iou}.")
        if not 0 < self.eval_iou_threshold <= 1:
            raise ValueError(f"eval_iou_threshold must be in (0, 1], got {self.eval_iou_threshold}.")
        if self.steps_per_generation is None:
            self.steps_per_generation = self.gradient_accumulation_steps
        if self.steps_per_generation < 1 or self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation={self.steps_per_generation} must be a positive multiple of "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps}."
            )
        if not self.loss_config(0.0).active:
            raise ValueError("All loss weights are 0: set at least one *_weight above 0.")
        self.sampling_config  # noqa: B018  (refuses what cannot be decoded)

    @property
    def matching_config(self) -> MatchingConfig:
        """The matching options."""
        return MatchingConfig(
            min_iou=self.match_min_iou,
            l1_weight=self.match_l1_weight,
            giou_weight=self.match_giou_weight,
            desc_weight=self.match_desc_weight,
        )

    @property
    def sampling_config(self) -> SamplingConfig:
        """How training rollouts are decoded."""
        return SamplingConfig(
            max_completion_length=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            num_beams=self.num_beams,
            num_generations=self.num_generations,
            generation_kwargs=self.generation_kwargs or {},
        )

    def loss_config(self, progress: float) -> LossConfig:
        """
        The losses at a point of the run.

        Args:
            progress (`float`):
                Share of the run that is done, in [0, 1].

        Returns:
            [`LossConfig`]: Weights and shapes, schedules applied.
        """

        def scheduled(start: float, end: float | None) -> float:
            return start if end is None else start + (end - start) * progress

        return LossConfig(
            weights={
                "text": self.text_weight,
                "coord_ce": self.coord_ce_weight,
                "coord_soft_ce": self.coord_soft_ce_weight,
                "coord_w1": self.coord_w1_weight,
                "coord_gate": scheduled(self.coord_gate_weight, self.coord_gate_weight_end),
                "coord_entropy": self.coord_entropy_weight,
                "bbox_l1": self.bbox_l1_weight,
                "bbox_iou": self.bbox_iou_weight,
            },
            sigma=self.coord_sigma,
            temperature=scheduled(self.coord_temperature, self.coord_temperature_end),
            top_k=self.coord_top_k,
            iou_loss=self.iou_loss,
        )
