# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The loss of an optimizer step, whose terms are averaged over their units in all micro-batches and processes."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.models.utils import _ForwardRedirection

from coordexp_trl.losses.terms import DIAGNOSTICS, TERMS
from coordexp_trl.models import without_adapters


class StepLossMixin:
    """
    For a [`~transformers.Trainer`] that supplies `_forward(model, batch, config)`, which returns what [`loss_terms`]
    does, and whose configuration has `loss_config(progress)`. The terms of a step are logged as `loss/*`, and a step
    whose loss is not finite is refused before it changes a weight.
    """

    def _reset_step_loss(self) -> None:
        self._step_sums: dict[str, torch.Tensor] = defaultdict(float)
        self._step_units: dict[str, float] = {}
        self._step_total: torch.Tensor | float = 0.0
        self._forward_seconds = 0.0

    def _step_loss(self, model: torch.nn.Module, batch: Any, units: Mapping[str, float]) -> torch.Tensor:
        """
        Args:
            model (`torch.nn.Module`):
                The model, possibly wrapped.
            batch (`Any`):
                Argument of `_forward`.
            units (`Mapping[str, float]`):
                Units of each kind in the whole optimizer step, over all processes; at least 1.

        Returns:
            `torch.Tensor`: This micro-batch's share of the optimizer step's loss, times the number of processes, over
            which gradients are averaged.
        """
        config = self.args.loss_config(self.state.global_step / max(self.state.max_steps, 1))
        unwrapped: PreTrainedModel = self.accelerator.unwrap_model(model)
        # Inside the wrapper's forward, so that DDP prepares its backward and FSDP / ZeRO-3 gather the parameters
        sums, diagnostics = _ForwardRedirection()(
            model, unwrapped, self._forward, without_adapters(unwrapped), batch, config
        )
        for name, value in ({f"loss/{name}": value for name, value in sums.items()} | diagnostics).items():
            self._step_sums[name] += value.detach().double()
        self._step_units = dict(units)
        terms = [config.weights[name] * sums[name] / units[TERMS[name].unit] for name in config.active]
        return sum(terms) * self.accelerator.num_processes

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        """See [`~transformers.Trainer.get_batch_samples`]; `time/data` is how long the step waits for the loader."""
        waited = 0.0

        def timed() -> Iterator:
            nonlocal waited
            while True:
                started = time.perf_counter()
                batch = next(epoch_iterator, None)
                waited += time.perf_counter() - started
                if batch is None:
                    return
                yield batch

        batches = super().get_batch_samples(timed(), num_batches, device)
        self._metrics["train"]["time/data"].append(waited)
        return batches

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One forward and backward; see [`~transformers.Trainer.training_step`]."""
        started = time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._forward_seconds += time.perf_counter() - started
        self._step_total = self._step_total + loss.double()
        if self.accelerator.sync_gradients:
            self._finish_step()
        return loss

    def _finish_step(self) -> None:
        """Sums the step's terms over all processes, logs them, and refuses a non-finite loss before it is applied."""
        zero = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        unit_of = {f"loss/{name}": term.unit for name, term in TERMS.items()} | dict.fromkeys(DIAGNOSTICS, "slots")
        sums = [self._step_sums.get(name, zero) for name in unit_of]
        sums = torch.stack([value.to(zero.device) for value in (self._step_total, *sums)])
        total, *sums = self.accelerator.reduce(sums, reduction="sum").tolist()
        means = {
            name: value / self._step_units[unit]
            for (name, unit), value in zip(unit_of.items(), sums, strict=True)
            if name in self._step_sums
        }
        self._step_sums.clear()
        self._step_total = 0.0
        broken = {name: value for name, value in means.items() if not math.isfinite(value)}
        if not broken and not math.isfinite(total):
            broken = {"loss": total}
        if broken:  # the sums are the same on every process, so all of them stop here
            raise FloatingPointError(
                f"The loss is not finite at step {self.state.global_step + 1} ({broken}); no weight was changed by "
                "this step. Resume from the last checkpoint with a lower learning_rate, a lower max_grad_norm, or in "
                "bf16 instead of fp16."
            )
        metrics = self._metrics["train"]
        for name, value in means.items():
            metrics[name].append(value)
        metrics["time/forward_backward"].append(self._forward_seconds)
        self._forward_seconds = 0.0
