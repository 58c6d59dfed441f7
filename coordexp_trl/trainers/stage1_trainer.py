# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Stage-1: supervised fine-tuning on ground-truth text in which each coordinate is one token.

TRL's supervised fine-tuning of vision-language models, with losses on the distribution over the coordinate tokens at
their slots and cross-entropy on the rest, evaluated by rollouts.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch.utils.data import Sampler
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl import SFTTrainer
from trl.trainer.utils import get_config_model_id

from coordexp_trl.datasets.fusion import FusionDataset
from coordexp_trl.losses.terms import UNITS, LossConfig, loss_terms
from coordexp_trl.models import backbone, freeze_modules
from coordexp_trl.records import DetectionRecord
from coordexp_trl.sequences import SequenceBuilder
from coordexp_trl.trainers.data import EpochSampler, LengthGroupedSampler
from coordexp_trl.trainers.ground_truth_collator import GroundTruthCollator
from coordexp_trl.trainers.optimizer_groups import OptimizerGroupsMixin
from coordexp_trl.trainers.rollout_evaluation import EvalRecords, RolloutEvaluationMixin, as_datasets
from coordexp_trl.trainers.setup import load_model_and_processor, refuse_data_parallel, wrap_with_adapters
from coordexp_trl.trainers.stage1_config import CoordExpStage1Config
from coordexp_trl.trainers.step_loss import StepLossMixin

logger = get_logger(__name__)

_NOT_MODEL_INPUTS = ("labels", "supervision", "counts", "units")


