# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Small parts that the tests of both stages, and the scripts they launch, build their runs from."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Qwen3VLForConditionalGeneration, Trainer

from coordexp_trl import (
    CoordExpStage1Config,
    CoordExpStage1Trainer,
    CoordExpStage2Config,
    CoordExpStage2Trainer,
)
from coordexp_trl.generation import ImageFeatures, Prompt, Rollout, SamplingConfig
from coordexp_trl.images import load_image
from coordexp_trl.protocols import Protocol
from coordexp_trl.records import DetectionObject, DetectionRecord
from coordexp_trl.sequences import GroundTruthObject, ground_truth

ALL_WEIGHTS = (
    "text_weight",
    "coord_ce_weight",
    "coord_soft_ce_weight",
    "coord_w1_weight",
    "coord_gate_weight",
    "coord_entropy_weight",
    "bbox_l1_weight",
    "bbox_iou_weight",
)
COORD_WEIGHTS = [name for name in ALL_WEIGHTS if name.startswith("coord_")]
PLAIN_SFT = dict.fromkeys(COORD_WEIGHTS, 0.0)
PLAIN_SGD = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


# A float32 run on the CPU that logs every step and writes nothing else
QUIET = {
    "bf16": False,
    "use_cpu": True,
    "report_to": [],
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def stage1_config(folder: Path, **options) -> CoordExpStage1Config:
    """A quiet run that takes the records in their order."""
    defaults = {"max_completion_length": 64, "train_sampling_strategy": "sequential"}
    return CoordExpStage1Config(output_dir=str(folder), **(QUIET | defaults | options))


def stage2_config(folder: Path, **options) -> CoordExpStage2Config:
    """A quiet run that takes the records in their order."""
    defaults = {"max_completion_length": 64, "shuffle_dataset": False}
    return CoordExpStage2Config(output_dir=str(folder), **(QUIET | defaults | options))


def only(term: str) -> dict[str, float]:
    """Weights that leave one loss term."""
    return dict.fromkeys(ALL_WEIGHTS, 0.0) | {term: 1.0}


def moved(item: GroundTruthObject, step: int) -> GroundTruthObject:
    """`item` with its box shifted by a few bins, inside the grid."""
    x1, y1, x2, y2 = (min(max(k + step, 0), 999) for k in item.bins)
    return GroundTruthObject(item.desc, (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)), item.box)


def imperfect(objects: Sequence[GroundTruthObject]) -> list[GroundTruthObject | DetectionObject]:
    """What a half-trained model writes: another order, shifted boxes, a duplicate, an extra, a miss (of three)."""
    found = [moved(item, 3 + 2 * k) for k, item in enumerate(reversed(objects[:2]))]
    return [*found, *found[:1], DetectionObject(desc="blue square", bins=(1, 2, 3, 4))]


class ScriptedEngine:
    """
    A rollout engine that answers each image with a prepared completion, less certain of each token and each image
    than of the one before.

    Args:
        trainer ([`CoordExpStage1Trainer`] or [`CoordExpStage2Trainer`]):
            Its engine is replaced; its prompt builder says how an image is recognised.
        records (`Sequence[DetectionRecord]`):
            Every record that the trainer will see.
        write (`Callable[[DetectionRecord], list[int] | list[list[int]]]`):
            Completion ids of a record, or a list of them, one for each generation.
        finish_reason (`str`, *optional*, defaults to `"stop"`):
            Finish reason of every completion.
    """

    def __init__(
        self,
        trainer: Trainer,
        records: Sequence[DetectionRecord],
        write: Callable[[DetectionRecord], list],
        finish_reason: str = "stop",
    ):
        self.calls: list[tuple[int, SamplingConfig]] = []
        self.finish_reason = finish_reason
        self.features_given: list[bool] = []
        prompts = trainer.prompt_builder([load_image(record) for record in records])
        self.answers = {_key(prompt): write(record) for prompt, record in zip(prompts, records, strict=True)}
        self.numbers = {key: number for number, key in enumerate(self.answers)}
        trainer.engine = self

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, features: ImageFeatures | None = None
    ) -> list[Rollout]:
        self.calls.append((len(prompts), sampling))
        self.features_given.append(features is not None)
        rollouts = []
        for prompt in prompts:
            answer = self.answers[_key(prompt)]
            answers = answer if answer and isinstance(answer[0], list) else [answer] * sampling.num_generations
            for ids in answers:
                doubts = [-0.01 * place - 0.001 * self.numbers[_key(prompt)] for place in range(len(ids))]
                logprobs = doubts if sampling.logprobs else None
                rollouts.append(Rollout(prompt.ids, list(ids), self.finish_reason, logprobs))
        return rollouts


