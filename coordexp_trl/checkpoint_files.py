# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The files of a checkpoint folder, and how a new folder is made from an old one: complete, or not at all."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from coordexp_trl.journal import lock_folder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Other copies of the weights and training states do not fit a changed model.
_STALE_SUFFIXES = (".bin", ".gguf", ".h5", ".index.json", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Weights:
    """
    The safetensors files of a checkpoint.

    Args:
        files (`list[str]`):
            Their names.
        shapes (`dict[str, tuple[int, ...]]`):
            Shapes of all tensors.
        places (`dict[str, str]`):
            The file of each tensor.
        index (`dict`, *optional*):
            The index, if there are shards.
    """

    files: list[str]
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, str]
    index: dict | None

    @classmethod
    def read(cls, folder: Path, field: str) -> "Weights":
        """
        Reads the headers; that each file is as long as its header says is checked too.

        Args:
            folder (`Path`):
                Checkpoint folder.
            field (`str`):
                Option that names the folder, for the message.

        Returns:
            [`Weights`]

        Raises:
            `ValueError`: If a file or a tensor is missing, or a file is incomplete.
        """
        file = next((name for name in (WEIGHTS, INDEX) if (folder / name).exists()), None)
        if file is None:
            found = "weights in pytorch_model*.bin only" if any(folder.glob("pytorch_model*.bin")) else "no weights"
            raise ValueError(
                f"{field} = {str(folder)!r}: has {found}, need {WEIGHTS} or {INDEX}. Load the checkpoint with "
                "AutoModelForImageTextToText.from_pretrained and save it with save_pretrained, the processor too."
            )
        index, files, shapes, places = None, [WEIGHTS], {}, {}
        try:
            if file == INDEX:
                index = json.loads((folder / INDEX).read_text("utf-8"))
                files = sorted(set(index["weight_map"].values()))
            for file in files:
                with safe_open(folder / file, "pt") as shard:
                    shapes |= {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}
                    places |= dict.fromkeys(shard.keys(), file)
            for name, file in (index or {}).get("weight_map", {}).items():
                if places.get(name) != file:
                    raise ValueError(f"it lacks {name}")
        except (SafetensorError, FileNotFoundError, KeyError, ValueError) as error:
            raise ValueError(
                f"{field} = {str(folder)!r}: {file} is missing or incomplete ({error}). Download the checkpoint again."
            ) from error
        return cls(files, shapes, places, index)


def check_folders(src: Path, dst: Path, overwrite: bool, fields: tuple[str, str] = ("src", "dst")) -> None:
    """
    Args:
        src (`Path`):
            Checkpoint folder that is read.
        dst (`Path`):
            Folder that will be written, resolved.
        overwrite (`bool`):
            Whether a checkpoint there may be replaced.
        fields (`tuple[str, str]`, *optional*, defaults to `("src", "dst")`):
            Options that name the two, for the message.

    Raises:
        `ValueError`: If `src` is no checkpoint, if one lies in the other, or if something is in the way at `dst`.
    """
    field = fields[0]
    if not src.is_dir():
        raise ValueError(
            f"{field} = {str(src)!r}: is not a folder. If it is the name of a model on the Hub, get a copy first: "
            f"`hf download {src} --local-dir DIR`."
        )
    if not (src / "config.json").is_file():
        raise ValueError(f"{field} = {str(src)!r}: is not a checkpoint, it has no config.json.")
    check_apart(src, dst, fields)
    field = fields[1]
    if not dst.exists():
        return
    if not overwrite:
        raise ValueError(
            f"{field} = {str(dst)!r}: exists already. Choose another folder, or replace it with --overwrite."
        )
    if not dst.is_dir() or (any(dst.iterdir()) and not (dst / "config.json").is_file()):
        raise ValueError(
            f"{field} = {str(dst)!r}: is not a checkpoint (no config.json), so --overwrite does not replace it. "
            "Choose another folder."
        )