class CoordExpStage1Trainer(StepLossMixin, OptimizerGroupsMixin, RolloutEvaluationMixin, SFTTrainer):
    """
    Trainer of Stage-1: supervised fine-tuning on the objects of detection records.

    Example:

    ```python
    from coordexp_trl import CoordExpStage1Config, CoordExpStage1Trainer
    from coordexp_trl.records import read_records

    trainer = CoordExpStage1Trainer(
        model="path/to/expanded-checkpoint",
        args=CoordExpStage1Config(output_dir="stage1"),
        train_dataset=read_records("train.jsonl"),
    )
    trainer.train()
    ```

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Vision-language model with coordinate tokens: a checkpoint folder, a model id or an instance. As in TRL a
            checkpoint is loaded in float32 unless `args.model_init_kwargs` names a dtype.
        args ([`CoordExpStage1Config`], *optional*):
            Configuration.
        train_dataset (`Sequence[DetectionRecord]`):
            Training records, see [`read_records`]; [`RecordFile`] for files larger than memory, [`FusionDataset`] for
            shares of several datasets.
        eval_dataset (`Sequence[DetectionRecord]` or `dict[str, Sequence[DetectionRecord]]`, *optional*):
            Evaluation records; with several sets, or records of several datasets, each gets metrics of its own too.
        processing_class ([`~transformers.ProcessorMixin`], *optional*):
            Processor; loaded from the model's checkpoint by default.
        callbacks (`list[TrainerCallback]`, *optional*):
            Added to the default callbacks.
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            Optimizer and scheduler.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapters to train instead of the whole model.
    """

    _tag_names = ["coordexp-trl", "stage1"]
    _name = "CoordExp Stage-1"

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: CoordExpStage1Config | None = None,
        train_dataset: Sequence[DetectionRecord] | None = None,
        eval_dataset: EvalRecords = None,
        processing_class: ProcessorMixin | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        peft_config: PeftConfig | None = None,
    ):
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = CoordExpStage1Config(f"{name.split('/')[-1]}-CoordExpStage1")
        if train_dataset is None:
            raise ValueError("train_dataset is None: training needs records.")
        set_seed(args.seed)  # adapters are initialised randomly
        model, processing_class = load_model_and_processor(model, processing_class, args)
        self._read_checkpoint(model, processing_class, args)
        if isinstance(train_dataset, FusionDataset) and args.train_sampling_strategy == "batch_rebalance":
            raise ValueError(
                'train_sampling_strategy="batch_rebalance" serves the same records in every epoch, and a fusion takes '
                'other ones. Choose "group_by_length", "random" or "sequential".'
            )
        self.records, self.record_lengths = self._check_records(
            model, args, train_dataset, eval_dataset, roll_out_training=False
        )
        model = wrap_with_adapters(model, peft_config, args, self.vocabulary.ids.tolist())
        freeze_modules(model, args.freeze)
        if not any(parameter.requires_grad for parameter in model.get_input_embeddings().parameters()):
            logger.warning(
                "The embedding rows of the coordinate tokens do not learn. That is right for a model that speaks "
                "coordinate tokens already; one fresh from `coordexp expand-vocab` needs them trained: set "
                "coord_rows, or train all weights."
            )
        args = copy.copy(args)
        args.model_init_kwargs = None  # used up

        super().__init__(
            model=model,
            args=args,
            data_collator=GroundTruthCollator(
                self.records,
                self.prompt_builder,
                SequenceBuilder(self.protocol, eos_token_id=self.end_token_ids[0]),
                self.grid,
                order=args.object_order,
                seed=args.seed if args.data_seed is None else args.data_seed,
                pad_token_id=processing_class.tokenizer.pad_token_id,
                image_token_id=self.image_token_id,
                geometry=args.geometry,
            ),
            train_dataset=Dataset.from_dict(
                {
                    "image": [None] * len(self.records),  # TRL knows vision data by this column
                    "index": range(len(self.records)),
                    "length": self.record_lengths.sum(1),
                }
            ),
            eval_dataset=as_datasets(eval_dataset),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        refuse_data_parallel(args)
        if not args.is_plain_sft:
            # The loss is divided by the units of the whole optimizer step: the Trainer must not divide again
            self.model_accepts_loss_kwargs = True
        if self.aux_loss_enabled and not args.is_plain_sft:
            raise ValueError(
                "router_aux_loss_coef: the load-balancing loss of mixture-of-experts models does not go with the "
                "coordinate losses. Set router_aux_loss_coef to 0."
            )
        self._epoch_sampler: EpochSampler | None = None
        self._set_up_rollouts()
        self._reset_step_loss()

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """Adds to each micro-batch the units of its optimizer step; see [`~transformers.Trainer`]."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and not self.args.is_plain_sft:
            counts = sum(batch["counts"].to(device) for batch in batches)
            *units, tokens = self.accelerator.reduce(counts, reduction="sum").tolist()
            for batch in batches:
                batch["units"] = dict(zip(UNITS, (max(count, 1) for count in units), strict=True))
            self._total_train_tokens += tokens
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return batches, num_items

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            model (`torch.nn.Module`):
                The model, possibly wrapped.
            inputs (`dict[str, Any]`):
                A batch of [`GroundTruthCollator`].
            return_outputs (`bool`, *optional*, defaults to `False`):
                Must be `False`.
            num_items_in_batch (`torch.Tensor`, *optional*):
                Number of labels in the optimizer step, which plain SFT divides by if it is given.

        Returns:
            `torch.Tensor`: This micro-batch's share of the optimizer step's loss, times the number of processes, over
            which gradients are averaged. With all coordinate weights at 0 it is TRL's own.
        """
        if self.args.is_plain_sft:
            plain = {name: value for name, value in inputs.items() if name not in ("supervision", "counts")}
            return super().compute_loss(model, plain, return_outputs, num_items_in_batch)
        return self._step_loss(model, inputs, inputs["units"])

    def _forward(self, model: PreTrainedModel, batch: dict[str, Any], config: LossConfig):
        inputs = {name: value for name, value in batch.items() if name not in _NOT_MODEL_INPUTS}
        with self.accelerator.autocast():
            hidden = backbone(model)(**inputs, use_cache=False).last_hidden_state  # (batch, length, hidden_size)
            coord_ids = self.vocabulary.ids.to(hidden.device)
            supervision = batch["supervision"].to(hidden.device)
            return loss_terms(hidden, model.get_output_embeddings(), coord_ids, supervision, config)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        strategy, fusion = self.args.train_sampling_strategy, isinstance(self.records, FusionDataset)
        if strategy != "group_by_length" and not fusion:
            return super()._get_train_sampler(train_dataset)
        options = {"seed": self.args.seed if self.args.data_seed is None else self.args.data_seed}
        if fusion:
            options |= {"num_records": self.records.epoch_length, "epoch_indices": self.records.epoch_indices}
        if strategy == "group_by_length":
            self._epoch_sampler = LengthGroupedSampler(
                self.record_lengths.sum(1),
                self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
                **options,
            )
        else:
            self._epoch_sampler = EpochSampler(shuffle=strategy == "random", **options)
        return self._epoch_sampler

    def _run_epoch(self, *args, epoch: int, **kwargs) -> None:
        self.data_collator.epoch.fill_(epoch)
        if self._epoch_sampler is not None:
            self._epoch_sampler.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _inner_training_loop(self, *args, **kwargs):
        self._reset_step_loss()
        return super()._inner_training_loop(*args, **kwargs)
