# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Configuration of Stage-2."""

from dataclasses import dataclass, field
from typing import Any

from trl.trainer.base_config import _BaseConfig

from coordexp_trl.generation import SamplingConfig, VLLMConfig, check_vllm_sampling
from coordexp_trl.losses.terms import LossConfig
from coordexp_trl.matching import MatchingConfig
from coordexp_trl.sequences import EXTRA_POLICIES, MISSED_ORDERS, MODES
from coordexp_trl.trainers.detection_config import DICT_OPTIONS, DetectionConfig, check_choice


@dataclass
class CoordExpStage2Config(VLLMConfig, DetectionConfig, _BaseConfig):
    r"""
    Configuration class for the [`CoordExpStage2Trainer`].

    Extends [`~transformers.TrainingArguments`], [`DetectionConfig`] and [`VLLMConfig`] with the options of training on
    the model's own, matched predictions. Options that TRL's online trainers have keep TRL's names. Using
    [`~transformers.HfArgumentParser`] this class turns into command-line arguments. With vision tower and projector
    frozen (`freeze`) each image's features are computed once a generation and shared by the rollout and the forwards.

    Parameters:
        > Parameters that control the model

        model_init_kwargs (`str` or `dict[str, Any]`, *optional*):
            Keyword arguments for `from_pretrained`, used when the `model` argument of the trainer is a string.
        disable_dropout (`bool`, *optional*, defaults to `False`):
            Whether to disable dropout in the model.

        > Parameters that control the data

        shuffle_dataset (`bool`, *optional*, defaults to `True`):
            Whether to shuffle the training set each epoch.

        > Parameters that control generation

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
        num_beams (`int`, *optional*, defaults to `1`):
            Beam width of training rollouts.
        generation_kwargs (`dict[str, Any]`, *optional*):
            Passed to [`~transformers.GenerationConfig`], or with `use_vllm` to [`~vllm.SamplingParams`]; they override
            the options above.
        steps_per_generation (`int`, *optional*):
            Micro-steps served by one generation, a multiple of `gradient_accumulation_steps` (its default).

        > Parameters that control matching and supervision

        match_min_iou (`float`, *optional*, defaults to `0.3`):
            Pairs with a smaller IoU are never matched.
        match_l1_weight (`float`, *optional*, defaults to `5.0`):
            Weight of the box distance in the matching cost.
        match_giou_weight (`float`, *optional*, defaults to `2.0`):
            Weight of 1 − GIoU in the matching cost.
        match_desc_weight (`float`, *optional*, defaults to `1.0`):
            Cost of a pair whose descriptions differ.
        match_mask_iou (`bool`, *optional*, defaults to `False`):
            Whether pairs in which there is a polygon are matched by the IoU of the masks rather than of the boxes.
        mode (`str`, *optional*, defaults to `"two_sequence"`):
            What a rollout becomes: `"two_sequence"`, `"appended"` or `"expert"`, see [`SequenceBuilder`].
        missed_order (`str`, *optional*, defaults to `"last"`):
            Where the re-ordered ground truth has missed objects: `"last"`, or in their `"canonical"` place among the
            others (`mode="two_sequence"`).
        eos_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the end token. Lower values let rollouts grow and cost precision.
        self_context_coord_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the coordinate terms at matched slots of the rollout; `0` leaves geometry alone there, and where
            the box weights are 0 too, `mode="two_sequence"` trains on the re-ordered ground truth only.
        own_token_weight (`float`, *optional*, defaults to `0.5`):
            Weight of the expert's labels on the rollout's own text (`mode="expert"`).
        extra_policy (`str`, *optional*, defaults to `"expert"`):
            `"expert"` or `"neutral"`: what is asked of unmatched predictions (`mode="expert"`).

        > Parameters that control the losses

        text_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the cross-entropy of text tokens.
        coord_gate_weight_end (`float`, *optional*):
            If set, the gate's weight moves linearly to this value over the run.
        bbox_l1_weight (`float`, *optional*, defaults to `5.0`):
            Weight of the L1 distance of expectation-decoded matched boxes, summed over the four coordinates.
        bbox_iou_weight (`float`, *optional*, defaults to `2.0`):
            Weight of 1 − GIoU (or CIoU) of expectation-decoded matched boxes.
        iou_loss (`str`, *optional*, defaults to `"giou"`):
            Which IoU `bbox_iou_weight` weights: `"giou"` or `"ciou"`.
        coord_temperature (`float`, *optional*, defaults to `1.0`):
            Softmax temperature of the expectation.
        coord_temperature_end (`float`, *optional*):
            If set, the temperature moves linearly to this value over the run.
        coord_top_k (`int`, *optional*):
            Number of likeliest bins in the expectation; all by default.

        > Parameters that control logging

        log_completions (`bool`, *optional*, defaults to `False`):
            Whether to print a sample of completions at every log, and write all of them under `completions/` and to
            W&B and trackio, where `report_to` names these.
        num_completions_to_print (`int`, *optional*):
            Number of completions to print; all of the last generation by default.

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]:
    > - `learning_rate`: Defaults to `1e-5` instead of `5e-5`.
    > - `logging_steps`: Defaults to `10` instead of `500`.
    > - `gradient_checkpointing`: Defaults to `True` instead of `False`.
    > - `bf16`: Defaults to `True` if `fp16` is not set, instead of `False`.
    """

    _VALID_DICT_FIELDS = _BaseConfig._VALID_DICT_FIELDS + [
        *DICT_OPTIONS,
        "model_init_kwargs",
        "generation_kwargs",
        "vllm_limit_mm_per_prompt",
        "vllm_mm_processor_kwargs",
    ]

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate for AdamW."})

    # Parameters that control the model
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Keyword arguments for `from_pretrained` when the model is given as a string."},
    )
    disable_dropout: bool = field(default=False, metadata={"help": "Whether to disable dropout in the model."})

    # Parameters that control the data
    shuffle_dataset: bool = field(default=True, metadata={"help": "Whether to shuffle the training set each epoch."})

    # Parameters that control generation
    num_generations: int = field(default=1, metadata={"help": "Rollouts per image."})
    temperature: float = field(default=0.0, metadata={"help": "Temperature of training rollouts; 0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus mass."})
    top_k: int = field(default=0, metadata={"help": "Number of candidates; 0 keeps all."})
    min_p: float | None = field(
        default=None, metadata={"help": "Smallest probability kept, relative to the likeliest token."}
    )
    num_beams: int = field(default=1, metadata={"help": "Beam width of training rollouts."})
    generation_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Additional keyword arguments for `GenerationConfig`, or vLLM's `SamplingParams`."},
    )
    steps_per_generation: int | None = field(
        default=None,
        metadata={"help": "Micro-steps served by one generation; gradient_accumulation_steps by default."},
    )

    # Parameters that control matching and supervision
    match_min_iou: float = field(default=0.3, metadata={"help": "Pairs with a smaller IoU are never matched."})
    match_l1_weight: float = field(default=5.0, metadata={"help": "Weight of the box distance in the cost."})
    match_giou_weight: float = field(default=2.0, metadata={"help": "Weight of 1 - GIoU in the cost."})
    match_desc_weight: float = field(default=1.0, metadata={"help": "Cost of differing descriptions."})
    match_mask_iou: bool = field(
        default=False, metadata={"help": "Whether pairs with a polygon are matched by the IoU of their masks."}
    )
    mode: str = field(
        default="two_sequence", metadata={"help": "What a rollout becomes: two_sequence, appended or expert."}
    )
    missed_order: str = field(
        default="last",
        metadata={"help": "Place of missed objects in the re-ordered ground truth: last or canonical."},
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
    coord_gate_weight_end: float | None = field(
        default=None, metadata={"help": "The gate's weight moves linearly to this value."}
    )
    bbox_l1_weight: float = field(default=5.0, metadata={"help": "Weight of the matched boxes' L1 distance."})
    bbox_iou_weight: float = field(default=2.0, metadata={"help": "Weight of the matched boxes' 1 - IoU."})
    iou_loss: str = field(default="giou", metadata={"help": "giou or ciou."})
    coord_temperature: float = field(default=1.0, metadata={"help": "Softmax temperature of the expectation."})
    coord_temperature_end: float | None = field(
        default=None, metadata={"help": "The temperature moves linearly to this value."}
    )
    coord_top_k: int | None = field(default=None, metadata={"help": "Number of bins in the expectation."})

    # Parameters that control logging
    log_completions: bool = field(
        default=False, metadata={"help": "Whether to print a sample of completions at every log."}
    )
    num_completions_to_print: int | None = field(
        default=None, metadata={"help": "Number of completions to print; all by default."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.check_vllm_options()
        check_choice("mode", self.mode, MODES)
        check_choice("extra_policy", self.extra_policy, EXTRA_POLICIES)
        check_choice("missed_order", self.missed_order, MISSED_ORDERS)
        check_choice("iou_loss", self.iou_loss, ("giou", "ciou"))
        for name in ("coord_temperature", "coord_temperature_end", "coord_top_k"):
            self._check_positive(name)
        if not 0 <= self.match_min_iou <= 1:
            raise ValueError(f"match_min_iou must be in [0, 1], got {self.match_min_iou}.")
        if self.train_sampling_strategy != "random":
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} does nothing in Stage-2, whose generation "
                "batches have an order of their own. Leave it out; shuffle_dataset=False takes records in their order."
            )
        if self.steps_per_generation is None:
            self.steps_per_generation = self.gradient_accumulation_steps
        if self.steps_per_generation < 1 or self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation={self.steps_per_generation} must be a positive multiple of "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps}."
            )
        if not self.loss_config(0.0).active:
            raise ValueError("All loss weights are 0: set at least one *_weight above 0.")
        sampling = self.sampling_config  # refuses what cannot be decoded
        if self.use_vllm:
            check_vllm_sampling(sampling)

    @property
    def matching_config(self) -> MatchingConfig:
        """The matching options."""
        return MatchingConfig(
            min_iou=self.match_min_iou,
            l1_weight=self.match_l1_weight,
            giou_weight=self.match_giou_weight,
            desc_weight=self.match_desc_weight,
            mask_iou=self.match_mask_iou,
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
