# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Adds the coordinate tokens to a vision-language checkpoint on disk, without loading the model.

New rows are drawn from the rows of the tokens that were there, each matrix from its own: `mu + 0.1 * sigma * noise`,
with `mu` and `sigma` per dimension and standard normal noise of a fixed seed. Around the mean, new tokens take almost
no probability from the others (Hewitt, 2021, "Initializing New Word Embeddings for Pretrained Language Models"). The
noise makes them distinct, also in bfloat16, and is small enough to be overwritten soon by what is learnt.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedTokenizerBase

from coordexp_trl.checkpoint_files import (
    INDEX,
    Weights,
    check_folders,
    copy_other_files,
    load_config,
    load_tokenizer,
    new_folder,
    remove_leftovers,
    write_json,
)
from coordexp_trl.coordinates import WILDCARD_TOKEN, CoordinateGrid, CoordVocabulary, parse_coord_token

_NOISE_SCALE = 0.1
_SEED = 0

_LEGACY_TOKENIZER_FILES = ("added_tokens.json", "special_tokens_map.json")  # all of it is in tokenizer.json


@dataclass(frozen=True)
class ExpansionReport:
    """
    What [`expand_vocabulary`] did.

    Args:
        written (`bool`):
            Whether a checkpoint was written; `False` if the source has the coordinate tokens already.
        vocabulary ([`CoordVocabulary`]):
            The coordinate tokens, of the destination if one was written.
        rows_before (`int`):
            Rows of the embedding matrix of the source.
        rows_after (`int`):
            Rows of the embedding matrix of the destination.
        tied (`bool`):
            Whether head and embedding share their weight.
        left_out (`tuple[str, ...]`, *optional*):
            Files that were not copied: other copies of the weights and training states.
    """

    written: bool
    vocabulary: CoordVocabulary
    rows_before: int
    rows_after: int
    tied: bool
    left_out: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """Returns the table that the command line prints."""
        ids, wildcard = self.vocabulary.ids, self.vocabulary.wildcard_id
        table = [
            ("wildcard", "none" if wildcard is None else f"id {wildcard}"),
            ("bins", f"{len(ids)}, ids {int(ids[0])} to {int(ids[-1])}"),
            ("embedding rows", f"{self.rows_before} -> {self.rows_after}"),
            ("head", "tied to the embedding" if self.tied else "a matrix of its own"),
        ]
        return table + [("not copied", name) for name in self.left_out]


