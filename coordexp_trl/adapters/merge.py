# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Merges an adapter into its base on disk, file by file, without loading the model."""

import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from coordexp_trl.adapters.loading import ADAPTER_CONFIG, base_of_adapter
from coordexp_trl.adapters.merge_base import check_same_base
from coordexp_trl.adapters.merge_check import Difference, compare_logits
from coordexp_trl.adapters.merge_plan import Edit, check_supported, plan_edits, stored_names
from coordexp_trl.adapters.merge_weights import DTYPES, TensorFile, Writer, equal_tensors
from coordexp_trl.checkpoint_files import (
    INDEX,
    Weights,
    check_apart,
    check_folders,
    copy_other_files,
    load_config,
    load_tokenizer,
    new_folder,
    remove_leftovers,
    write_json,
)
from coordexp_trl.checkpoints import PROMPTING_FILE

_FIELDS = ("base", "out")


@dataclass(frozen=True)
class MergeReport:
    """
    What [`merge_adapter`] did.

    Args:
        base (`Path`):
            The base.
        named_base (`str`, *optional*):
            The base that the adapter names.
        changed (`int`):
            Tensors that the adapter changed.
        written (`tuple[str, ...]`):
            Files of weights that were written.
        linked (`tuple[str, ...]`):
            Files of weights that are the base's own.
        copied (`tuple[str, ...]`):
            Files of weights that were copied, as they could not be linked.
        tied (`bool`):
            Whether head and embedding share their weight.
        untied (`bool`):
            Whether they did so in the base only.
        left_out (`tuple[str, ...]`):
            Files of the base that were not copied: other copies of the weights and training states.
        difference ([`Difference`], *optional*):
            Logits of base and adapter against the merged checkpoint.
    """

    base: Path
    named_base: str | None
    changed: int
    written: tuple[str, ...]
    linked: tuple[str, ...]
    copied: tuple[str, ...]
    tied: bool
    untied: bool
    left_out: tuple[str, ...]
    difference: Difference | None

    @property
    def other_base(self) -> bool:
        """Whether the adapter names a base of another name."""
        return self.named_base is not None and Path(self.named_base).name != self.base.name

    def rows(self) -> list[tuple[str, str]]:
        """Returns the table that the command line prints."""
        files = [(len(self.written), "written"), (len(self.linked), "linked"), (len(self.copied), "copied")]
        head = "tied to the embedding" if self.tied else "a matrix of its own"
        if self.untied:
            head += ", tied in the base: the adapter changes head and embedding differently"
        table = [
            ("base", str(self.base)),
            ("tensors changed", str(self.changed)),
            ("weight files", ", ".join(f"{count} {what}" for count, what in files if count)),
            ("head", head),
        ]
        if self.difference is not None:
            table.append(("logits", str(self.difference)))
        return table + [("not copied", name) for name in self.left_out]


def merge_adapter(
    adapter: str | Path,
    out: str | Path,
    base: str | Path | None = None,
    overwrite: bool = False,
    verify: bool = True,
) -> MergeReport:
    """
    Writes the checkpoint that an adapter and its base make together.

    LoRA, DoRA and rsLoRA, modules that were trained as a whole and rows of tokens are carried out in float32 and
    rounded once, to the type of each tensor. Files of weights that nothing changes are hard-linked to the base's, all
    other files of the base are copied.

    Args:
        adapter (`str` or `Path`):
            Adapter folder, as PEFT saves it.
        out (`str` or `Path`):
            Folder to write. It appears only when it is complete.
        base (`str` or `Path`, *optional*):
            Folder of the base. Defaults to the one that the adapter names.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace a checkpoint in `out`, once the new one is complete.
        verify (`bool`, *optional*, defaults to `True`):
            Whether to load both models, one after the other, and compare their logits.

    Returns:
        [`MergeReport`]

    Raises:
        `ValueError`: If adapter and base do not belong together, are incomplete or of a kind that cannot be merged, if
            a folder is unusable, or if the logits differ.
    """
    adapter, out = Path(adapter).expanduser(), Path(out).expanduser().resolve()
    _check_adapter_folder(adapter)
    try:
        named = base_of_adapter(adapter)
    except ValueError:
        if base is None:
            raise
        named = None
    base = Path(named if base is None else base).expanduser()
    remove_leftovers(out)
    check_apart(adapter, out, ("adapter", "out"))
    _check_base(base, named, adapter)
    check_folders(base, out, overwrite, _FIELDS)
    check_same_base(base, named)
    config = _load_adapter_config(adapter)
    weights = Weights.read(base, "base")
    shapes = _read_shapes(adapter / SAFETENSORS_WEIGHTS_NAME)
    _check_tokenizers(adapter, base, config)
    with TensorFile(adapter / SAFETENSORS_WEIGHTS_NAME) as tensors:
        plan = _Plan.make(load_config(base, "base"), config, weights, shapes, tensors)
        with new_folder(out) as partial:
            partial.mkdir()
            left_out = copy_other_files(base, partial, {*weights.files, INDEX, ADAPTER_CONFIG})
            if (adapter / PROMPTING_FILE).is_file():  # it was asked as the adapter's training says
                shutil.copyfile(adapter / PROMPTING_FILE, partial / PROMPTING_FILE)
            if plan.untied:
                _write_untied(partial)
            linked, copied = _write_weights(base, partial, weights, plan, tensors)
            _check_written(partial, weights, plan)
            difference = compare_logits(base, adapter, partial) if verify else None
    written = tuple(file for file in weights.files if file not in (*linked, *copied))
    return MergeReport(
        base, named, plan.changed, written, linked, copied, plan.tied, plan.untied, left_out, difference
    )


