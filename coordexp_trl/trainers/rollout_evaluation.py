# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Rollouts of the model in training, and evaluation by greedy rollouts, for the trainers of both stages."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, ProcessorMixin
from trl.distributed import DistributedBackend
from trl.models.utils import _ForwardRedirection, unwrap_model_for_generation

from coordexp_trl.checkpoints import end_token_ids, read_vocabulary, write_prompting
from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.fusion import FusionDataset
from coordexp_trl.datasets.record_views import JoinedRecords
from coordexp_trl.generation import (
    ImageFeatures,
    Prompt,
    PromptBuilder,
    Rollout,
    RolloutEngine,
    SamplingConfig,
    TransformersEngine,
    check_prompt_ids,
)
from coordexp_trl.protocols import ParsedCompletion, get_protocol
from coordexp_trl.records import DetectionRecord
from coordexp_trl.sequences import ground_truth
from coordexp_trl.trainers.data import RecordDataset, Sample
from coordexp_trl.trainers.detection_config import DetectionConfig
from coordexp_trl.trainers.evaluated_image import EvaluatedImage, metrics_by_dataset
from coordexp_trl.trainers.overlays import OverlayMixin
from coordexp_trl.trainers.record_checks import (
    check_not_empty,
    check_rollout_lengths,
    fit_records,
    prompt_lengths,
    warn_of_cut_rollouts,
)

EvalRecords = Sequence[DetectionRecord] | dict[str, Sequence[DetectionRecord]] | None


