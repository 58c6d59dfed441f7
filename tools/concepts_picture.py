# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Draws the picture of docs/concepts.md: one step of Stage-2 on a drawn image, computed by the package itself.

    python tools/concepts_picture.py --out docs/images/concepts.png

The tiny detector writes a rollout, which is parsed, matched, and turned into the two training sequences; the last
panel is the distribution at one coordinate of a matched object in the teacher-forced forward.
"""

import argparse
import tempfile
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from coordexp_trl.checkpoints import end_token_ids, read_prompting, read_vocabulary
from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.generation import PromptBuilder, SamplingConfig, TransformersEngine
from coordexp_trl.images import load_image
from coordexp_trl.losses.coordinate import expectation
from coordexp_trl.matching import MatchingConfig, match_objects
from coordexp_trl.models import backbone
from coordexp_trl.protocols import get_protocol
from coordexp_trl.records import read_records
from coordexp_trl.sequences import SequenceBuilder, ground_truth
from coordexp_trl.trainers.micro_batch import collate_tokens

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import Patch, Rectangle  # noqa: E402

DETECTOR = Path(__file__).resolve().parents[1] / "coordexp_trl" / "assets" / "tiny_detector"
# A picture on which the detector errs: it misses an object and writes another one twice
SHAPES = {"num_images": 64, "seed": 21, "min_objects": 5, "max_objects": 7, "max_overlap": 0.3}
MATCHED, EXTRA, MISSED, TEXT, CONTEXT = "#2a9d4a", "#d1495b", "#e08e0b", "#3a6ea5", "#d4d4d4"


class Step:
    """One step of Stage-2 on one image."""

    def __init__(self, picture: int):
        self.model = AutoModelForImageTextToText.from_pretrained(DETECTOR, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(DETECTOR)
        vocabulary = read_vocabulary(self.model, self.processor)
        self.coord_ids, self.ends = vocabulary.ids, end_token_ids(self.model, self.processor)
        self.grid = CoordinateGrid(vocabulary.num_bins)
        self.protocol = get_protocol("tags", self.processor.tokenizer, vocabulary)
        self.builder = SequenceBuilder(self.protocol, eos_token_id=self.ends[0])
        self.prompts = PromptBuilder(self.processor, read_prompting(DETECTOR)["prompt"])
        with tempfile.TemporaryDirectory() as folder:
            records = read_records(create_shapes(Path(folder) / "shapes", **SHAPES))
            record = records[picture]
            self.look(record, load_image(record))

    @contextmanager
    def unwrapped(self):
        yield self.model

    def look(self, record, image) -> None:
        """Rollout → parse → match → sequences."""
        self.image, self.objects = image, ground_truth(record, self.grid)
        engine = TransformersEngine(
            self.unwrapped,
            eos_token_ids=self.ends,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            image_token_id=self.model.config.image_token_id,
            suppress_tokens=[self.model.config.image_token_id],
            coord_ids=self.coord_ids,
        )
        self.prompt = self.prompts([image])[0]
        (rollout,) = engine.generate([self.prompt], SamplingConfig(max_completion_length=160))
        self.parsed = rollout.parse(self.protocol, self.ends[0])
        self.match = match_objects(
            self.grid.bins_to_unit([item.bins for item in self.parsed.objects]),
            [item.box for item in self.objects],
            [item.desc for item in self.parsed.objects],
            [item.desc for item in self.objects],
            MatchingConfig(),
        )
        sequences = self.builder.build(rollout.completion_ids, self.parsed, self.match, self.objects)
        self.own = sequences[-1]

    @torch.no_grad()
    def slot_logits(self, slot: int) -> torch.Tensor:
        """Logits of the coordinate tokens at a slot of the rollout, teacher-forced: shape `(K,)`."""
        inputs = collate_tokens(
            [self.prompt], [self.own], self.processor.tokenizer.pad_token_id, self.model.config.image_token_id
        )
        hidden = backbone(self.model)(**inputs, pixel_values=self.prompt.pixel_values).last_hidden_state
        row = hidden[0, len(self.prompt.ids) + slot - 1]
        return (self.model.get_output_embeddings().weight @ row)[self.coord_ids]


def draw_boxes(axes, step: Step, items: list[tuple], title: str) -> None:
    axes.imshow(step.image)
    width, height = step.image.size
    for label, bins, color, style in items:
        x1, y1, x2, y2 = step.grid.bins_to_pixels([bins], width, height)[0].tolist()
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=2, ls=style))
        # The ground truth's letters stand above their boxes, the rollout's numbers below, those of extras at the left
        above, left = label.isalpha(), label.isalpha() or style == ":"
        axes.text(
            x1 if left else x2,
            max(y1, 5) if above else min(y2, height - 5),
            label,
            color="white",
            fontsize=8,
            weight="bold",
            ha="left" if left else "right",
            va="center",
            bbox={"fc": color, "ec": "none", "pad": 1.2},
        )
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def draw_strip(axes, blocks: list[tuple[str, str, str | None]], title: str) -> None:
    """Blocks of (text, colour of the text's tokens, colour of the four slots or `None`)."""
    x = 0.0
    for text, color, slots in blocks:
        width = 0.35 + 0.105 * len(text)
        axes.add_patch(Rectangle((x, 0), width, 1, fc=color, ec="white", lw=1))
        ink = "white" if color != CONTEXT else "#555555"
        axes.text(x + width / 2, 0.5, text, ha="center", va="center", fontsize=8, color=ink)
        x += width
        for _ in range(4 if slots else 0):
            axes.add_patch(Rectangle((x, 0), 0.2, 1, fc=slots, ec="white", lw=1))
            x += 0.2
        x += 0.1
    axes.set_xlim(0, 14.9)
    axes.set_ylim(0, 1)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_axis_off()


def draw(step: Step, path: Path) -> None:
    names = [chr(ord("A") + j) for j in range(len(step.objects))]
    partner = dict(step.match.pairs)
    truth = [(names[j], item.bins, "#222222", "-") for j, item in enumerate(step.objects)]
    written = [
        (str(i + 1), item.bins, "#222222", "-" if i in partner else ":") for i, item in enumerate(step.parsed.objects)
    ]
    matched = [
        (f"{i + 1}={names[partner[i]]}", item.bins, MATCHED, "-")
        if i in partner
        else (str(i + 1), item.bins, EXTRA, ":")
        for i, item in enumerate(step.parsed.objects)
    ]
    missed = [(names[j], step.objects[j].bins, MISSED, "--") for j in step.match.unmatched_ground_truth]

    figure = plt.figure(figsize=(12, 5.3), dpi=130)
    grid = figure.add_gridspec(3, 4, height_ratios=[5.6, 0.6, 0.6], hspace=0.5, wspace=0.12)
    draw_boxes(figure.add_subplot(grid[0, 0]), step, truth, "ground truth")
    draw_boxes(figure.add_subplot(grid[0, 1]), step, written, "1  rollout, parsed")
    draw_boxes(figure.add_subplot(grid[0, 2]), step, matched + missed, "2  one-to-one matching")
    draw_distribution(figure.add_subplot(grid[0, 3]), step)

    own = [
        (f"{i + 1} {item.desc}", CONTEXT, MATCHED if i in partner else CONTEXT)
        for i, item in enumerate(step.parsed.objects)
    ]
    draw_strip(figure.add_subplot(grid[1, :]), own, "3a  self-context: the rollout's own tokens")
    order = [j for _, j in sorted(step.match.pairs)] + sorted(step.match.unmatched_ground_truth)
    truth_blocks = [(f"{names[j]} {step.objects[j].desc}", TEXT, MATCHED) for j in order]
    title = "3b  ground truth in the rollout's order, what was missed last"
    draw_strip(figure.add_subplot(grid[2, :]), [*truth_blocks, ("end", TEXT, None)], title)
    figure.legend(
        handles=[
            Patch(color=TEXT, label="text: cross-entropy"),
            Patch(color=MATCHED, label="matched; coordinate losses (3a: box losses too)"),
            Patch(color=CONTEXT, label="no loss"),
            Patch(color=EXTRA, label="no match"),
            Patch(color=MISSED, label="missed"),
        ],
        loc="lower center",
        ncol=5,
        bbox_to_anchor=(0.5, -0.03),
        fontsize=8.5,
        frameon=False,
    )
    figure.savefig(path, bbox_inches="tight")
    print(f"Wrote {path}")


def draw_distribution(axes, step: Step) -> None:
    """The coordinate, of those of matched objects, whose token is farthest from the ground truth."""
    errors = [
        (abs(item.bins[k] - step.objects[j].bins[k]), i, j, k)
        for i, j in step.match.pairs
        for item in [step.parsed.objects[i]]
        for k in range(4)
    ]
    _, i, j, k = max(errors)
    logits = step.slot_logits(step.parsed.objects[i].slots[k])
    target = step.objects[j].bins[k]
    mean = expectation(logits[None])[0].item() * (step.grid.num_bins - 1)
    low, high = (round(value) for value in (min(target, mean) - 30, max(target, mean) + 30))
    low, high = max(low, 0), min(high, step.grid.num_bins - 1)
    bins = range(low, high + 1)
    axes.bar(bins, logits.softmax(-1)[low : high + 1], width=1, color="#8fb3d9")
    axes.axvline(mean, color=MATCHED, lw=2, label=f"expectation {mean:.1f}")
    axes.axvline(target, color="#222222", lw=1.5, ls=":", label=f"ground truth {target}")
    axes.set_title(f"4  {('x1', 'y1', 'x2', 'y2')[k]} of {i + 1}, on the rollout's tokens", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.set_yticks([])
    axes.set_box_aspect(1)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.16), ncol=2, columnspacing=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/concepts.png"))
    parser.add_argument("--picture", type=int, default=16, help="number of the drawn image")
    options = parser.parse_args()
    draw(Step(options.picture), options.out)


if __name__ == "__main__":
    main()