@dataclass(frozen=True)
class _Plan:
    """What happens to the stored tensors: edits by name, and a head that is written beside its embedding."""

    edits: dict[str, Edit]
    head: tuple[str, str, Edit] | None  # its name, the tensor it starts from, and what happens to it
    tied: bool

    @property
    def untied(self) -> bool:
        return self.head is not None

    @property
    def changed(self) -> int:
        return len(self.edits) + self.untied

    @classmethod
    def make(
        cls,
        base_config: PreTrainedConfig,
        config: PeftConfig,
        weights: Weights,
        shapes: dict[str, tuple[int, ...]],
        tensors: TensorFile,
    ) -> "_Plan":
        if getattr(base_config, "quantization_config", None):
            raise ValueError("base: it is quantised. Merge into the original checkpoint (--base), and quantise after.")
        with torch.device("meta"):  # structure without memory
            model = AutoModelForImageTextToText.from_config(base_config)
        stored = stored_names(model, set(weights.shapes))
        modules = {id(module): name for name, module in model.named_modules()}
        embedding, head = (
            f"{modules[id(module)]}.weight" for module in (model.get_input_embeddings(), model.get_output_embeddings())
        )
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        own = {name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PEFT about tied heads, which are seen to here
            edits = plan_edits(model, config, shapes)

        new_head = None
        if tied:
            of_embedding, of_head = edits.pop(embedding, Edit()), edits.pop(head, Edit())
            if embedding not in stored:
                raise ValueError(f"base: it has no {embedding}. Download the checkpoint again.")
            tied = _same_result(of_embedding, of_head, tensors)
            if not tied:
                new_head = (head, stored[embedding], of_head)
            if of_embedding != Edit():
                edits[embedding] = of_embedding
                if tied and head in stored:  # some checkpoints store it nevertheless
                    edits[head] = of_embedding
        for name in edits:
            if name not in stored:
                raise ValueError(
                    f"base: its files hold no {name}, which the adapter changes. They belong to another model, or "
                    "hold it in a form that only transformers can convert: load the base with from_pretrained and "
                    "save it with save_pretrained."
                )
            if weights.shapes[stored[name]] != own[name]:
                raise ValueError(
                    f"base: {stored[name]} has shape {weights.shapes[stored[name]]}, but config.json asks for "
                    f"{own[name]}. Use config.json and weights of the same checkpoint."
                )
        return cls({stored[name]: edit for name, edit in edits.items()}, new_head, tied)


def _same_result(first: Edit, second: Edit, tensors: TensorFile) -> bool:
    """Whether two edits make the same of the same matrix."""
    if first.lora != second.lora or first.row_ids != second.row_ids:
        return False
    pairs = [(first.saved, second.saved), (first.rows, second.rows)]
    return all(a == b or (a and b and equal_tensors(tensors, a, b)) for a, b in pairs)


def _check_adapter_folder(adapter: Path) -> None:
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"adapter = {str(adapter)!r}: is not an adapter folder, it has no {ADAPTER_CONFIG}. Give the folder that "
            "save_model or save_pretrained wrote."
        )
    if not (adapter / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise ValueError(
            f"adapter = {str(adapter)!r}: has no {SAFETENSORS_WEIGHTS_NAME}. Load it with PEFT and save it with "
            "save_pretrained."
        )


def _check_base(base: Path, named: str | None, adapter: Path) -> None:
    if not base.is_dir() and str(base) == named:
        raise ValueError(
            f"base: {str(adapter / ADAPTER_CONFIG)!r} names {named!r}, which is not a folder here. Give its folder "
            f"with --base; of a model on the Hub get a copy first: `hf download {named} --local-dir DIR`."
        )
    if (base / ADAPTER_CONFIG).is_file() and not (base / "config.json").is_file():
        raise ValueError(f"base = {str(base)!r}: is an adapter itself. Merge it first, and give the result as --base.")


def _load_adapter_config(adapter: Path) -> PeftConfig:
    try:
        config = PeftConfig.from_pretrained(adapter)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"adapter = {str(adapter)!r}: cannot read its {ADAPTER_CONFIG}: {error}") from error
    check_supported(config)
    return config


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
            wrong = [name for name, part in parts.items() if part.get_dtype() not in DTYPES]
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"adapter: {path} is incomplete or damaged ({error}). Save or copy it again.") from error
    if wrong:
        raise ValueError(f"adapter: {wrong[0]} is not of type {', '.join(DTYPES)}.")
    return shapes


