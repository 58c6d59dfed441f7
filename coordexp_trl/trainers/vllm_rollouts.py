# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Training rollouts by vLLM: the engine, when it gets new weights, and the check that it can be trusted."""

from accelerate.utils import gather_object

from coordexp_trl.generation import ImageFeatures, Prompt, Rollout, RolloutEngine, SamplingConfig
from coordexp_trl.generation.parity import compare, model_choices, require_parity
from coordexp_trl.generation.vllm_config import require_vllm
from coordexp_trl.trainers.data import Sample
from coordexp_trl.trainers.rollout_evaluation import RolloutEvaluationMixin

PARITY_PROMPTS = 4


class VLLMRolloutsMixin(RolloutEvaluationMixin):
    """Rollouts by vLLM where `args.use_vllm` is set; for a trainer whose configuration is a [`VLLMConfig`] too."""

    def _build_engine(self) -> RolloutEngine | None:
        if not self.args.use_vllm:
            return super()._build_engine()
        require_vllm()
        self._engine_step: int | None = None  # the step whose weights vLLM has
        self._parity_step: int | None = None  # the step of the last check
        return None  # started by the first rollout: a dry run needs none

    def _start_vllm(self, prompts: list[Prompt]) -> RolloutEngine:
        from coordexp_trl.generation.vllm_engine import VLLMEngine  # takes seconds, and has not to be installed

        args = self.args
        images = max(args.per_device_train_batch_size * args.steps_per_generation, args.per_device_eval_batch_size)
        longest = max(gather_object([len(prompt.ids) for prompt in prompts])) + args.max_completion_length
        return VLLMEngine(
            config=args,
            model=self.model,
            accelerator=self.accelerator,
            processor=self.processing_class,
            restore_image=self.prompt_builder.image,
            eos_token_ids=self.end_token_ids,
            image_token_id=self.image_token_id,
            suppress_tokens=self.suppress_tokens,
            coord_ids=self.vocabulary.ids,
            max_model_length=max(self.longest_rollout, longest),
            max_num_seqs=images * args.num_generations * args.vllm_tensor_parallel_size,
            seed=args.seed,
        )

    def _roll_out(
        self,
        prompts: list[Prompt],
        features: ImageFeatures | None,
        samples: list[Sample],
        sampling: SamplingConfig,
    ) -> list[Rollout]:
        if self.args.use_vllm:
            self.engine = self.engine or self._start_vllm(prompts)
            if self._engine_step != self.state.global_step:
                with self._timed("sync"):
                    self.engine.sync(self.model)
                self._engine_step = self.state.global_step
            if self._parity_is_due():
                # As many on all processes: the model's forward is collective where it is sharded
                count = min(PARITY_PROMPTS, *gather_object([len(prompts)]))
                self._check_parity(prompts[:count], samples[:count])
        return super()._roll_out(prompts, features, samples, sampling)

    def close(self) -> None:
        """See [`RolloutEvaluationMixin.close`]."""
        if self.args.use_vllm and self.engine is not None:
            self.engine.close()
            self.engine = None

    def evaluation_loop(self, *args, **kwargs):
        """See [`~transformers.Trainer.evaluation_loop`]."""
        self._forget_engine_step()
        return super().evaluation_loop(*args, **kwargs)

    def detect(self, records):
        """See [`RolloutEvaluationMixin.detect`]."""
        self._forget_engine_step()
        return super().detect(records)

    def _forget_engine_step(self) -> None:
        # Outside of training weights change without a step: the best checkpoint is loaded, a user edits them
        if not self.is_in_train:
            self._engine_step = None

    def _parity_is_due(self) -> bool:
        interval = self.args.parity_check_steps
        if interval == -1 or self._parity_step is None:
            return interval != -1
        return 0 < interval <= self.state.global_step - self._parity_step

    def _check_parity(self, prompts: list[Prompt], samples: list[Sample]) -> None:
        greedy = SamplingConfig(max_completion_length=self.args.max_completion_length)
        rollouts = self.engine.generate(prompts, greedy)
        choices = self._run_whole_model(model_choices, prompts, rollouts, self.image_token_id, self.suppress_tokens)
        parity = compare(rollouts, choices, self.vocabulary, self.end_token_ids)
        # All processes stop together, or none
        for each, places in gather_object([(parity, [sample.record.place for sample in samples])]):
            require_parity(each, self.args.parity_max_bins, places)
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["rollout/parity_bins"].append(parity.bins)
        metrics["rollout/parity_agreement"].append(parity.agreement)
        self._parity_step = self.state.global_step
        self._prompts_checked = False  # the next rollout compares the prompt ids too
