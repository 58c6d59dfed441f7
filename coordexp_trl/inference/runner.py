# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Inference over a data set: every image once, whatever interrupts it."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from tqdm.auto import tqdm

from coordexp_trl.generation import Prompt, VLLMConfig
from coordexp_trl.generation.main_process import on_main_process
from coordexp_trl.images import load_image
from coordexp_trl.inference.batches import in_background, plan_batches
from coordexp_trl.inference.coco_results import read_coco_file
from coordexp_trl.inference.config import InferenceConfig
from coordexp_trl.inference.images import InputImages, raise_problems, read_images
from coordexp_trl.inference.outputs import (
    RunSummary,
    finished_run,
    start_anew,
    write_coco,
    write_results,
    write_run,
)
from coordexp_trl.inference.predictor import Predictor, check_batch_size, check_options
from coordexp_trl.inference.run_journal import RunJournal, prediction_line, problem_line
from coordexp_trl.inference.settings import run_settings
from coordexp_trl.records import DetectionRecord, RecordError


def run_inference(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    adapter: str | Path | None = None,
    config: InferenceConfig | None = None,
    vllm: VLLMConfig | None = None,
    image_root: str | Path | None = None,
    limit: int | None = None,
    categories: str | Path | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str | None = None,
    skip_bad_images: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> RunSummary:
    """
    Finds the objects of all images of a data set, and writes `predictions.jsonl`, `predictions_coco.json`,
    `predictions_coco_ids.json` and `run.json`.

    A run that was cut short goes on where it stopped when it is started again: finished images are kept in a journal
    in the output folder. Launched in several processes, each looks at its share of the images and the main process
    writes the files.

    Args:
        model (`str` or `Path`):
            Checkpoint folder or model id.
        data (`str`, `Path` or a sequence of these):
            One JSONL file of records; or one folder, searched with its subfolders; or image files.
        out (`str` or `Path`):
            Output folder.
        adapter (`str` or `Path`, *optional*):
            Folder of a PEFT adapter for the model.
        config ([`InferenceConfig`], *optional*):
            What decides the predictions.
        vllm ([`VLLMConfig`], *optional*):
            Options of vLLM; with `use_vllm` it generates instead of transformers.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths of records start. Defaults to the folder of the file.
        limit (`int`, *optional*):
            Number of images, the first ones. All by default.
        categories (`str` or `Path`, *optional*):
            COCO or LVIS file whose ids the COCO results use.
        batch_size (`int`, *optional*):
            Prompts of one generation. Defaults to 8, with vLLM to 64.
        num_workers (`int`, *optional*):
            Threads that decode images. Defaults to the number of CPUs, at most 8.
        device (`str`, *optional*):
            Device; by default that of this process.
        skip_bad_images (`bool`, *optional*, defaults to `False`):
            Whether images that are missing, damaged or of another size than their record are left out and counted.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether an earlier run in the output folder is removed.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`RunSummary`]: What was found.

    Raises:
        `ValueError`: if an option, the model, a record or an image cannot be used, or the output folder holds a run
            with other settings. Finished images are kept.
    """
    config, out = config or InferenceConfig(), Path(out)
    model, adapter = str(model), None if adapter is None else str(adapter)
    data = [data] if isinstance(data, str | Path) else list(data)
    vllm = vllm if vllm is not None and vllm.use_vllm else None
    batch_size = check_batch_size(batch_size, vllm)
    check_options(model, adapter, config, vllm, device)
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers = {num_workers}: must be at least 1.")
    state = PartialState(cpu=device == "cpu")
    if vllm is not None and vllm.vllm_mode == "server" and state.num_processes > 1:
        raise ValueError("A vLLM server is asked by one process: it batches by itself. Launch without accelerate.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out = {str(out)!r}: is a file. Give a folder.")
    show_progress = show_progress and state.is_main_process
    images = read_images(data, image_root, limit, show_progress)
    if not skip_bad_images:
        raise_problems(images)
    coco_file = None if categories is None else read_coco_file(categories)
    engine = "transformers" if vllm is None else f"vllm {vllm.vllm_mode}"
    settings = run_settings(model, adapter, images.identity, image_root, limit, engine.split()[0], config)
    header = {
        "model": model,
        "adapter": adapter,
        "data": [str(path) for path in data] if len(data) > 1 else str(data[0]),
        "image_root": None if image_root is None else str(image_root),
        "categories": None if categories is None else str(categories),
        "engine": engine,
        "settings": settings,
        "prompt": config.prompt,
        "instructions": config.instructions,
        "classes": config.classes,
        "seed": config.seed,
        "batch_size": batch_size,
        "device": str(torch.device(device) if device else state.device),
        "world_size": state.num_processes,
    }
    journal = RunJournal(out, state.process_index)
    with closing(journal):
        done = on_main_process(state, lambda: _open(journal, settings, overwrite))
        if isinstance(done, dict):
            if state.is_main_process and done.get("categories") != header["categories"]:
                write_coco(out, images.records, coco_file)
            return RunSummary(out, done["images"], done["objects"], already_finished=True)
        if not state.is_main_process:
            journal.begin(settings)
        job = _Job(images, journal, done, skip_bad_images, num_workers, show_progress)
        if state.is_main_process:
            job.note_problems()
        predictor = None
        if job.unfinished:
            predictor = Predictor(model, adapter, config, vllm, device, batch_size)
        try:
            seconds = job.run(predictor, state) if predictor else 0.0
            state.wait_for_everyone()
            seconds = max(gather_object([seconds]))
            summary = RunSummary(out, seconds=seconds, resumed=len(done))
            if state.is_main_process:
                journal.collect(settings)
                new = sum("prediction" in row for index, row in journal.rows.items() if index not in done)
                summary.images_per_second = new / seconds if seconds else 0.0
                write_results(journal, images.records, coco_file, summary)
                write_run(summary, header)
                journal.remove()
            state.wait_for_everyone()
            return summary
        finally:
            if predictor is not None:
                predictor.close()


def _open(journal: RunJournal, settings: dict[str, Any], overwrite: bool) -> set[int] | dict[str, Any]:
    """Returns the images that an earlier run finished, or its `run.json` if it finished all."""
    if overwrite:
        journal.lock()
        start_anew(journal.out)
    run = finished_run(journal.out, settings)
    if run is not None:
        return run
    journal.open(settings)
    return set(journal.rows)


@dataclass
class _Prepared:
    """A batch ready to generate: the images that could be read, and why others could not."""

    number: int
    images: list[int]
    prompts: list[Prompt]
    problems: dict[int, str]


class _Job:
    """The images of a run, and where they are kept when they are finished."""

    def __init__(
        self,
        images: InputImages,
        journal: RunJournal,
        done: set[int],
        skip_bad_images: bool,
        num_workers: int | None,
        show_progress: bool,
    ):
        self.images = images
        self.journal = journal
        self.done = done
        self.skip_bad_images = skip_bad_images
        self.num_workers = num_workers or min(8, os.cpu_count() or 1)
        self.show_progress = show_progress
        self.unfinished = len(images.records) - len(done | images.problems.keys())

    def note_problems(self) -> None:
        """Keeps why images could not even be looked at; each is finished with that."""
        new = (index for index in self.images.problems if index not in self.done)
        self.journal.add([self._problem(index, self.images.problems[index]) for index in new])

    def run(self, predictor: Predictor, state: PartialState) -> float:
        """Predicts this process's share of what is unfinished; returns the seconds that it took."""
        records = self.images.records
        sizes, names = zip(*(((record.width, record.height), record.place) for record in records), strict=True)
        lengths = predictor.prompt_lengths(sizes)
        usable = [k for k in range(len(records)) if k not in self.images.problems]
        predictor.check_lengths([lengths[k] for k in usable], [names[k] for k in usable])
        predictor.start(max(lengths[k] for k in usable))
        # The same batches however many were finished before: numbers do not depend on what an image stands beside
        plan = enumerate(plan_batches(lengths, predictor.images_per_batch, self.images.problems))
        batches = [(number, batch) for number, batch in plan if not self.done.issuperset(batch)]
        mine = batches[state.process_index :: state.num_processes]
        total = sum(index not in self.done for _, batch in mine for index in batch)
        share = f" ({state.num_processes} processes)" if state.num_processes > 1 else ""
        started = time.perf_counter()
        with (
            ThreadPoolExecutor(self.num_workers) as pool,
            tqdm(total=total, desc=f"Detecting{share}", unit=" images", disable=not self.show_progress) as bar,
        ):
            prepared = in_background(lambda job: self._prepare(predictor, pool, *job), mine)
            with closing(prepared):
                for batch in prepared:
                    bar.update(self._finish(predictor, batch))
        return time.perf_counter() - started

    def _prepare(self, predictor: Predictor, pool: ThreadPoolExecutor, number: int, batch: list[int]) -> _Prepared:
        loaded = list(pool.map(lambda index: _load(self.images.records[index]), batch))
        problems = {index: image for index, image in zip(batch, loaded, strict=True) if isinstance(image, str)}
        readable = [image for image in loaded if not isinstance(image, str)]
        return _Prepared(
            number,
            [index for index in batch if index not in problems],
            predictor.prompts(readable) if readable else [],
            problems,
        )

    def _finish(self, predictor: Predictor, batch: _Prepared) -> int:
        """Predicts a batch and keeps what is new in it; returns the number of images that are now finished."""
        if batch.problems and not self.skip_bad_images:
            problem = next(iter(batch.problems.values()))
            raise ValueError(
                f"{problem}\nFinished images are kept. Repair the file and run the command again, or leave such "
                "images out with --skip-bad-images."
            )
        try:
            rollouts = predictor.generate(batch.prompts, batch.number) if batch.prompts else []
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"The device's memory does not suffice: {error}\nFinished images are kept. Run the command again with "
                "a smaller --batch-size, or begin anew with a smaller --max-pixels."
            ) from error
        lines = [self._problem(index, problem) for index, problem in batch.problems.items()]
        for index, written in zip(batch.images, rollouts, strict=True):
            if index in self.done:
                continue
            record = self.images.records[index]
            image_id = (record.metadata or {}).get("image_id")
            image_id = image_id if type(image_id) in (int, str) else None
            found = predictor.read(written, record.images[0], record.width, record.height, image_id)
            lines.append(prediction_line(index, found))
        self.journal.add([line for line in lines if line["index"] not in self.done])
        return len(lines)

    def _problem(self, index: int, problem: str) -> dict[str, Any]:
        return problem_line(index, self.images.records[index].images[0], problem)


def _load(record: DetectionRecord) -> Image.Image | str:
    """The image, or why it cannot be used."""
    try:
        return load_image(record)
    except RecordError as error:
        return str(error)
