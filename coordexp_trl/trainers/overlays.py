# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Overlays of evaluation images for the trackers: ground truth beside predictions, the same images every time."""

from collections.abc import Mapping, Sequence

import numpy as np
from accelerate.logging import get_logger
from PIL import Image
from transformers.integrations import rewrite_logs

from coordexp_trl.datasets.record_views import JoinedRecords
from coordexp_trl.evaluation.average_precision import ImageDetections
from coordexp_trl.evaluation.pictures import draw_overlay
from coordexp_trl.images import load_image
from coordexp_trl.records import DetectionObject, DetectionRecord, RecordError
from coordexp_trl.trainers.evaluated_image import EvaluatedImage
from coordexp_trl.trainers.trackers import TAKE_PICTURES, keep_one_run, log_pictures

logger = get_logger(__name__)


class OverlayMixin:
    """For a [`~transformers.Trainer`] whose configuration is a [`DetectionConfig`]."""

    def _set_up_overlays(self) -> None:
        keep_one_run(self.callback_handler.callbacks, self.args)
        self._overlays: tuple[str, list[tuple[DetectionRecord, ImageDetections]]] = ("", [])

    def _choose_overlays(
        self, records: Sequence[DetectionRecord], evaluated: Mapping[int, EvaluatedImage], prefix: str
    ) -> None:
        """
        Keeps what is to be drawn after the metrics are logged, if a tracker takes it.

        Args:
            records (`Sequence[DetectionRecord]`):
                Evaluation records.
            evaluated (`Mapping[int, EvaluatedImage]`):
                The evaluated ones by position.
            prefix (`str`):
                Prefix of the metrics.
        """
        is_taken = any(isinstance(item, TAKE_PICTURES) for item in self.callback_handler.callbacks)
        count = self.args.log_overlays if is_taken and self.is_world_process_zero() else 0
        chosen = (
            records.first_positions(count) if isinstance(records, JoinedRecords) else range(min(count, len(records)))
        )
        shown = [(records[position], evaluated[position].detections) for position in chosen if position in evaluated]
        self._overlays = (prefix, shown)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """See [`~transformers.Trainer.evaluate`]; sends overlays of the first images to the trackers."""
        metrics = super().evaluate(*args, **kwargs)
        (prefix, shown), self._overlays = self._overlays, ("", [])
        pictures = []
        for record, detections in shown:
            try:
                pictures.append((record.images[0], self._draw_overlay(record, detections)))
            except RecordError as error:  # the file was there a moment ago: a picture less is no reason to stop
                logger.warning(f"No overlay: {error}")
        if pictures:
            (name,) = rewrite_logs({f"{prefix}_overlays": None})
            log_pictures(self.callback_handler.callbacks, name, pictures, self.state.global_step)
        return metrics

    def _draw_overlay(self, record: DetectionRecord, detections: ImageDetections) -> Image.Image:
        boxes = np.asarray(detections.boxes).reshape(-1, 4) * ((record.width, record.height) * 2)
        return draw_overlay(
            load_image(record),
            record.objects,
            [DetectionObject(desc, bbox_2d=box) for desc, box in zip(detections.descs, boxes.tolist(), strict=True)],
            detections.scores,
            title=record.images[0],
            iou_threshold=self.args.eval_iou_threshold,
            grid=self.grid,
        )
