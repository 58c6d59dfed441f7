# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Draws the picture of docs/concepts.md: one step of Stage-2 on a drawn image, computed by the package itself.

    python tools/concepts_picture.py --out docs/images/concepts.png

The tiny detector writes a rollout, which is parsed, matched, and turned into the two training sequences; the last
panel is the distribution at one coordinate of a matched object in the teacher-forced forward.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

import matplotlib
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from coordexp_trl.checkpoints import end_token_ids, read_prompting, read_vocabulary
from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.generation import PromptBuilder, SamplingConfig, TransformersEngine
from coordexp_trl.losses.coordinate import expectation
from coordexp_trl.matching import MatchingConfig, match_objects
from coordexp_trl.models import backbone
from coordexp_trl.protocols import ParsedObject, get_protocol
from coordexp_trl.records import DetectionRecord
from coordexp_trl.sequences import SequenceBuilder, TrainingSequence, ground_truth
from coordexp_trl.trainers.micro_batch import collate_tokens

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import Patch, Rectangle  # noqa: E402

DETECTOR = Path(__file__).resolve().parents[1] / "coordexp_trl" / "assets" / "tiny_detector"
# A picture on which the detector errs: it misses an object and writes another one twice
PICTURE = {"seed": 21, "index": 16, "min_objects": 5, "max_objects": 7, "max_overlap": 0.3}
MATCHED, EXTRA, MISSED, TEXT, CONTEXT = "#2a9d4a", "#d1495b", "#e08e0b", "#3a6ea5", "#d4d4d4"


