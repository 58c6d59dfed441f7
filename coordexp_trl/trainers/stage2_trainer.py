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
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object, set_seed
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl.distributed import DistributedBackend
from trl.models.utils import _ForwardRedirection, unwrap_model_for_generation
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.utils import disable_dropout_in_model, get_config_model_id, identity

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.evaluation.f1 import count_detections
from coordexp_trl.generation import (
    ImageFeatures,
    Prompt,
    PromptBuilder,
    Rollout,
    SamplingConfig,
    TransformersEngine,
    check_prompt_ids,
)
from coordexp_trl.losses.terms import DIAGNOSTICS, UNIT_OF_TERM, LossConfig, loss_terms
from coordexp_trl.matching import Match, match_batch
from coordexp_trl.models import backbone, freeze_modules, vision_is_frozen, without_adapters
from coordexp_trl.protocols import ParsedCompletion, get_protocol
from coordexp_trl.records import DetectionRecord
from coordexp_trl.sequences import GroundTruthObject, SequenceBuilder, ground_truth
from coordexp_trl.trainers.completions import CompletionTable
from coordexp_trl.trainers.data import GenerationBatchSampler, RecordDataset, Sample, without_repeats
from coordexp_trl.trainers.micro_batch import MicroBatch, split_generation
from coordexp_trl.trainers.rollout_stats import RolloutStats, matched_counts
from coordexp_trl.trainers.setup import (
    check_records,
    end_token_ids,
    load_model_and_processor,
    read_vocabulary,
    wrap_with_adapters,
)
from coordexp_trl.trainers.stage2_config import CoordExpStage2Config

logger = get_logger(__name__)

BUFFER_FILE = "rollouts_{rank}.json"


