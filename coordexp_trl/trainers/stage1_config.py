# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Configuration of Stage-1."""

from dataclasses import dataclass, field

from trl import SFTConfig

from coordexp_trl.losses.terms import LossConfig
from coordexp_trl.sequences import ORDERS
from coordexp_trl.trainers.detection_config import DICT_OPTIONS, DetectionConfig, check_choice

# Options of SFT that would do nothing here, or something else than they say: name, the value they must keep, why.
FIXED_OPTIONS = (
    ("packing", False, "packed images would share positions"),
    ("eval_packing", None, "evaluation rolls out"),
    ("padding_free", False, "it is not supported for vision models"),
    ("assistant_only_loss", False, "the loss is that of the completion"),
    ("completion_only_loss", None, "the loss is that of the completion"),
    ("chat_template_path", None, "the checkpoint's own template is used, in training and rollouts alike"),
    ("eos_token", None, "the tokenizer's own ends a completion"),
    ("pad_token", None, "the tokenizer's own is used"),
    ("pad_to_multiple_of", None, "batches are padded to their longest record"),
    ("truncation_mode", "keep_start", "nothing is ever cut"),
    ("shuffle_dataset", False, "train_sampling_strategy decides the order"),
    ("dataset_text_field", "text", "the protocol writes the text"),
    ("dataset_kwargs", None, "records are not prepared beforehand"),
    ("dataset_num_proc", None, "records are not prepared beforehand"),
    ("trust_remote_code", False, "the installed transformers must know the model"),
)
PLAIN_SFT_OPTIONS = (("loss_type", "nll"), ("label_smoothing_factor", 0.0))


@dataclass
class CoordExpStage1Config(DetectionConfig, SFTConfig):
    r"""
    Configuration class for the [`CoordExpStage1Trainer`].

    Extends [`~trl.SFTConfig`] and [`DetectionConfig`]. Using [`~transformers.HfArgumentParser`] this class turns into
    command-line arguments. With all `coord_*_weight` at 0 the loss is that of plain SFT, in which coordinate tokens
    are tokens like any other.

    Parameters:
        > Parameters that control the data

        object_order (`str`, *optional*, defaults to `"sorted"`):
            Order in which the objects of an image are written: `"sorted"` (from top to bottom, then left to right),
            `"random"` (anew each epoch, by seed, epoch and record) or `"as_is"` (the record's own).

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]:
    > - `max_length`: Defaults to `None` instead of `1024`; see [`DetectionConfig`].
    > - `train_sampling_strategy`: Defaults to `"group_by_length"` instead of `"random"`.
    """

    _VALID_DICT_FIELDS = SFTConfig._VALID_DICT_FIELDS + DICT_OPTIONS

    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "Sampler for training: 'random', 'sequential', 'group_by_length' or 'batch_rebalance'.",
            "choices": ["random", "sequential", "group_by_length", "batch_rebalance"],
        },
    )
    object_order: str = field(
        default="sorted", metadata={"help": "Order in which objects are written: sorted, random or as_is."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_choice("object_order", self.object_order, ORDERS)
        for name, value, reason in FIXED_OPTIONS:
            if getattr(self, name) != value:
                raise ValueError(f"{name}={getattr(self, name)!r} is not supported in Stage-1: {reason}.")
        for name, value in PLAIN_SFT_OPTIONS:
            if not self.is_plain_sft and getattr(self, name) != value:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} does not go with the coordinate losses. Set it to {value!r}, or "
                    "all coord_*_weight to 0 for plain SFT."
                )

    @property
    def coord_weights(self) -> dict[str, float]:
        """Weight of each coordinate term."""
        return {
            "coord_ce": self.coord_ce_weight,
            "coord_soft_ce": self.coord_soft_ce_weight,
            "coord_w1": self.coord_w1_weight,
            "coord_gate": self.coord_gate_weight,
            "coord_entropy": self.coord_entropy_weight,
        }

    @property
    def is_plain_sft(self) -> bool:
        """Whether all coordinate terms are off."""
        return not any(self.coord_weights.values())

    def loss_config(self, progress: float) -> LossConfig:
        """
        The losses at a point of the run.

        Args:
            progress (`float`):
                Share of the run that is done; nothing depends on it.

        Returns:
            [`LossConfig`]: Weights and shapes.
        """
        return LossConfig(weights={"text": 1.0, **self.coord_weights}, sigma=self.coord_sigma)