def check_apart(src: Path, dst: Path, fields: tuple[str, str]) -> None:
    """Raises a `ValueError` if one of two folders is or lies in the other; see [`check_folders`]."""
    real, (source, target) = src.resolve(), fields
    if dst == real or (dst.exists() and dst.samefile(src)):
        raise ValueError(
            f"{target} = {str(dst)!r}: is {source} itself. Choose another folder; {source} is never changed."
        )
    if real in dst.parents or dst in real.parents:
        raise ValueError(
            f"{target} = {str(dst)!r}: one of {source} and {target} lies in the other. "
            f"Choose a folder beside {source}."
        )


def load_config(folder: Path, field: str) -> PreTrainedConfig:
    """Returns the configuration of a checkpoint; raises a `ValueError` that names `field` if it cannot be read."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{field} = {str(folder)!r}: cannot read its config.json: {error}") from error


def load_tokenizer(folder: Path, field: str) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a checkpoint; raises a `ValueError` that names `field` if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{field} = {str(folder)!r}: cannot load its tokenizer: {error}") from error
    files = tokenizer.vocab_files_names.values()
    if not any((folder / file).is_file() for file in files):  # transformers builds an empty tokenizer then
        raise ValueError(
            f"{field} = {str(folder)!r}: has no tokenizer (none of {', '.join(files)}). Save the processor of the "
            "model there with save_pretrained, or download the checkpoint again."
        )
    return tokenizer


def copy_other_files(src: Path, partial: Path, own: Collection[str]) -> tuple[str, ...]:
    """
    Copies what was not written anew. Hidden files, `checkpoint-*` folders, training states and other copies of the
    weights are left out.

    Args:
        src (`Path`):
            Checkpoint folder.
        partial (`Path`):
            New folder.
        own (`Collection[str]`):
            Files that are not copied, as the caller sees to them. Other files that are there already stay, save chat
            templates.

    Returns:
        `tuple[str, ...]`: Training states and other copies of the weights, which were left out.
    """
    left_out = []
    for path in sorted(src.rglob("*")):
        name = path.relative_to(src)
        target = partial / name
        if str(name) in own or not path.is_file() or any(p.startswith((".", "checkpoint-")) for p in name.parts):
            continue
        if path.name.endswith(_STALE_SUFFIXES):
            left_out.append(str(name))
        elif not target.exists() or path.suffix == ".jinja":
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return tuple(left_out)


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file as transformers does."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def new_folder(dst: Path) -> Iterator[Path]:
    """
    A folder beside `dst` to write in, which becomes `dst` at the end; after a failure it is gone, and `dst` is what it
    was.

    Args:
        dst (`Path`):
            Folder to make or replace, resolved.

    Returns:
        `Path`: Folder that does not exist yet.
    """
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dst.parent, prefix=f".{dst.name}-", suffix=".partial") as scratch:
        lock = lock_folder(Path(scratch))
        try:
            partial, old = Path(scratch) / "checkpoint", Path(scratch) / "old"
            yield partial
            _replace(dst, partial, old)
        finally:
            os.close(lock)


def remove_leftovers(dst: Path) -> None:
    """
    Removes what killed runs left beside `dst`. What such a run had moved away, and not yet replaced, returns.

    Args:
        dst (`Path`):
            Folder that was to be written.
    """
    name = re.compile(rf"\.{re.escape(dst.name)}-\w{{8}}\.partial")
    for scratch in dst.parent.glob(".*.partial"):
        if not name.fullmatch(scratch.name) or not scratch.is_dir():
            continue
        try:
            lock = lock_folder(scratch)
        except ValueError:  # its run goes on
            continue
        try:
            if (scratch / "old").exists() and not dst.exists():
                os.rename(scratch / "old", dst)
            shutil.rmtree(scratch)
        finally:
            os.close(lock)


def _replace(dst: Path, new: Path, old: Path) -> None:
    """Renames `new` to `dst`, and what was there to `old`; after a failure `dst` is what it was."""
    try:
        if dst.exists():
            os.rename(dst, old)
        os.rename(new, dst)
    except BaseException:
        if old.exists() and not dst.exists():
            os.rename(old, dst)
        raise