class CoordExpStage2Trainer(_BaseTrainer):
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
            Training records, see [`read_records`].
        eval_dataset (`Sequence[DetectionRecord]` or `dict[str, Sequence[DetectionRecord]]`, *optional*):
            Evaluation records.
        processing_class ([`~transformers.ProcessorMixin`], *optional*):
            Processor; loaded from the model's checkpoint by default.
        callbacks (`list[TrainerCallback]`, *optional*):
            Added to the default callbacks.
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            Optimizer and scheduler.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapters to train instead of the whole model.
    """

    # compute_loss divides by the units of the whole optimizer step: the Trainer must not divide again
    loss_is_scaled_for_ga = True

    _tag_names = ["coordexp-trl", "stage2"]
    _name = "CoordExp Stage-2"

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: CoordExpStage2Config | None = None,
        train_dataset: Sequence[DetectionRecord] | None = None,
        eval_dataset: Sequence[DetectionRecord] | dict[str, Sequence[DetectionRecord]] | None = None,
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
        self.vocabulary = read_vocabulary(model, processing_class)
        self.grid = CoordinateGrid(self.vocabulary.num_bins)
        self.protocol = get_protocol(args.protocol, processing_class.tokenizer, self.vocabulary)
        self.prompt_builder = PromptBuilder(
            processing_class,
            args.prompt,
            args.system_prompt,
            args.min_pixels,
            args.max_pixels,
            args.chat_template_kwargs,
        )
        self._check_datasets(model, args, train_dataset, eval_dataset)
        self.image_token_id = model.config.image_token_id
        self.end_token_ids = end_token_ids(model, processing_class)
        model = wrap_with_adapters(model, peft_config, args)
        freeze_modules(model, args.freeze)
        if args.disable_dropout:
            disable_dropout_in_model(model)

        super().__init__(
            model=model,
            args=args,
            data_collator=identity,
            train_dataset=None if train_dataset is None else RecordDataset(train_dataset),
            eval_dataset=(
                {name: RecordDataset(records) for name, records in eval_dataset.items()}
                if isinstance(eval_dataset, dict)
                else None
                if eval_dataset is None
                else RecordDataset(eval_dataset)
            ),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs are visible to one process, which `nn.DataParallel` cannot train with rollouts. "
                "Launch with `accelerate launch`, or show one GPU with CUDA_VISIBLE_DEVICES."
            )
        without_adapters(self.model).add_model_tags(self._tag_names)
        self.share_features = vision_is_frozen(self.model)
        self.engine = TransformersEngine(
            self._model_for_generation,
            eos_token_ids=self.end_token_ids,
            pad_token_id=processing_class.tokenizer.pad_token_id,
            image_token_id=self.image_token_id,
            suppress_tokens=[self.image_token_id, model.config.video_token_id],
            coord_ids=self.vocabulary.ids,
        )
        self.sequence_builder = SequenceBuilder(
            self.protocol,
            eos_token_id=self.end_token_ids[0],
            mode=args.mode,
            eos_weight=args.eos_weight,
            self_context_coord_weight=args.self_context_coord_weight,
            own_token_weight=args.own_token_weight,
            extra_policy=args.extra_policy,
        )
        self._dist = DistributedBackend(self.accelerator)
        self._forward_redirection = _ForwardRedirection()
        self._completions = CompletionTable(args) if args.log_completions else None
        self._prompts_checked = False
        self._eval_stats: list[tuple[int, RolloutStats]] = []
        self._reset_steps()
        # Processes must sample different completions
        set_seed(args.seed, device_specific=True)

    def _check_datasets(self, model, args, train_dataset, eval_dataset) -> None:
        named = {"train_dataset": train_dataset}
        named |= (
            {f"eval_dataset[{name!r}]": records for name, records in eval_dataset.items()}
            if isinstance(eval_dataset, dict)
            else {"eval_dataset": eval_dataset}
        )
        max_length = args.max_length or model.config.get_text_config().max_position_embeddings
        for name, records in named.items():
            if records is not None:
                check_records(
                    name,
                    records,
                    self.prompt_builder,
                    self.protocol,
                    self.grid,
                    max_length,
                    args.max_completion_length,
                )

    def _send_telemetry(self) -> None:
        """TRL reports its own trainers' use; this project reports nothing."""

    # The E-step: one generation serves `steps_per_generation` micro-steps

    def _prepare_inputs(self, samples: list[Sample]) -> MicroBatch:
        if self._step % self.args.steps_per_generation == 0 or self._buffer is None:
            started = time.perf_counter()
            self._buffer = self._generate_micro_batches(samples)
            self._forward_seconds -= time.perf_counter() - started  # `training_step` counts it in
        return self._buffer[self._step % self.args.steps_per_generation]

    def _generate_micro_batches(self, served: list[Sample]) -> list[MicroBatch]:
        # A small dataset comes round more than once in a generation, and greedy decoding would only repeat itself
        samples, places = without_repeats(served) if self.args.temperature == 0 else (served, range(len(served)))
        prompts, features = self._process_images(samples)
        resumed = self._resumed_rollouts(samples)
        rollouts = resumed or self._roll_out(prompts, features, samples)
        copies = len(rollouts) // len(samples)
        objects = [ground_truth(sample.record, self.grid) for sample in samples for _ in range(copies)]
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
        prompts = self.prompt_builder([sample.load() for sample in samples])
        if not self.share_features:
            return prompts, None
        with torch.no_grad(), self._model_for_generation() as model:
            if self._dist.fsdp_version == 2:  # gathers what its root holds in the root's forward only
                call = (self.model_wrapped, model, ImageFeatures.encode, backbone(model), prompts)
                return prompts, self._forward_redirection(*call)
            return prompts, ImageFeatures.encode(backbone(model), prompts)

    def _roll_out(
        self,
        prompts: list[Prompt],
        features: ImageFeatures | None,
        samples: list[Sample],
        sampling: SamplingConfig | None = None,
    ) -> list[Rollout]:
        sampling = sampling or self.args.sampling_config
        with self._timed("generate"):
            rollouts = self.engine.generate(prompts, sampling, features)
        if not self._prompts_checked:
            for prompt, sample, rollout in zip(prompts, samples, rollouts[:: sampling.num_generations], strict=True):
                tokenizer = self.processing_class.tokenizer
                check_prompt_ids(prompt.ids, rollout.prompt_ids, tokenizer, sample.record.place)
            self._prompts_checked = True
        return rollouts

    def _parse(self, rollouts: list[Rollout]) -> list[ParsedCompletion]:
        with self._timed("parse"):
            # A completion that ended by itself is closed by the end token that its ids leave out
            closing = {"stop": [self.end_token_ids[0]], "length": []}
            return [self.protocol.parse(item.completion_ids + closing[item.finish_reason]) for item in rollouts]

    def _match(self, parsed: list[ParsedCompletion], objects: list[list[GroundTruthObject]]) -> list[Match]:
        with self._timed("match"):
            return match_batch(
                [self.grid.bins_to_unit([item.bins for item in read.objects]) for read in parsed],
                [[item.box for item in wanted] for wanted in objects],
                [[item.desc for item in read.objects] for read in parsed],
                [[item.desc for item in wanted] for wanted in objects],
                self.args.matching_config,
            )

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
        config = self.args.loss_config(self.state.global_step / max(self.state.max_steps, 1))
        unwrapped = self.accelerator.unwrap_model(model)
        # Inside the wrapper's forward, so that DDP prepares its backward and FSDP / ZeRO-3 gather the parameters
        sums, diagnostics = self._forward_redirection(
            model, unwrapped, self._forward, without_adapters(unwrapped), inputs, config
        )
        for name, value in (sums | diagnostics).items():
            self._step_sums[name] += value.detach().double()
        self._step_units = inputs.units
        terms = [config.weights[name] * sums[name] / inputs.units[UNIT_OF_TERM[name]] for name in config.active]
        return sum(terms) * self.accelerator.num_processes

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
        started = time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._forward_seconds += time.perf_counter() - started
        self._step += 1
        if self._step % self.args.gradient_accumulation_steps == 0:
            self._finish_step()
        return loss

    def _finish_step(self) -> None:
        """Sums the step's terms over all processes, logs them, and refuses a non-finite loss before it is applied."""
        names = [*UNIT_OF_TERM, *DIAGNOSTICS]
        zero = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        sums = torch.stack([self._step_sums.get(name, zero).to(zero.device) for name in names])
        sums = self.accelerator.reduce(sums, reduction="sum").tolist()
        means = {
            name: value / self._step_units[UNIT_OF_TERM.get(name, "slots")]
            for name, value in zip(names, sums, strict=True)
            if name in self._step_sums
        }
        self._step_sums.clear()
        broken = {name: value for name, value in means.items() if not math.isfinite(value)}
        if broken:  # the sums are the same on every process, so all of them stop here
            raise FloatingPointError(
                f"The loss is not finite at step {self.state.global_step + 1} ({broken}); no weight was changed by "
                "this step. Resume from the last checkpoint with a lower learning_rate, a lower max_grad_norm, or in "
                "bf16 instead of fp16."
            )
        metrics = self._metrics["train"]
        for name, value in means.items():
            metrics[name if name in DIAGNOSTICS else f"loss/{name}"].append(value)
        metrics["time/forward_backward"].append(self._forward_seconds)
        self._forward_seconds = 0.0

    # Evaluation: greedy rollouts, exact counts

    def prediction_step(self, model, inputs: list[Sample], prediction_loss_only, ignore_keys=None):
        """Generates for one evaluation batch and keeps its counts; there is no evaluation loss."""
        for sample, (rollout, parsed) in zip(inputs, self._detect(inputs), strict=True):
            objects = ground_truth(sample.record, self.grid)
            counts = count_detections(
                self.grid.bins_to_unit([item.bins for item in parsed.objects]),
                [item.desc for item in parsed.objects],
                [item.box for item in objects],
                [item.desc for item in objects],
                self.args.eval_iou_threshold,
            )
            self._eval_stats.append((sample.index, RolloutStats.of(rollout, parsed, counts)))
        return None, None, None

    def _detect(self, samples: list[Sample]) -> list[tuple[Rollout, ParsedCompletion]]:
        prompts = self.prompt_builder([sample.load() for sample in samples])
        greedy = SamplingConfig(
            max_completion_length=self.args.max_completion_length,
            repetition_penalty=self.args.repetition_penalty,
        )
        rollouts = self._roll_out(prompts, None, samples, greedy)
        return list(zip(rollouts, self._parse(rollouts), strict=True))

    def detect(self, records: Sequence[DetectionRecord]) -> list[ParsedCompletion]:
        """
        Greedy predictions of the current model. Every process must call it.

        Args:
            records (`Sequence[DetectionRecord]`):
                Records whose images are looked at.

        Returns:
            `list[ParsedCompletion]`: What the model wrote for each.
        """
        samples = [Sample(index, record) for index, record in enumerate(records)]
        size = self.args.per_device_eval_batch_size
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        return [parsed for batch in batches for _, parsed in self._detect(batch)]

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix: str = "eval", **kwargs):
        """See [`~transformers.Trainer.evaluation_loop`]; adds `f1`, `precision`, `recall`, `mean_iou` and more."""
        self._eval_stats = []
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        # The last batch is filled up with repeated images: each counts once
        stats = dict(gather_object(self._eval_stats)).values()
        for name, value in sum(stats, RolloutStats()).metrics().items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    # Logging

    def _record_rollouts(self, samples, rollouts, parsed, matches, objects) -> None:
        stats = [
            RolloutStats.of(rollout, read, matched_counts(read, match, len(wanted)))
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
            self._completions.show(self.state.global_step)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._metrics["train" if self.model.training else "eval"][f"time/{phase}"].append(
            time.perf_counter() - started
        )

    # Data, model access and checkpoints

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

    def get_eval_dataloader(self, eval_dataset: str | RecordDataset | Sequence[DetectionRecord] | None = None):
        """See [`~transformers.Trainer.get_eval_dataloader`]; records are welcome too."""
        if eval_dataset is not None and not isinstance(eval_dataset, (str, RecordDataset)):
            eval_dataset = RecordDataset(eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def _get_train_sampler(self, dataset: RecordDataset | None = None) -> GenerationBatchSampler:
        self._train_sampler = GenerationBatchSampler(
            num_records=len(dataset if dataset is not None else self.train_dataset),
            batch_size=self._train_batch_size * self.args.steps_per_generation * self.accelerator.num_processes,
            repeat_count=self.args.steps_per_generation,
            shuffle=self.args.shuffle_dataset,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )
        return self._train_sampler

    def _run_epoch(self, *args, epoch: int, **kwargs) -> None:
        # On resume several processes read through one wrapper more than the loader's `set_epoch` looks behind
        self._train_sampler.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    @contextmanager
    def _model_for_generation(self) -> Iterator[PreTrainedModel]:
        was_training = self.model.training
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
            self.accelerator.autocast(),
        ):
            model.eval()
            try:
                yield model
            finally:
                model.train(was_training)

    def _reset_steps(self) -> None:
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._step = 0
        self._buffer: list[MicroBatch] | None = None
        self._buffered_rollouts: dict[str, Any] = {}
        self._resumed: dict[str, Any] | None = None
        self._step_sums: dict[str, torch.Tensor] = defaultdict(float)
        self._step_units: dict[str, float] = {}
        self._forward_seconds = 0.0

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
