# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Checks of a PEFT adapter: does it fit its base, and can it be served?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import PreTrainedModel

from coordexp_trl.adapters.loading import ADAPTER_CONFIG, base_of_adapter
from coordexp_trl.doctor.check import Check, Step, fail, listed, ok, run_steps, warn
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.doctor.safetensors_files import StoredTensor, read_header

_VOCABULARY_MODULES = ("embed_tokens", "lm_head")


@dataclass
class Adapter:
    """
    An adapter folder.

    Args:
        folder (`Path`):
            The folder.
        base (`Checkpoint`, *optional*):
            The checkpoint it is for, if that is there.
    """

    folder: Path
    base: Checkpoint | None

    @cached_property
    def config(self) -> PeftConfig:
        """Its configuration."""
        return PeftConfig.from_pretrained(self.folder)

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Its tensors."""
        return read_header(self.folder / SAFETENSORS_WEIGHTS_NAME)[0]

    @property
    def saved_modules(self) -> list[str]:
        """Modules that were trained, and are stored, as a whole."""
        return sorted(getattr(self.config, "modules_to_save", None) or ())

    @cached_property
    def token_rows(self) -> dict[str, list[int]]:
        """Trained rows by the module that they belong to."""
        found = getattr(self.config, "trainable_token_indices", None)
        if self.config.peft_type == "TRAINABLE_TOKENS":
            targets = self.config.target_modules or ["embed_tokens"]
            found = dict.fromkeys([targets] if isinstance(targets, str) else targets, self.config.token_indices)
        if not found:
            return {}
        return dict(found) if isinstance(found, Mapping) else {"embed_tokens": list(found)}


def check_adapter(folder: str, checkpoint: Checkpoint | None) -> Iterator[Check]:
    """Every check of an adapter, for a checkpoint or the base that the adapter names."""
    path = Path(folder).expanduser()
    if checkpoint is None and (path / ADAPTER_CONFIG).is_file() and (base := base_of_adapter(path)):
        checkpoint = Checkpoint(base) if (Path(base).expanduser() / "config.json").is_file() else None
    yield from run_steps(STEPS, "adapter.skipped", Adapter(path, checkpoint))


def check_files(adapter: Adapter) -> Iterator[Check]:
    """Configuration and weights."""
    name, folder = "adapter.files", adapter.folder
    again = "Give the folder that save_model or save_pretrained wrote."
    if not (folder / ADAPTER_CONFIG).is_file():
        yield fail(name, f"{folder} is not an adapter: no {ADAPTER_CONFIG}", again)
        return
    try:
        config = adapter.config
    except (ValueError, TypeError, KeyError) as error:
        yield fail(name, f"{ADAPTER_CONFIG} cannot be read: {error}", again)
        return
    _, problem = read_header(folder / SAFETENSORS_WEIGHTS_NAME)
    if problem:
        yield fail(name, problem, "Save or copy the adapter again.")
        return
    size = sum(
        tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1) for tensor in adapter.tensors.values()
    )
    rank = f", rank {config.r}" if hasattr(config, "r") else ""
    yield ok(name, f"{config.peft_type.value}{rank}, {len(adapter.tensors)} tensors, {size / 1e6:,.2f} M parameters")


def check_base(adapter: Adapter) -> Iterator[Check]:
    """The base that the adapter names."""
    name, named = "adapter.base", adapter.config.base_model_name_or_path
    if adapter.base is None:
        yield fail(
            name,
            f"its base {named!r} is not a checkpoint folder here" if named else "it names no base",
            "Name the base with --model.",
        )
    elif not named:
        yield warn(name, "it names no base", f"Write base_model_name_or_path into {ADAPTER_CONFIG}.")
    elif Path(named).expanduser().resolve() != adapter.base.folder.resolve():
        yield warn(
            name,
            f"made for {named}, checked with {adapter.base.folder}",
            "Make sure that both are the same model: shapes do not tell. After a move, correct "
            f"base_model_name_or_path in {ADAPTER_CONFIG}.",
        )
    else:
        yield ok(name, named)


def check_fit(adapter: Adapter) -> Iterator[Check]:
    """Does PEFT find the target modules in the base, and do all tensors have their places and shapes?"""
    name = "adapter.modules"
    # A model of its own: PEFT changes it
    model: PreTrainedModel = Checkpoint(adapter.base.folder).structure.model
    try:
        adapted = get_peft_model(model, adapter.config, low_cpu_mem_usage=True)
    except ValueError as error:
        yield fail(name, f"PEFT cannot apply it to the base: {error}", "Use it with the base that it was trained on.")
        return
    places = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(adapted).items()}
    absent = sorted(places.keys() - adapter.tensors.keys())
    homeless = sorted(adapter.tensors.keys() - places.keys())
    shapes = [
        f"{key} is {tensor.shape}, not {places[key]}"
        for key, tensor in sorted(adapter.tensors.items())
        if key in places and places[key] != tensor.shape
    ]
    found = [f"{len(absent)} tensors are missing: {listed(absent)}"] if absent else []
    found += [f"{len(homeless)} tensors have no place in the base: {listed(homeless)}"] if homeless else []
    found += [f"{len(shapes)} tensors have another shape: {listed(shapes)}"] if shapes else []
    if found:
        yield fail(name, "; ".join(found), "Use it with the base that it was trained on (architecture and size).")
    else:
        yield ok(name, f"all {len(places)} tensors have their place in the base")


def check_token_rows(adapter: Adapter) -> Iterator[Check]:
    """Are the trained rows those of the coordinate tokens?"""
    name = "adapter.token_rows"
    whole = [module for module in adapter.saved_modules if module in _VOCABULARY_MODULES]
    if whole:
        yield ok(name, f"all rows are trained (modules_to_save: {', '.join(whole)})")
        return
    if not adapter.token_rows:
        yield ok(name, "no rows of tokens are trained: the base must know its coordinate tokens")
        return
    try:
        ids = set(adapter.base.vocabulary.ids.tolist())
    except ValueError as error:
        yield fail(
            name, f"it trains rows of tokens, and the base has none: {error}", "Use the base it was trained on."
        )
        return
    for module, rows in adapter.token_rows.items():
        others, missing = sorted(set(rows) - ids), sorted(ids - set(rows))
        found = f"{module}: rows of {len(ids) - len(missing)} of {len(ids)} coordinate tokens are trained"
        if missing or others:
            yield warn(
                name,
                f"{found}, and of {len(others)} other tokens" if others else found,
                "If that is not meant, the adapter belongs to another tokenizer: use its own base.",
            )
        else:
            yield ok(name, found)


def check_serving(adapter: Adapter) -> Iterator[Check]:
    """Can vLLM serve the adapter as it is (`--lora-modules`)?"""
    name, config = "adapter.serving", adapter.config
    saved = adapter.saved_modules
    reasons = [f"modules_to_save holds {', '.join(saved)}"] if saved else []
    reasons += [f"it trains rows of {', '.join(sorted(adapter.token_rows))}"] if adapter.token_rows else []
    reasons += ["it uses DoRA"] if getattr(config, "use_dora", False) else []
    reasons += [f"it is {config.peft_type.value}"] if config.peft_type not in ("LORA", "TRAINABLE_TOKENS") else []
    if reasons:
        merge = f"Merge it first: coordexp merge --adapter {adapter.folder} --out DIR, and serve DIR."
        rows = set(saved) & set(_VOCABULARY_MODULES)
        lighter = " For coordinate rows trainable_token_indices is far smaller than modules_to_save." if rows else ""
        yield warn(name, f"vLLM does not load it as LoRA: {listed(reasons)}", merge + lighter)
    else:
        yield ok(name, "plain LoRA")


STEPS = (
    Step("adapter.files", (), check_files),
    Step("adapter.base", ("adapter.files",), check_base),
    Step("adapter.modules", ("adapter.base",), check_fit),
    Step("adapter.token_rows", ("adapter.base",), check_token_rows),
    Step("adapter.serving", ("adapter.files",), check_serving),
)
