# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the figures that the trainers log mean; a test compares the names with what they do log."""

from typing import NamedTuple

from coordexp_trl.evaluation.metrics import AVERAGE_PRECISION, DETECTION, RATIO, STRICT, Metric
from coordexp_trl.protocols import DROP_REASONS


class Section(NamedTuple):
    """
    Figures that belong together.

    Args:
        title (`str`):
            Heading.
        text (`str`):
            What holds for all of them, in Markdown.
        metrics (`dict[str, Metric]`):
            Each by the name under which it is logged.
    """

    title: str
    text: str
    metrics: dict[str, Metric]


LOSSES = {
    "loss/text": Metric("nats", "Cross-entropy of text tokens; mean over the supervised ones."),
    "loss/coord_ce": Metric("nats", "Cross-entropy of the target bin among the coordinate tokens; mean over slots."),
    "loss/coord_soft_ce": Metric("nats", "Cross-entropy against a Gaussian around the target bin; mean over slots."),
    "loss/coord_w1": Metric("0 to 1, sides of the image", "Wasserstein-1 distance to that Gaussian; mean over slots."),
    "loss/coord_gate": Metric("nats", "−log P(any coordinate token); mean over slots."),
    "loss/coord_entropy": Metric("nats", "Entropy of the distribution over the coordinate tokens; mean over slots."),
    "loss/bbox_l1": Metric(
        "0 to 4, sides of the image",
        "L1 distance of the expectation box from its object's, summed over the four coordinates; mean over boxes. "
        "Stage-2.",
    ),
    "loss/bbox_iou": Metric(
        "0 to 2", "1 − GIoU of the same boxes, or with `iou_loss: ciou` 1 − CIoU (up to 2.5). Stage-2."
    ),
}
DIAGNOSTICS = {
    "coord_bin_error": Metric("bins", "Distance of the expectation from the target bin; mean over slots."),
    "coord_entropy": Metric("nats", "Entropy of the distribution over the coordinate tokens; mean over slots."),
    "coord_mass": Metric(
        RATIO, "Probability of all coordinate tokens together; mean over slots. With `coord_gate_weight` above 0."
    ),
}
# Of `RolloutStats`: training logs them as `rollout/*`, evaluation as `eval_*`
ROLLOUTS = {
    "objects_predicted": Metric("objects a rollout", "Predictions that were parsed."),
    "objects_ground_truth": Metric("objects a rollout", "Objects of the image."),
    "objects_missed": Metric("objects a rollout", "Objects without a prediction that matches."),
    **DETECTION,
    "parse_rate": Metric(RATIO, "Rollouts that ended by themselves and lost nothing in parsing, over all."),
    "truncation_rate": Metric(RATIO, "Rollouts cut at `max_completion_length`, over all."),
    "invalid_boxes": Metric(
        "objects a rollout", "Boxes without area or with swapped corners, and polygons without extent."
    ),
    "mean_length": Metric("tokens", "Mean length of the rollouts."),
    "max_length": Metric("tokens", "Length of the longest rollout."),
}
DROPPED = {
    f"dropped/{reason}": Metric("count a rollout", f"{text[0].upper()}{text[1:]}.")
    for reason, text in DROP_REASONS.items()
}
PARITY = {
    "rollout/parity_bins": Metric("bins", "Mean distance of the coordinates that both choose for the same tokens."),
    "rollout/parity_agreement": Metric(RATIO, "Share of equal choices among all other tokens."),
}
GENERATION_TIMES = {
    "time/generate": Metric("seconds a generation", "Rollouts."),
    "time/parse": Metric("seconds a generation", "Tokens to objects."),
    "time/sync": Metric("seconds a generation", "Transfer of the weights to vLLM."),
}
TRAINING_TIMES = {
    "time/data": Metric("seconds a step", "Wait for the data loader."),
    "time/forward_backward": Metric("seconds a step", "Forward and backward passes."),
    "time/match": Metric("seconds a generation", "Matching of predictions to the ground truth. Stage-2."),
}


def _prefixed(prefix: str, metrics: dict[str, Metric]) -> dict[str, Metric]:
    return {prefix + name: metric for name, metric in metrics.items()}


TRAINING = (
    Section(
        "Losses",
        "The terms before their option's weight, those with a weight above 0. A term is summed over its units in the "
        "whole optimizer step, each with the weight of its token, slot or box (`eos_weight`, `own_token_weight`, "
        "`self_context_coord_weight`), and divided by their number. With all `coord_*_weight` at 0 Stage-1 has none.",
        LOSSES,
    ),
    Section("Coordinates", "At the supervised coordinate slots, without gradient.", DIAGNOSTICS),
    Section(
        "Rollouts",
        "Stage-2, of the training images. A true positive is a pair of the matching (`match_min_iou`; descriptions "
        "only enter its cost).",
        _prefixed("rollout/", ROLLOUTS),
    ),
    Section(
        "What is dropped",
        "Stage-2. What of a rollout cannot be read is dropped and counted by its reason; a reason that did not occur "
        "is not logged.",
        _prefixed("rollout/", DROPPED),
    ),
    Section(
        "Parity",
        "Stage-2 with vLLM, after each [parity check](../vllm.md#the-parity-check): does it write what the model in "
        "training would? Within an evaluation they are called `eval_rollout/parity_*`.",
        PARITY,
    ),
    Section(
        "Time",
        "`generate`, `parse` and `match` in Stage-2, `sync` with vLLM. Forward and backward do not hold the "
        "generation.",
        TRAINING_TIMES | GENERATION_TIMES,
    ),
)
EVALUATION = (
    Section(
        "Detection",
        "A true positive is a prediction of the right description with an IoU of at least `eval_iou_threshold`, one "
        "to one in an image. AP ranks predictions by the probabilities of their own tokens. Definitions: "
        "[Evaluation](../evaluation.md).",
        _prefixed("eval_", ROLLOUTS | STRICT | AVERAGE_PRECISION),
    ),
    Section("What is dropped", "As in training; by reason.", _prefixed("eval_", DROPPED)),
    Section("Time", "A generation is a batch here.", _prefixed("eval_", GENERATION_TIMES)),
)
INHERITED = (
    Section(
        "Of transformers and TRL",
        "What every trainer logs.",
        {
            "loss": Metric("", "The loss of an optimizer step: the terms times their weights."),
            "grad_norm": Metric("", "Norm of the gradient before it is clipped."),
            "learning_rate": Metric("", "Learning rate of the first group of parameters."),
            "epoch, step": Metric("", "Where the run is."),
            "num_tokens": Metric("tokens", "Tokens trained on so far. Stage-1."),
            "entropy": Metric("nats", "Entropy of the next token. Plain SFT (all `coord_*_weight` 0)."),
            "mean_token_accuracy": Metric(RATIO, "Tokens that are the likeliest. Plain SFT."),
            "aux_loss": Metric("", "Load balancing of mixture-of-experts models. Plain SFT."),
            "train_loss": Metric("", "Mean of `loss` over the run; at its end."),
            "train_runtime, eval_runtime": Metric("seconds", "Duration of the run, of an evaluation."),
            "eval_model_preparation_time": Metric("seconds", "Before an evaluation that no training precedes."),
            "train_samples_per_second, eval_samples_per_second": Metric("images a second", "Images over duration."),
            "train_steps_per_second, eval_steps_per_second": Metric("steps a second", "Steps, batches over duration."),
            "total_flos": Metric("operations", "Estimate of transformers; at the end."),
        },
    ),
)
