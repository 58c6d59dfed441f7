# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
What polygons cost beside boxes: parsing, matching by boxes and by masks, and the targets of matched polygons.

The rollouts are well-formed; the ground truth is the same objects, shuffled, every vertex jittered and the first one
elsewhere. Polygons are stars around their middle. Every figure is the minimum of several runs, in ms for all images.

    python benchmarks/polygons.py
    python benchmarks/polygons.py --images 2 --objects 5 --repeats 1
"""

import argparse
import os

import numpy as np
import shapely
from machine import cpu_model
from parse_match import DESCS, GRID, seconds

from coordexp_trl.matching import MatchingConfig, match_batch
from coordexp_trl.polygons import vertex_targets
from coordexp_trl.protocols import PROTOCOLS, get_protocol
from coordexp_trl.records import DetectionObject, enclosing_box
from coordexp_trl.tiny import build_tiny_tokenizer


def star(rng: np.random.Generator, vertices: int) -> np.ndarray:
    """Vertices around a middle, in bins, of shape `(vertices, 2)`."""
    angles = 2 * np.pi * (np.arange(vertices) + rng.random(vertices) / 2) / vertices
    radii = rng.uniform(20, 80) * rng.uniform(0.6, 1.0, vertices)
    points = rng.uniform(100, 900, 2) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.round().astype(int)


def jittered(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    return np.roll(points + rng.integers(-5, 6, points.shape), rng.integers(len(points)), axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--objects", type=int, default=20, help="objects per image")
    parser.add_argument("--vertices", type=int, nargs="+", default=[6, 20, 100])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    tokenizer = build_tiny_tokenizer()
    protocols = {name: get_protocol(name, tokenizer) for name in PROTOCOLS}
    print(
        f"{cpu_model()}, {os.cpu_count()} cores, numpy {np.__version__}, shapely {shapely.__version__}, minimum of "
        f"{options.repeats} runs; {options.images} images × {options.objects} objects, ms.\n"
    )
    names = [f"parse {name}" for name in protocols]
    print(f"| objects | {' | '.join(names)} | match by boxes | match by masks | targets |\n|---|{'---:|' * 5}")
    for vertices in (None, *options.vertices):
        rng = np.random.default_rng(0)
        shapes = [[star(rng, vertices or 20) for _ in range(options.objects)] for _ in range(options.images)]
        wanted = [[jittered(rng, points) for points in image] for image in shapes]
        bins, gt_bins = (
            [[points.ravel().tolist() for points in image] for image in side] for side in (shapes, wanted)
        )
        if vertices is None:
            bins, gt_bins = ([[enclosing_box(one) for one in image] for image in side] for side in (bins, gt_bins))
        descs = [[DESCS[k % len(DESCS)] for k in range(options.objects)] for _ in shapes]
        times = []
        for protocol in protocols.values():
            completions = [
                protocol.encode([DetectionObject(desc=desc, bins=one) for desc, one in zip(*image, strict=True)])
                for image in zip(descs, bins, strict=True)
            ]
            times.append(seconds(lambda: [protocol.parse(ids) for ids in completions], options.repeats))  # noqa: B023
        boxes = [
            [GRID.bins_to_unit([enclosing_box(one) for one in image]) for image in side] for side in (bins, gt_bins)
        ]
        polygons = [
            [[None if vertices is None else GRID.bins_to_unit(one) for one in image] for image in side]
            for side in (bins, gt_bins)
        ]

        def match(mask_iou: bool) -> list:
            return match_batch(*boxes, descs, descs, MatchingConfig(mask_iou=mask_iou), *polygons)  # noqa: B023

        times += [seconds(lambda: match(mask_iou), options.repeats) for mask_iou in (False, True)]  # noqa: B023
        if vertices is not None:
            pairs = [(i, j, k) for k, found in enumerate(match(True)) for i, j in found.pairs]
            targets = seconds(
                lambda: [vertex_targets(bins[k][i], gt_bins[k][j], GRID) for i, j, k in pairs],  # noqa: B023
                options.repeats,
            )
            times.append(targets)
        label = "boxes" if vertices is None else f"polygons of {vertices}"
        print(
            f"| {label} | {' | '.join(f'{1e3 * value:.1f}' for value in times)}{' | ' if vertices is None else ''} |"
        )


if __name__ == "__main__":
    main()