class NoisyEngine(ScriptedEngine):
    """Answers with the ground truth in a random order, its boxes shifted at random: sampling that can be matched."""

    def __init__(self, trainer: CoordExpStage2Trainer, records: Sequence[DetectionRecord]):
        super().__init__(trainer, records, lambda record: [record])
        self.trainer = trainer

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, features: ImageFeatures | None = None
    ) -> list[Rollout]:
        self.calls.append((len(prompts), sampling))
        rollouts = []
        for prompt in prompts:
            objects = ground_truth(self.answers[_key(prompt)][0], self.trainer.grid)
            written = [moved(objects[k], int(torch.randint(1, 30, ()))) for k in torch.randperm(len(objects))]
            rollouts.append(Rollout(prompt.ids, self.trainer.protocol.encode(written), "stop"))
        return rollouts


def writer(trainer: Trainer, change: Callable = imperfect) -> Callable[[DetectionRecord], list[int]]:
    """Completions that encode `change(ground truth)`."""
    protocol: Protocol = trainer.protocol
    return lambda record: protocol.encode(change(ground_truth(record, trainer.grid)))


def make_stage2_trainer(
    checkpoint: Path | torch.nn.Module,
    records: Sequence[DetectionRecord],
    folder: Path,
    scripted: bool = True,
    trainer_options: dict | None = None,
    **options,
) -> CoordExpStage2Trainer:
    """A trainer on the tiny model; with `scripted` its rollouts are imperfect copies of the ground truth."""
    model = checkpoint if isinstance(checkpoint, torch.nn.Module) else str(checkpoint)
    trainer = CoordExpStage2Trainer(
        model, stage2_config(folder, **options), train_dataset=records, **(trainer_options or {})
    )
    if scripted:
        ScriptedEngine(trainer, records, writer(trainer))
    return trainer


def make_stage1_trainer(
    checkpoint: Path | torch.nn.Module,
    records: Sequence[DetectionRecord],
    folder: Path,
    trainer_options: dict | None = None,
    **options,
) -> CoordExpStage1Trainer:
    """A Stage-1 trainer on the tiny model."""
    model = checkpoint if isinstance(checkpoint, torch.nn.Module) else str(checkpoint)
    return CoordExpStage1Trainer(
        model, stage1_config(folder, **options), train_dataset=records, **(trainer_options or {})
    )


def one_step(*args, make=make_stage2_trainer, **options):
    """Parameters before and after `max_steps` (1) steps of plain SGD, and the trainer."""
    trainer = make(*args, **({"max_steps": 1} | PLAIN_SGD | options))
    before = parameters_of(trainer.model)
    trainer.train()
    return before, parameters_of(trainer.model), trainer


def spy(monkeypatch, trainer, name="_forward"):
    """Records the positional arguments of every call of a trainer method."""
    calls, method = [], getattr(trainer, name)

    def recorded(*args, **kwargs):
        calls.append(args)
        return method(*args, **kwargs)

    monkeypatch.setattr(trainer, name, recorded)
    return calls


def load_model(checkpoint: Path) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)


def parameters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def logged(trainer: Trainer, first_step: int = 1) -> list[dict[str, float]]:
    """The training logs from a step on, without what depends on the clock."""
    clock = ("time/", "train_")
    return [
        {name: value for name, value in entry.items() if not name.startswith(clock)}
        for entry in trainer.state.log_history
        if "loss" in entry and entry["step"] >= first_step
    ]


def outcome(trainer: Trainer) -> dict:
    """Parameters and log of a finished run."""
    return {"parameters": parameters_of(trainer.accelerator.unwrap_model(trainer.model)), "logs": logged(trainer)}


def relative_difference(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], start: dict) -> float:
    """Largest difference of two runs' updates, in units of the largest update."""
    assert actual.keys() == expected.keys()
    largest = max((expected[name] - start[name]).abs().max() for name in expected)
    assert largest > 0
    return float(max((actual[name] - expected[name]).abs().max() for name in expected) / largest)


def read_events(folder: Path) -> EventAccumulator:
    """What TensorBoard was given: all scalars and images, of the one run below an output folder."""
    (run,) = (folder / "runs").iterdir()
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def _key(prompt: Prompt) -> bytes:
    return prompt.pixel_values.numpy().tobytes()