def expand_vocabulary(
    src: str | Path, dst: str | Path, num_bins: int = 1000, wildcard: bool = True, overwrite: bool = False
) -> ExpansionReport:
    """
    Writes a copy of a checkpoint that has `<|coord_*|>` and `<|coord_0|>` … `<|coord_{num_bins-1}|>`.

    The tokens take the ids after the last one of the tokenizer. Rows that pad the matrices (Qwen3-VL has 151936 rows
    for 151669 tokens) are used first; the matrices grow by what is missing. All other rows, tensors and files stay as
    they are. Hidden files, `checkpoint-*` folders, training states and other copies of the weights are left out.

    A source that has the bins already is left alone, also if it lacks the wildcard: that plays no part in training,
    and the ids of the bins must not move.

    Args:
        src (`str` or `Path`):
            Folder of a vision-language checkpoint in safetensors format, in one file or in shards.
        dst (`str` or `Path`):
            Folder to write. It appears only when it is complete.
        num_bins (`int`, *optional*, defaults to `1000`):
            Number of bins, at least 2.
        wildcard (`bool`, *optional*, defaults to `True`):
            Whether to add the wildcard token, before the bins.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace a checkpoint in `dst`, once the new one is complete.

    Returns:
        [`ExpansionReport`]

    Raises:
        `ValueError`: If a folder or option is unusable, the checkpoint is incomplete or inconsistent, or its tokenizer
            has another set of coordinate tokens.
    """
    grid = CoordinateGrid(num_bins)
    src, dst = Path(src), Path(dst).resolve()
    remove_leftovers(dst)
    check_folders(src, dst, overwrite)
    config, tokenizer, weights = load_config(src, "src"), load_tokenizer(src, "src"), Weights.read(src, "src")
    keys, tied = _find_matrices(src, config, weights)
    rows = weights.shapes[keys[0]][0]
    old_ids = tokenizer.get_vocab()
    num_tokens = 1 + max(old_ids.values())
    if num_tokens > rows:
        raise ValueError(
            f"src = {str(src)!r}: its tokenizer has ids up to {num_tokens - 1}, but its embedding only {rows} rows. "
            "Use the tokenizer and the weights of the same checkpoint."
        )
    present = _present_vocabulary(src, tokenizer, num_bins)
    if present is not None:
        return ExpansionReport(False, present, rows, rows, tied)

    names = [WILDCARD_TOKEN] * wildcard + [grid.token(k) for k in range(num_bins)]
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    ids = tokenizer.convert_tokens_to_ids(names)
    if ids != list(range(num_tokens, num_tokens + len(names))):
        raise ValueError(
            f"src = {str(src)!r}: its tokenizer gives new tokens ids from {min(ids)}, among its own ids, which have "
            f"gaps and reach {num_tokens - 1}. Fill the gaps of its vocabulary first."
        )
    new_rows = max(rows, num_tokens + len(names))
    with new_folder(dst) as partial:
        tokenizer.save_pretrained(partial, save_jinja_files=(src / "chat_template.jinja").exists())
        left_out = copy_other_files(src, partial, {*weights.files, INDEX, *_LEGACY_TOKENIZER_FILES})
        if new_rows != rows:
            _write_vocab_size(partial, new_rows)
        _write_weights(src, partial, weights, keys, num_tokens, len(names))
        vocabulary = _verify(partial, old_ids, ids[-num_bins:], keys, new_rows)
    return ExpansionReport(True, vocabulary, rows, new_rows, tied, left_out)


def _find_matrices(src: Path, config: PreTrainedConfig, weights: Weights) -> tuple[list[str], bool]:
    """Returns the keys of the embedding and of the head, if it is stored, and whether the two are tied."""
    try:
        with torch.device("meta"):  # structure without memory
            model = AutoModelForImageTextToText.from_config(config)
    except ValueError as error:
        raise ValueError(
            f"src = {str(src)!r}: model_type {config.model_type!r} is not a vision-language model that transformers "
            "knows as AutoModelForImageTextToText."
        ) from error
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    rows = config.get_text_config().vocab_size
    names = [
        next(name for name, child in model.named_modules() if child is module) + ".weight"
        for module in (embedding, head)
    ]
    found = [_find_key(name, rows, weights.shapes) for name in names]
    missing = [name for name, key in zip(names, found, strict=True) if key is None]
    if missing and not (tied and len(missing) == 1):
        raise ValueError(
            f"src = {str(src)!r}: {missing[0]} with vocab_size = {rows} rows is not among its {len(weights.shapes)} "
            "tensors. The weights are quantised, or do not belong to config.json: use the original checkpoint."
        )
    return [key for key in found if key is not None], tied