class RolloutEvaluationMixin(OverlayMixin):
    """
    For a [`~transformers.Trainer`] whose configuration is a [`DetectionConfig`] and whose evaluation datasets are
    [`RecordDataset`]s: call `_read_checkpoint` before `super().__init__()` and `_set_up_rollouts` after it.
    """

    def _send_telemetry(self) -> None:
        """TRL reports its own trainers' use; this project reports nothing."""

    def _read_checkpoint(self, model: PreTrainedModel, processor: ProcessorMixin, args: DetectionConfig) -> None:
        """What checkpoint and configuration say about tokens and prompts."""
        self.vocabulary = read_vocabulary(model, processor)
        self.grid = CoordinateGrid(self.vocabulary.num_bins)
        self.protocol = get_protocol(args.protocol, processor.tokenizer, self.vocabulary)
        self.prompt_builder = PromptBuilder(
            processor, args.prompt, args.system_prompt, args.min_pixels, args.max_pixels, args.chat_template_kwargs
        )
        self.image_token_id = model.config.image_token_id
        # A placeholder that the model writes itself has no features behind it
        self.suppress_tokens = [self.image_token_id, model.config.video_token_id]
        self.end_token_ids = end_token_ids(model, processor)

    def _check_records(
        self,
        model: PreTrainedModel,
        args: DetectionConfig,
        train_dataset: Sequence[DetectionRecord] | None,
        eval_dataset: EvalRecords,
        roll_out_training: bool,
    ) -> tuple[Sequence[DetectionRecord] | None, np.ndarray | None]:
        """Returns the training records that fit, and their lengths; see [`fit_records`]."""
        max_length = args.max_length or model.config.get_text_config().max_position_embeddings
        if isinstance(eval_dataset, dict):
            rolled_out = {f"eval_dataset[{key!r}]": records for key, records in eval_dataset.items()}
        else:
            rolled_out = {} if eval_dataset is None else {"eval_dataset": eval_dataset}
        limits = (max_length, args.max_completion_length)
        self.longest_rollout = 0  # tokens of prompt and rollout together
        lengths = None
        if train_dataset is not None:
            check_not_empty("train_dataset", train_dataset)
            train_dataset, lengths = fit_records(
                train_dataset,
                self.prompt_builder,
                self.protocol,
                self.grid,
                max_length,
                args.too_long,
                args.geometry,
            )
            if roll_out_training:
                warn_of_cut_rollouts(lengths, args.max_completion_length)
        for name, records in rolled_out.items():
            check_not_empty(name, records)
            longest = check_rollout_lengths(name, records, prompt_lengths(records, self.prompt_builder), *limits)
            self.longest_rollout = max(self.longest_rollout, longest)
        if train_dataset is not None and roll_out_training:
            longest = check_rollout_lengths("train_dataset", train_dataset, lengths[:, 0], *limits)
            self.longest_rollout = max(self.longest_rollout, longest)
        return train_dataset, lengths

    def _set_up_rollouts(self) -> None:
        self._dist = DistributedBackend(self.accelerator)
        self.engine = self._build_engine()
        self._set_up_overlays()
        self._prompts_checked = False
        self._evaluated: list[tuple[int, EvaluatedImage]] = []

    def _build_engine(self) -> RolloutEngine:
        return TransformersEngine(
            self._model_for_generation,
            eos_token_ids=self.end_token_ids,
            pad_token_id=self.processing_class.tokenizer.pad_token_id,
            image_token_id=self.image_token_id,
            suppress_tokens=self.suppress_tokens,
            coord_ids=self.vocabulary.ids,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        write_prompting(output_dir or self.args.output_dir, self.args)

    def close(self) -> None:
        """Ends what the rollouts needed beside the model; for the end of a program."""

    # Rollouts

    def _build_prompts(self, samples: list[Sample]) -> list[Prompt]:
        images = [sample.load() for sample in samples]
        return self.prompt_builder(images, [sample.record.prompt for sample in samples])

    def _roll_out(
        self,
        prompts: list[Prompt],
        features: ImageFeatures | None,
        samples: list[Sample],
        sampling: SamplingConfig,
    ) -> list[Rollout]:
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
            return [item.parse(self.protocol, self.end_token_ids[0]) for item in rollouts]

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

    def _run_whole_model(self, function: Callable, *args: Any) -> Any:
        """Returns `function(model, *args)`, without gradient, on the model ready to generate."""
        with torch.no_grad(), self._model_for_generation() as model:
            if self._dist.fsdp_version == 2:  # gathers what its root holds in the root's forward only
                return _ForwardRedirection()(self.model_wrapped, model, function, model, *args)
            return function(model, *args)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._metrics["train" if self.model.training else "eval"][f"time/{phase}"].append(
            time.perf_counter() - started
        )

    # Evaluation

    def prediction_step(self, model, inputs: list[Sample], prediction_loss_only, ignore_keys=None):
        """Generates for one evaluation batch and keeps what it found; there is no evaluation loss."""
        for sample, (rollout, parsed) in zip(inputs, self._detect(inputs), strict=True):
            objects = ground_truth(sample.record, self.grid)
            image = EvaluatedImage.of(
                rollout, parsed, objects, self.grid, self.args.eval_iou_threshold, sample.record.dataset
            )
            self._evaluated.append((sample.index, image))
        return None, None, None

    def _detect(self, samples: list[Sample]) -> list[tuple[Rollout, ParsedCompletion]]:
        prompts = self._build_prompts(samples)
        rollouts = self._roll_out(prompts, None, samples, self.args.eval_sampling_config)
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

    def evaluate(self, eval_dataset: EvalRecords | str = None, *args, **kwargs) -> dict[str, float]:
        """
        See [`~transformers.Trainer.evaluate`]. Several sets are evaluated in one pass: the figures of all images
        together come as `eval_f1`, …, and those of each set as `eval_{name}_f1`, ….
        """
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, dict):
            eval_dataset = JoinedRecords({name: getattr(part, "records", part) for name, part in chosen.items()})
        return super().evaluate(eval_dataset, *args, **kwargs)

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix: str = "eval", **kwargs):
        """
        See [`~transformers.Trainer.evaluation_loop`]; adds the metrics of [`evaluation_metrics`], of all images and of
        each dataset that the records name.
        """
        self._evaluated = []
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        # The last batch is filled up with repeated images: each counts once
        evaluated = dict(gather_object(self._evaluated))
        self._choose_overlays(dataloader.dataset.records, evaluated, metric_key_prefix)
        for name, value in metrics_by_dataset([image for _, image in sorted(evaluated.items())]).items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def num_examples(self, dataloader) -> int:
        """See [`~transformers.Trainer.num_examples`]; of a fusion, the records of an epoch."""
        if isinstance(self.records, FusionDataset) and dataloader.dataset is self.train_dataset:
            return self.records.epoch_length
        return super().num_examples(dataloader)

    def get_eval_dataloader(self, eval_dataset: str | RecordDataset | Sequence[DetectionRecord] | None = None):
        """See [`~transformers.Trainer.get_eval_dataloader`]; records are welcome too."""
        if eval_dataset is not None and not isinstance(eval_dataset, (str, RecordDataset)):
            eval_dataset = RecordDataset(eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def _get_eval_sampler(self, eval_dataset: RecordDataset) -> SequentialSampler | None:
        # The Trainer's would look for the lengths of what is not written yet
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None


def as_datasets(records: EvalRecords) -> RecordDataset | dict[str, RecordDataset] | None:
    """Returns evaluation records as the data loader takes them."""
    if isinstance(records, dict):
        return {name: RecordDataset(part) for name, part in records.items()}
    return None if records is None else RecordDataset(records)