class Step:
    """One step of Stage-2 on one image."""

    def __init__(self):
        self.model = AutoModelForImageTextToText.from_pretrained(DETECTOR, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(DETECTOR)
        vocabulary = read_vocabulary(self.model, self.processor)
        self.coord_ids, self.ends = vocabulary.ids, end_token_ids(self.model, self.processor)
        self.grid = CoordinateGrid(vocabulary.num_bins)
        self.protocol = get_protocol("tags", self.processor.tokenizer, vocabulary)
        self.builder = SequenceBuilder(self.protocol, eos_token_id=self.ends[0])
        self.prompts = PromptBuilder(self.processor, read_prompting(DETECTOR)["prompt"])
        self.image, objects = draw_shapes(**PICTURE)
        self.objects = ground_truth(DetectionRecord(("drawn.png",), *self.image.size, tuple(objects)), self.grid)
        self.roll_out()

    def roll_out(self) -> None:
        """Rollout → parse → match → sequences."""
        engine = TransformersEngine(
            lambda: nullcontext(self.model),
            eos_token_ids=self.ends,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            image_token_id=self.model.config.image_token_id,
            suppress_tokens=[self.model.config.image_token_id],
            coord_ids=self.coord_ids,
        )
        self.prompt = self.prompts([self.image])[0]
        (rollout,) = engine.generate([self.prompt], SamplingConfig(max_completion_length=160))
        self.parsed = rollout.parse(self.protocol, self.ends[0])
        self.match = match_objects(
            self.grid.bins_to_unit([item.bins for item in self.parsed.objects]),
            [item.box for item in self.objects],
            [item.desc for item in self.parsed.objects],
            [item.desc for item in self.objects],
            MatchingConfig(),
        )
        self.reordered, self.own = self.builder.build(rollout.completion_ids, self.parsed, self.match, self.objects)

    @torch.no_grad()
    def slot_logits(self, slot: int) -> torch.Tensor:
        """Logits of the coordinate tokens at a slot of the rollout, teacher-forced: shape `(K,)`."""
        inputs = collate_tokens(
            [self.prompt], [self.own], self.processor.tokenizer.pad_token_id, self.model.config.image_token_id
        )
        hidden = backbone(self.model)(**inputs, pixel_values=self.prompt.pixel_values).last_hidden_state
        row = hidden[0, len(self.prompt.ids) + slot - 1]
        return (self.model.get_output_embeddings().weight @ row)[self.coord_ids]


def corners(step: Step, bins) -> list[float]:
    return step.grid.bins_to_pixels([bins], *step.image.size)[0].tolist()


def outline(step: Step, bins, color: str, style: str = "-", grow: float = 0) -> Rectangle:
    x1, y1, x2, y2 = corners(step, bins)
    return Rectangle(
        (x1 - grow, y1 - grow), x2 - x1 + 2 * grow, y2 - y1 + 2 * grow, fill=False, ec=color, lw=2.2, ls=style
    )


def draw_image(axes, step: Step, boxes: list[Rectangle], labels: list[tuple], title: str) -> None:
    """Labels are (bins of the box in whose middle it stands, text, colour)."""
    axes.imshow(step.image)
    for box in boxes:
        axes.add_patch(box)
    for bins, text, color in labels:
        x1, y1, x2, y2 = corners(step, bins)
        style = {"fc": color, "ec": "none", "boxstyle": "round,pad=0.25"}
        middle = ((x1 + x2) / 2, (y1 + y2) / 2)
        axes.text(*middle, text, color="white", fontsize=9, weight="bold", ha="center", va="center", bbox=style)
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()


def colors(item: ParsedObject, sequence: TrainingSequence) -> tuple[str, str]:
    """Of the text and of the slots of an object, by what the sequence asks of them."""
    text, slots = ({target.position for target in targets} for targets in (sequence.text, sequence.slots))
    return TEXT if text & {*range(*item.desc_span)} else CONTEXT, MATCHED if slots & {*item.slots} else CONTEXT


def draw_strip(axes, blocks: list[tuple[str, str, str | None, str | None]], title: str) -> None:
    """Blocks of (text, colour of its tokens, colour of the four slots or `None`, colour of a frame or `None`)."""
    x = 0.05
    for text, color, slots, frame in blocks:
        start, width = x, 0.35 + 0.11 * len(text)
        axes.add_patch(Rectangle((x, 0), width, 1, fc=color, ec="white", lw=1))
        ink = "white" if color != CONTEXT else "#333333"
        axes.text(x + width / 2, 0.5, text, ha="center", va="center", fontsize=8.5, color=ink)
        x += width
        for _ in range(4 if slots else 0):
            axes.add_patch(Rectangle((x, 0), 0.2, 1, fc=slots, ec="white", lw=1))
            x += 0.2
        if frame:
            axes.add_patch(Rectangle((start, 0), x - start, 1, fill=False, ec=frame, lw=2.5, clip_on=False))
        x += 0.1
    axes.set_xlim(0, 15.3)
    axes.set_ylim(0, 1)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_axis_off()


def draw(step: Step, path: Path) -> None:
    names = [chr(ord("A") + j) for j in range(len(step.objects))]
    partner, missed = dict(step.match.pairs), set(step.match.unmatched_ground_truth)
    truth, written = [item.bins for item in step.objects], [item.bins for item in step.parsed.objects]
    same = {}  # objects written with equal boxes share a label
    for i, bins in enumerate(written):
        same.setdefault(bins, []).append(str(i + 1))

    figure = plt.figure(figsize=(11, 8.6), dpi=120)
    grid = figure.add_gridspec(5, 3, height_ratios=[5.6, 0.2, 0.6, 0.6, 1.9], hspace=0.55, wspace=0.06)
    draw_image(
        figure.add_subplot(grid[0, 0]),
        step,
        [outline(step, bins, "white", "--") for bins in truth],
        [(bins, names[j], "#222222") for j, bins in enumerate(truth)],
        "ground truth",
    )
    draw_image(
        figure.add_subplot(grid[0, 1]),
        step,
        [outline(step, bins, "#222222") for bins in written],
        [(bins, ", ".join(numbers), "#222222") for bins, numbers in same.items()],
        "steps 1, 2: rollout, parsed",
    )
    extras = [i for i in range(len(written)) if i not in partner]
    pairs = [(written[i], f"{i + 1} = {names[j]}", MATCHED) for i, j in step.match.pairs]
    draw_image(
        figure.add_subplot(grid[0, 2]),
        step,
        [
            *(outline(step, truth[j], MISSED if j in missed else "white", "--") for j in range(len(truth))),
            *(outline(step, written[i], MATCHED) for i in partner),
            *(outline(step, written[i], EXTRA, grow=2) for i in extras),
        ],
        pairs + [(truth[j], names[j], MISSED) for j in missed],
        "step 3: one-to-one matching",
    )
    figure.legend(
        handles=[
            Patch(color=TEXT, label="text: cross-entropy"),
            Patch(color=MATCHED, label="coordinates: coordinate losses, in 4a box losses too"),
            Patch(color=CONTEXT, label="no loss"),
            Patch(fc="white", ec=EXTRA, lw=2, label="extra"),
            Patch(fc="white", ec=MISSED, lw=2, label="missed"),
        ],
        loc="center",
        bbox_to_anchor=grid[1, :].get_position(figure),
        ncol=5,
        fontsize=9,
        frameon=False,
    )
    own = [
        (f"{i + 1} {item.desc}", *colors(item, step.own), EXTRA if i in extras else None)
        for i, item in enumerate(step.parsed.objects)
        if item.slots[-1] < len(step.own.ids)  # it ends with the last matched object
    ]
    draw_strip(
        figure.add_subplot(grid[2, :]), own, "step 4a, self-context: input the rollout, targets the matched boxes"
    )
    reordered = []
    for item in step.protocol.parse(step.reordered.ids).objects:
        j = truth.index(item.bins)
        reordered.append((f"{names[j]} {item.desc}", *colors(item, step.reordered), MISSED if j in missed else None))
    title = "step 4b, re-ordered ground truth: the rollout's order, what was missed last"
    draw_strip(figure.add_subplot(grid[3, :]), [*reordered, ("end", TEXT, None, None)], title)
    draw_distribution(figure.add_subplot(grid[4, :]), step)
    figure.savefig(path, bbox_inches="tight")
    Image.open(path).convert("RGB").quantize().save(path, optimize=True)
    print(f"Wrote {path}")


def draw_distribution(axes, step: Step) -> None:
    """The coordinate, of those of matched objects, whose token is farthest from the ground truth."""
    errors = [
        (abs(step.parsed.objects[i].bins[k] - step.objects[j].bins[k]), i, j, k)
        for i, j in step.match.pairs
        for k in range(4)
    ]
    _, i, j, k = max(errors)
    logits = step.slot_logits(step.parsed.objects[i].slots[k])
    target = step.objects[j].bins[k]
    mean = expectation(logits[None])[0].item() * (step.grid.num_bins - 1)
    low, high = round(min(target, mean) - 40), round(max(target, mean) + 40)
    probabilities = logits.softmax(-1)[low : high + 1]
    axes.bar(range(low, high + 1), probabilities.numpy(), width=1, color="#8fb3d9")
    top = probabilities.max().item()
    for place, text, color, side in (
        (mean, f"expectation {mean:.1f} ", MATCHED, "right"),
        (target, f" ground truth {target}", "#222222", "left"),
    ):
        axes.axvline(place, color=color, lw=2, ls="-" if side == "right" else ":")
        axes.text(place, 1.15 * top, text, ha=side, fontsize=9, color=color)
    axes.annotate(
        "", (target, 0.95 * top), (mean, 0.95 * top), arrowprops={"arrowstyle": "->", "color": "#222222", "lw": 2}
    )
    axes.text(target, 0.95 * top, "  L1, GIoU", va="center", fontsize=9, color="#222222")
    edge = ("left", "top", "right", "bottom")[k]
    axes.set_title(
        f"steps 5, 6: {edge} edge of {i + 1} ({step.parsed.objects[i].desc}), on the rollout's tokens",
        fontsize=11,
        loc="left",
    )
    axes.set_xlabel("coordinate token", fontsize=9)
    axes.set_ylabel("probability", fontsize=9)
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.35 * top)
    axes.tick_params(labelsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/concepts.png"))
    options = parser.parse_args()
    draw(Step(), options.out)


if __name__ == "__main__":
    main()
