# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Stage-2: training on the model's own predictions, without rewards.

A step is EM-like. E-step, without gradient: generate a rollout, parse it into objects, match them one-to-one to the
ground truth. M-step: a teacher-forced forward on the rollout's own tokens and on the re-ordered ground truth, with L1
and IoU losses on the expectation-decoded boxes of matched objects, cross-entropy on the text, and the coordinate terms
at the slots. Written in the shape of TRL's online trainers: `_prepare_inputs` buffers what one generation yields,
`compute_loss` consumes it.
"""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object, set_seed
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.utils import disable_dropout_in_model, get_config_model_id, identity

from coordexp_trl.datasets.fusion import FusionDataset
from coordexp_trl.generation import ImageFeatures, Prompt, Rollout
from coordexp_trl.losses.terms import LossConfig, loss_terms
from coordexp_trl.matching import Match, match_batch
from coordexp_trl.models import backbone, freeze_modules, vision_is_frozen, without_adapters
from coordexp_trl.protocols import ParsedCompletion, ParsedObject
from coordexp_trl.records import DetectionRecord
from coordexp_trl.sequences import GroundTruthObject, SequenceBuilder, ground_truth
from coordexp_trl.trainers.completions import CompletionTable
from coordexp_trl.trainers.data import GenerationBatchSampler, RecordDataset, Sample, without_repeats
from coordexp_trl.trainers.micro_batch import MicroBatch, split_generation
from coordexp_trl.trainers.optimizer_groups import OptimizerGroupsMixin
from coordexp_trl.trainers.rollout_evaluation import EvalRecords, as_datasets
from coordexp_trl.trainers.rollout_stats import RolloutStats, matched_counts
from coordexp_trl.trainers.setup import load_model_and_processor, refuse_data_parallel, wrap_with_adapters
from coordexp_trl.trainers.stage2_config import CoordExpStage2Config
from coordexp_trl.trainers.step_loss import StepLossMixin
from coordexp_trl.trainers.vllm_rollouts import VLLMRolloutsMixin

logger = get_logger(__name__)

BUFFER_FILE = "rollouts_{rank}.json"


class CoordExpStage2Trainer(StepLossMixin, OptimizerGroupsMixin, VLLMRolloutsMixin, _BaseTrainer):
    """
    Trainer of Stage-2: rollout → parse → one-to-one matching → teacher-forced forward → matched-set losses.

    Example:

    ```python
    from coordexp_trl import CoordExpStage2Config, CoordExpStage2Trainer
    from coordexp_trl.records import read_records

    trainer = CoordExpStage2Trainer(
        model="path/to/stage1-checkpoint",
        args=CoordExpStage2Config(output_dir="stage2"),
        train_dataset=read_records("train.jsonl"),
    )
    trainer.train()
    ```

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Vision-language model with coordinate tokens: a checkpoint folder, a model id or an instance. As in TRL a
            checkpoint is loaded in float32 unless `args.model_init_kwargs` names a dtype.
        args ([`CoordExpStage2Config`], *optional*):
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

    # The loss is divided by the units of the whole optimizer step: the Trainer must not divide again
    loss_is_scaled_for_ga = True

    _tag_names = ["coordexp-trl", "stage2"]
    _name = "CoordExp Stage-2"

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: CoordExpStage2Config | None = None,
        train_dataset: Sequence[DetectionRecord] | None = None,
        eval_dataset: EvalRecords = None,
        processing_class: ProcessorMixin | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        peft_config: PeftConfig | None = None,
    ):
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = CoordExpStage2Config(f"{name.split('/')[-1]}-CoordExpStage2")
        set_seed(args.seed)  # adapters are initialised randomly
        model, processing_class = load_model_and_processor(model, processing_class, args)
        self._read_checkpoint(model, processing_class, args)
        self.records, self.record_lengths = self._check_records(
            model, args, train_dataset, eval_dataset, roll_out_training=True
        )
        model = wrap_with_adapters(model, peft_config, args, self.vocabulary.ids.tolist())
        freeze_modules(model, args.freeze)
        if args.disable_dropout:
            disable_dropout_in_model(model)

        super().__init__(
            model=model,
            args=args,
            data_collator=identity,
            train_dataset=None if self.records is None else RecordDataset(self.records),
            eval_dataset=as_datasets(eval_dataset),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        refuse_data_parallel(args)
        without_adapters(self.model).add_model_tags(self._tag_names)
        self.share_features = vision_is_frozen(self.model)
        self.sequence_builder = SequenceBuilder(
            self.protocol,
            eos_token_id=self.end_token_ids[0],
            mode=args.mode,
            eos_weight=args.eos_weight,
            self_context_coord_weight=args.self_context_coord_weight,
            own_token_weight=args.own_token_weight,
            extra_policy=args.extra_policy,
            missed_order=args.missed_order,
            # Nothing is asked of it without these
            self_context=max(args.self_context_coord_weight, args.bbox_l1_weight, args.bbox_iou_weight) > 0,
        )
        self._set_up_rollouts()
        self._completions = CompletionTable(args) if args.log_completions else None
        self._reset_steps()
        # Processes must sample different completions
        set_seed(args.seed, device_specific=True)

    # The E-step: one generation serves `steps_per_generation` micro-steps

    def _prepare_inputs(self, samples: list[Sample]) -> MicroBatch:
        if self._step % self.args.steps_per_generation == 0 or self._buffer is None:
            started = time.perf_counter()
            self._buffer = self._generate_micro_batches(samples)
            self._forward_seconds -= time.perf_counter() - started  # `training_step` counts it in
        return self._buffer[self._step % self.args.steps_per_generation]

    def _generate_micro_batches(self, served: list[Sample]) -> list[MicroBatch]:
        # A small dataset comes round more than once in a generation, and greedy decoding would only repeat itself
        # (the ranks of a tensor-parallel group must ask for equally many)
        once = self.args.temperature == 0 and not (self.args.use_vllm and self.args.vllm_tensor_parallel_size > 1)
        samples, places = without_repeats(served) if once else (served, range(len(served)))
        prompts, features = self._process_images(samples)
        resumed = self._resumed_rollouts(samples)
        rollouts = resumed or self._roll_out(prompts, features, samples, self.args.sampling_config)
        copies = len(rollouts) // len(samples)
        objects = [
            ground_truth(sample.record, self.grid, geometry=self.args.geometry)
            for sample in samples
            for _ in range(copies)
        ]
        parsed = self._parse(rollouts)
        matches = self._match(parsed, objects)
        sequences = [
            self.sequence_builder.build(rollout.completion_ids, read, match, wanted)
            for rollout, read, match, wanted in zip(rollouts, parsed, matches, objects, strict=True)
        ]
        of_image = [sum(sequences[k * copies : (k + 1) * copies], []) for k in range(len(samples))]
        self._buffered_rollouts = {
            "indices": [sample.index for sample in samples],
            "rollouts": [[rollout.completion_ids, rollout.finish_reason] for rollout in rollouts],
        }
        if resumed is None:  # the interrupted run has counted its own
            self._record_rollouts(samples, rollouts, parsed, matches, objects)
        return split_generation(
            [prompts[k] for k in places],
            None if features is None else features.select(places),
            [of_image[k] for k in places],
            self._train_batch_size,
            self.args.gradient_accumulation_steps,
            self.accelerator,
        )

    def _process_images(self, samples: list[Sample]) -> tuple[list[Prompt], ImageFeatures | None]:
        prompts = self._build_prompts(samples)
        if not self.share_features:
            return prompts, None
        return prompts, self._run_whole_model(lambda model: ImageFeatures.encode(backbone(model), prompts))

    def _match(self, parsed: list[ParsedCompletion], objects: list[list[GroundTruthObject]]) -> list[Match]:
        with self._timed("match"):
            return match_batch(
                [self.grid.bins_to_unit(read.boxes(self.grid)) for read in parsed],
                [[item.box for item in wanted] for wanted in objects],
                [[item.desc for item in read.objects] for read in parsed],
                [[item.desc for item in wanted] for wanted in objects],
                self.args.matching_config,
                [self._polygons(read.objects) for read in parsed],
                [self._polygons(wanted) for wanted in objects],
            )

    def _polygons(self, objects: list[ParsedObject] | list[GroundTruthObject]) -> list[np.ndarray | None] | None:
        if not self.args.match_mask_iou:
            return None
        return [self.grid.bins_to_unit(item.bins) if item.is_polygon else None for item in objects]

    # The M-step: teacher-forced forward and matched-set losses

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: MicroBatch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            model (`torch.nn.Module`):
                The model, possibly wrapped.
            inputs ([`MicroBatch`]):
                Sequences and the units of the optimizer step that they belong to.
            return_outputs (`bool`, *optional*, defaults to `False`):
                Must be `False`.
            num_items_in_batch (`torch.Tensor`, *optional*):
                Ignored: it counts the data loader's items, which the rollouts replace.

        Returns:
            `torch.Tensor`: This micro-batch's share of the optimizer step's loss, times the number of processes, over
            which gradients are averaged.
        """
        return self._step_loss(model, inputs, inputs.units)

    def _forward(self, model: PreTrainedModel, batch: MicroBatch, config: LossConfig):
        inputs, supervision = batch.collate(self.processing_class.tokenizer.pad_token_id, self.image_token_id)
        device = self.accelerator.device
        with self.accelerator.autocast():
            body = backbone(model)
            # Each image goes through the vision tower once, whatever number of sequences it has
            features = batch.features or ImageFeatures.encode(body, batch.prompts)
            with features.serve(body):
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
                hidden = body(**inputs, use_cache=False).last_hidden_state  # (batch, length, hidden_size)
            return loss_terms(
                hidden, model.get_output_embeddings(), self.vocabulary.ids.to(device), supervision.to(device), config
            )

    def training_step(
        self, model: torch.nn.Module, inputs: list[Sample], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One forward and backward; see [`~transformers.Trainer.training_step`]."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step += 1
        return loss

    # Logging

    def _record_rollouts(self, samples, rollouts, parsed, matches, objects) -> None:
        stats = [
            RolloutStats.of(rollout, read, matched_counts(read, match, len(wanted), self.grid))
            for rollout, read, match, wanted in zip(rollouts, parsed, matches, objects, strict=True)
        ]
        if self._completions is not None:
            copies = len(rollouts) // len(samples)
            self._completions.replace(
                [sample.record for sample in samples for _ in range(copies)],
                [self.processing_class.tokenizer.decode(rollout.completion_ids) for rollout in rollouts],
                [self.protocol.serialize(wanted) for wanted in objects],
                [item.counts.f1 for item in stats],
            )
        for name, value in sum(gather_object(stats), RolloutStats()).metrics().items():
            self._metrics["train"][f"rollout/{name}"].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the averages of the metrics since the last log; see [`~transformers.Trainer.log`]."""
        mode = "train" if self.model.training else "eval"
        prefix = "" if mode == "train" else "eval_"
        logs |= {f"{prefix}{name}": sum(values) / len(values) for name, values in self._metrics[mode].items()}
        super().log(logs, start_time)
        self._metrics[mode].clear()
        if self._completions is not None and mode == "train" and self.accelerator.is_main_process:
            self._completions.show(self.state.global_step, self.callback_handler.callbacks)

    # Data and checkpoints

    def get_train_dataloader(self):
        """A loader of generation batches: `steps_per_generation` micro-batches at a time."""
        if self.train_dataset is None:
            raise ValueError("train_dataset is None: training needs records.")
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=self._train_batch_size * self.args.steps_per_generation,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, dataset: RecordDataset | None = None) -> GenerationBatchSampler:
        fusion = self.records if isinstance(self.records, FusionDataset) else None
        self._train_sampler = GenerationBatchSampler(
            num_records=fusion.epoch_length if fusion else len(dataset if dataset is not None else self.train_dataset),
            batch_size=self._train_batch_size * self.args.steps_per_generation * self.accelerator.num_processes,
            repeat_count=self.args.steps_per_generation,
            shuffle=self.args.shuffle_dataset,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            epoch_indices=fusion.epoch_indices if fusion else None,
        )
        return self._train_sampler

    def _run_epoch(self, *args, epoch: int, **kwargs) -> None:
        # On resume several processes read through one wrapper more than the loader's `set_epoch` looks behind
        self._train_sampler.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _reset_steps(self) -> None:
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._step = 0
        self._engine_step = None  # weights may have changed since the last run
        self._buffer: list[MicroBatch] | None = None
        self._buffered_rollouts: dict[str, Any] = {}
        self._resumed: dict[str, Any] | None = None
        self._reset_step_loss()

    def _inner_training_loop(self, *args, **kwargs):
        self._reset_steps()
        return super()._inner_training_loop(*args, **kwargs)

    # A checkpoint inside a generation buffer keeps the rollouts: the weights that wrote them are gone

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        path = Path(output_dir) / BUFFER_FILE.format(rank=self.args.process_index)
        if self._step % self.args.steps_per_generation:
            path.write_text(json.dumps(self._buffered_rollouts), encoding="utf-8")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        self._step = self.state.global_step * self.args.gradient_accumulation_steps
        path = Path(checkpoint) / BUFFER_FILE.format(rank=self.args.process_index)
        self._resumed = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _resumed_rollouts(self, samples: list[Sample]) -> list[Rollout] | None:
        if self._step % self.args.steps_per_generation == 0:
            return None
        saved, self._resumed = self._resumed, None
        usable = saved is not None and saved["indices"] == [sample.index for sample in samples]
        if not all(gather_object([usable])):  # all processes generate, or none
            logger.warning(
                "The checkpoint's buffered rollouts are missing or belong to another data order: they are generated "
                "anew by later weights, so the run will differ slightly from an uninterrupted one."
            )
            return None
        return [Rollout([], ids, reason) for ids, reason in saved["rollouts"]]