def _check_tokenizers(adapter: Path, base: Path, config: PeftConfig) -> None:
    """The rows of an adapter mean what its tokenizer says."""
    has_rows = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None)
    own = any((adapter / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    if not has_rows and not own:
        return
    length = len(load_tokenizer(base, "base"))
    if own and len(load_tokenizer(adapter, "adapter")) != length:
        raise ValueError(
            f"adapter = {str(adapter)!r}: its tokenizer has {len(load_tokenizer(adapter, 'adapter'))} tokens, that of "
            f"the base {length}. Use the base that it was trained on (--base)."
        )
    rows = has_rows or []
    ids = [index for part in (rows.values() if isinstance(rows, dict) else [rows]) for index in part]
    if ids and max(ids) >= length:
        raise ValueError(
            f"base = {str(base)!r}: its tokenizer has {length} tokens, but the adapter trains the row of token "
            f"{max(ids)}. Use the base that it was trained on: one with the coordinate tokens "
            "(`coordexp expand-vocab`)."
        )


def _write_untied(partial: Path) -> None:
    path = partial / "config.json"
    content = json.loads(path.read_text("utf-8"))
    content["tie_word_embeddings"] = False
    if "text_config" in content:
        content["text_config"]["tie_word_embeddings"] = False
    write_json(path, content)


def _write_weights(
    base: Path, partial: Path, weights: Weights, plan: _Plan, tensors: TensorFile
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Writes what changes, and returns the files that were linked and copied."""
    linked, copied = [], []
    changed = {weights.places[name] for name in plan.edits}
    if plan.head:
        name, origin, _ = plan.head
        changed.add(weights.places[origin])
    total = sum((base / file).stat().st_size for file in changed)
    with (
        tqdm(total=total, desc="Merging", unit="B", unit_scale=True) as progress,
        Writer(tensors, progress.update) as writer,
    ):
        for file in weights.files:
            if file not in changed:
                (linked if _link(base / file, partial / file) else copied).append(file)
                continue
            added = {}
            if plan.head and weights.places[plan.head[1]] == file:
                added[plan.head[0]] = plan.head[1:]
            with TensorFile(base / file) as source:
                for name in plan.edits.keys() & source.entries.keys():
                    if source.entries[name].dtype not in DTYPES:
                        raise ValueError(
                            f"base: {name} is of type {source.entries[name].dtype}, which cannot be merged into. Use "
                            "the original checkpoint (--base)."
                        )
                writer.write(source, partial / file, plan.edits, added)
            shutil.copymode(base / file, partial / file)
        writer.finish()
    if weights.index is not None:
        write_json(partial / INDEX, _new_index(weights, plan, base))
    return tuple(linked), tuple(copied)


def _new_index(weights: Weights, plan: _Plan, base: Path) -> dict:
    if plan.head is None:
        return weights.index
    name, origin, _ = plan.head
    file = weights.places[origin]
    with TensorFile(base / file) as source:
        entry = source.entries[origin]
    metadata = dict(weights.index.get("metadata", {}))
    for key, added in (("total_size", entry.nbytes), ("total_parameters", entry.shape[0] * entry.shape[1])):
        if key in metadata:
            metadata[key] += added
    return {**weights.index, "metadata": metadata, "weight_map": {**weights.index["weight_map"], name: file}}


def _link(source: Path, target: Path) -> bool:
    """Makes a hard link, or a copy where the file system has none; returns whether it is a link."""
    source = source.resolve()  # of a link, such as in the Hub's cache, what it points to
    try:
        os.link(source, target)
        return True
    except OSError:
        shutil.copyfile(source, target)
        return False


def _check_written(partial: Path, weights: Weights, plan: _Plan) -> None:
    """Reads the headers of the new files back."""
    expected = dict(weights.shapes)
    if plan.head:
        expected[plan.head[0]] = weights.shapes[plan.head[1]]
    if Weights.read(partial, "out").shapes != expected:
        raise ValueError("out: what was written is not what was read. Is the disk in order?")
