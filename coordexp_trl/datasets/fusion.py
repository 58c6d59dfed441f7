# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Several datasets as one, of which every epoch takes its share."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.fusion_file import FusionSource, read_fusion
from coordexp_trl.datasets.record_file import RecordFile
from coordexp_trl.datasets.record_views import JoinedRecords, RecordView
from coordexp_trl.records import DEFAULT_GRID, DetectionRecord

__all__ = ["FusionDataset", "FusionSource", "is_fusion_file", "load_fusion", "read_fusion"]

logger = logging.getLogger(__name__)

FUSION_SUFFIXES = (".yaml", ".yml")


class FusionDataset(JoinedRecords):
    """
    Training records of several sources, of which every epoch takes a new sample. Itself it is the sequence of all of
    them; [`epoch_indices`] says which ones an epoch takes.

    Args:
        sources (`Sequence[FusionSource]`):
            The sources.
        parts (`Sequence[Sequence[DetectionRecord]]`):
            Records of each.

    Raises:
        `ValueError`: If two sources share a name, or a quota is 0.
    """

    def __init__(self, sources: Sequence[FusionSource], parts: Sequence[Sequence[DetectionRecord]]):
        names = [source.name for source in sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} sources are named {name!r}. Give each a name of its own.")
        super().__init__(dict(zip(names, parts, strict=True)), {source.name: source.prompt for source in sources})
        self.sources = tuple(sources)
        self.quotas = [source.quota(len(part)) for source, part in zip(sources, parts, strict=True)]
        for source, part, quota in zip(sources, parts, self.quotas, strict=True):
            if not quota:
                raise ValueError(
                    f"source {source.name!r}: ratio = {source.ratio:g} of {len(part)} training records is none. Raise "
                    "the ratio, or set train_jsonl to null to leave the source out of training."
                )

    @property
    def epoch_length(self) -> int:
        """Records of an epoch."""
        return sum(self.quotas)

    def epoch_indices(self, epoch: int, seed: int) -> np.ndarray:
        """
        Args:
            epoch (`int`):
                Number of the epoch.
            seed (`int`):
                Seed of the run.

        Returns:
            `np.ndarray`: Positions of the epoch's records, source by source in ascending order. They depend on
            nothing but (seed, epoch), and those of a source on no other source.
        """
        drawn = [
            start + source.sample(len(part), epoch, seed)
            for source, part, start in zip(self.sources, self.parts.values(), self.bounds[:-1], strict=True)
        ]
        return np.concatenate(drawn)

    def select(self, kept: Sequence[int]) -> "FusionDataset":
        """Returns the fusion of the records at the ascending positions `kept`; quotas follow what is left."""
        kept = np.asarray(kept, dtype=np.int64)
        cuts = np.searchsorted(kept, self.bounds)
        parts = [
            RecordView(part, kept[cuts[k] : cuts[k + 1]] - self.bounds[k])
            for k, part in enumerate(self.parts.values())
        ]
        return FusionDataset(self.sources, parts)


def is_fusion_file(path: str | os.PathLike) -> bool:
    """Whether a data file is a fusion, by its suffix."""
    return Path(path).suffix.lower() in FUSION_SUFFIXES


def load_fusion(
    path: str | os.PathLike,
    split: str = "train",
    image_root: str | os.PathLike | None = None,
    grid: CoordinateGrid = DEFAULT_GRID,
    verbose: bool = True,
) -> JoinedRecords:
    """
    Opens the files of a fusion; every record is validated, and none is kept in memory.

    Args:
        path (`str` or `os.PathLike`):
            The YAML file.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"val"`.
        image_root (`str` or `os.PathLike`, *optional*):
            Image root of the sources that name none.
        grid ([`CoordinateGrid`], *optional*):
            Grid that coordinate tokens must belong to. Defaults to 1000 bins.
        verbose (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars and warn of records that are left out; for the main process.

    Returns:
        [`FusionDataset`] of the sources that have training records, or [`JoinedRecords`] of those that have evaluation
        records.

    Raises:
        `ValueError`: If the fusion or a record is not as described, or no source has records of the split.
    """
    key = f"{split}_jsonl"
    sources = [source for source in read_fusion(path) if getattr(source, key) is not None]
    if not sources:
        raise ValueError(f"{path}: no source has {key}. Give at least one source a file of {split} records.")
    parts = []
    for source in sources:
        limit = source.max_objects if split == "train" else None
        root = source.image_root if source.image_root is not None else image_root
        part = RecordFile(getattr(source, key), root, grid, limit, verbose)
        if part.num_dropped and verbose:
            logger.warning(
                f"{part.path}: {part.num_dropped} of {part.num_dropped + len(part)} records have more than "
                f"max_objects={limit} objects and are left out of training."
            )
        parts.append(part)
    if split == "train":
        return FusionDataset(sources, parts)
    prompts = {source.name: source.prompt for source in sources}
    return JoinedRecords({source.name: part for source, part in zip(sources, parts, strict=True)}, prompts)