def _find_key(name: str, rows: int, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Returns the key of a parameter; checkpoints of earlier releases have other prefixes."""
    ending = ".".join(name.split(".")[-2:])
    matching = [key for key in shapes if f".{key}".endswith(f".{ending}") and shapes[key][0] == rows]
    return name if name in matching else matching[0] if len(matching) == 1 else None


def _present_vocabulary(src: Path, tokenizer: PreTrainedTokenizerBase, num_bins: int) -> CoordVocabulary | None:
    """Returns the coordinate tokens if the tokenizer has all of them, and `None` if it has none."""
    vocab = tokenizer.get_vocab()
    bins = sorted(k for k in map(parse_coord_token, vocab) if k is not None)
    if not bins and WILDCARD_TOKEN not in vocab:
        return None
    start = "start from a checkpoint without coordinate tokens"
    if len(bins) >= 2 and bins == list(range(len(bins))) and len(bins) != num_bins:
        raise ValueError(
            f"num_bins = {num_bins}: {str(src)!r} has the coordinate tokens of {len(bins)} bins already, and that "
            f"number cannot be changed. Use num_bins = {len(bins)}, or {start}."
        )
    if bins != list(range(num_bins)):
        missing = next(k for k in range(num_bins) if k not in bins)
        raise ValueError(
            f"src = {str(src)!r}: its tokenizer has some coordinate tokens, but not all: {len(bins)} bins, without "
            f"{CoordinateGrid(num_bins).token(missing)!r}. To not mix up their meaning, {start}."
        )
    try:
        return CoordVocabulary.from_tokenizer(tokenizer, num_bins)
    except ValueError as error:
        raise ValueError(
            f"src = {str(src)!r}: coordinate tokens are in its vocabulary as ordinary entries that text is not "
            f"tokenised to; each must be one added token. Instead, {start}."
        ) from error


def _write_vocab_size(partial: Path, rows: int) -> None:
    path = partial / "config.json"
    content = json.loads(path.read_text("utf-8"))
    # Configurations of earlier releases are flat.
    content.get("text_config", content)["vocab_size"] = rows
    if "vocab_size" in content:
        content["vocab_size"] = rows
    write_json(path, content)


def _write_weights(src: Path, partial: Path, weights: Weights, keys: list[str], first: int, count: int) -> None:
    """Writes the weights with new rows `first` … `first + count - 1` in the matrices `keys`."""
    metadata = (weights.index or {}).get("metadata", {})
    for file in tqdm(weights.files, desc="Writing weights", unit="file"):
        size, parameters = _write_shard(src / file, partial / file, keys, first, count)
        for name, added in (("total_size", size), ("total_parameters", parameters)):
            if name in metadata:
                metadata[name] += added
    if weights.index is not None:
        write_json(partial / INDEX, weights.index)


def _write_shard(source: Path, target: Path, keys: list[str], first: int, count: int) -> tuple[int, int]:
    """Writes one file, and returns by how many bytes and parameters it has grown."""
    size = parameters = 0
    with safe_open(source, "pt") as shard:
        here = [key for key in keys if key in shard.keys()]
        if not here:
            shutil.copyfile(source, target)
            return size, parameters
        tensors = {name: shard.get_tensor(name) for name in shard.keys()}
        for key in here:
            old = tensors[key]
            new = torch.cat([old[:first], _initial_rows(old[:first], count), old[first + count :]])
            size += new.nbytes - old.nbytes
            parameters += new.numel() - old.numel()
            tensors[key] = new
        try:
            save_file(tensors, target, metadata=shard.metadata())
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"cannot write {target.name} beside dst: {error}") from error
    shutil.copymode(source, target)  # `save_file` makes it private
    return size, parameters


def _initial_rows(old: torch.Tensor, count: int) -> torch.Tensor:
    """Draws `count` rows from the statistics of `old`, `(N, hidden_size)`; equal input gives equal rows."""
    total, squares = torch.zeros(2, old.size(1), dtype=torch.float64)
    for block in map(torch.Tensor.double, old.split(8192)):  # as a whole, float64 would take gigabytes
        total += block.sum(0)
        squares += block.square().sum(0)
    mean = total / len(old)
    std = (squares / len(old) - mean.square()).clamp_min(0).sqrt()
    noise = torch.randn(count, old.size(1), generator=torch.Generator().manual_seed(_SEED))
    return (mean + _NOISE_SCALE * std * noise).to(old.dtype)


def _verify(partial: Path, old_ids: dict[str, int], bin_ids: list[int], keys: list[str], rows: int) -> CoordVocabulary:
    """Reads the new checkpoint back and returns its coordinate tokens."""
    tokenizer = load_tokenizer(partial, "dst")
    if not old_ids.items() <= tokenizer.get_vocab().items():
        raise ValueError(f"src: its tokenizer, a {type(tokenizer).__name__}, changes its ids when saved and loaded.")
    vocabulary = CoordVocabulary.from_tokenizer(tokenizer, len(bin_ids))
    shapes = Weights.read(partial, "dst").shapes
    assert vocabulary.ids.tolist() == bin_ids
    assert {shapes[key][0] for key in keys} == {rows} == {load_config(partial, "dst").get_text_config().vocab_size}
    vocabulary.check_embedding_rows(rows, len(tokenizer))
    return vocabulary
