# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
What an adapter does to which parameter of its base, read from PEFT's own structure without any weight.

PEFT builds the adapter on a base without memory. Scalings (rank and alpha patterns, rsLoRA), rows and whole modules
are then those that it would compute with.
"""

from dataclasses import dataclass, replace

from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraConv1dVariant, DoraConv2dVariant, DoraConv3dVariant, DoraLinearVariant
from peft.tuners.trainable_tokens import TrainableTokensConfig
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

_PREFIX = "base_model.model."
_ADAPTER = "default"
_DORA = (DoraLinearVariant, DoraConv1dVariant, DoraConv2dVariant, DoraConv3dVariant)
# Other initialisations take something from the base, which the adapter was then trained on
_KEPT_BASE = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Lora:
    """
    Keys of the tensors of a low-rank change, and its factor.

    Args:
        down (`str`):
            The matrix A, `(rank, in)`.
        up (`str`):
            The matrix B, `(out, rank)`.
        scaling (`float`):
            Factor of their product.
        magnitude (`str`, *optional*):
            DoRA's lengths of the rows.
        of_embedding (`bool`, *optional*, defaults to `False`):
            Whether the product is transposed.
    """

    down: str
    up: str
    scaling: float
    magnitude: str | None = None
    of_embedding: bool = False


@dataclass(frozen=True)
class Edit:
    """
    What happens to a parameter, in this order.

    Args:
        saved (`str`, *optional*):
            Key of the tensor that replaces it.
        lora ([`Lora`], *optional*):
            Change that is added.
        rows (`str`, *optional*):
            Key of the rows that replace some of it.
        row_ids (`tuple[int, ...]`, *optional*):
            The rows they replace.
    """

    saved: str | None = None
    lora: Lora | None = None
    rows: str | None = None
    row_ids: tuple[int, ...] = ()

    def keys(self) -> set[str]:
        """Returns the tensors of the adapter that it uses."""
        lora = (self.lora.down, self.lora.up, self.lora.magnitude) if self.lora else ()
        return {key for key in (self.saved, self.rows, *lora) if key is not None}


def check_supported(config: PeftConfig) -> None:
    """
    Raises:
        `ValueError`: If the adapter is of a kind that cannot be merged exactly.
    """
    wrong = None
    if not isinstance(config, (LoraConfig, TrainableTokensConfig)):
        wrong = f"is of type {getattr(config.peft_type, 'value', config.peft_type)}"
    elif isinstance(config, LoraConfig):
        if config.init_lora_weights not in _KEPT_BASE:
            wrong = (
                f"was initialised with init_lora_weights={config.init_lora_weights!r}, which changes the base. PEFT "
                "converts it when it is saved with path_initial_model_for_weight_conversion"
            )
        elif config.bias != "none":
            wrong = f"was trained with bias={config.bias!r}"
        options = ("lora_bias", "fan_in_fan_out", "layer_replication", "target_parameters", "megatron_config")
        used = [name for name in options if getattr(config, name, None)]
        if used:
            wrong = f"was trained with {used[0]}={getattr(config, used[0])!r}"
    if wrong:
        raise ValueError(
            f"adapter: it {wrong}. `coordexp merge` knows LoRA, DoRA, rsLoRA, modules_to_save and rows of tokens; "
            "merge it with PEFT's merge_and_unload."
        )


def plan_edits(model: PreTrainedModel, config: PeftConfig, shapes: dict[str, tuple[int, ...]]) -> dict[str, Edit]:
    """
    Args:
        model ([`~transformers.PreTrainedModel`]):
            The base on the meta device; PEFT changes it.
        config ([`~peft.PeftConfig`]):
            Configuration of the adapter.
        shapes (`dict[str, tuple[int, ...]]`):
            Shapes of the adapter's tensors.

    Returns:
        `dict[str, Edit]`: What happens to which parameter.

    Raises:
        `ValueError`: If the adapter does not fit the model, or a tensor has no place.
    """
    parameters = {name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)}
    try:
        adapted = get_peft_model(model, config, adapter_name=_ADAPTER, low_cpu_mem_usage=True)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"adapter: PEFT cannot apply it to the base: {error}. Use the base it was trained on.") from (
            error
        )
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _check_fit({key: tuple(value.shape) for key, value in expected.items()}, shapes, parameters)

    edits: dict[str, Edit] = {}
    for key in shapes:
        name = _parameter(key)
        if name in parameters:  # of a module that is saved as a whole
            if name in edits:
                raise ValueError(f"adapter: {edits[name].saved} and {key} both replace {name}.")
            edits[name] = Edit(saved=key)
    following = set()  # parameters whose rows follow the embedding's
    for path, module in adapted.base_model.model.named_modules():
        name = _plain(path) + ".weight"
        if isinstance(module, LoraLayer) and _ADAPTER in module.scaling:
            edits[name] = replace(edits.get(name, Edit()), lora=_lora(path, module))
        elif isinstance(module, TrainableTokensLayer):
            if edits.get(name, Edit()).rows:
                raise ValueError(
                    f"adapter: rows of {_plain(path)} are trained twice, as it is tied to the embedding. Train those "
                    "of embed_tokens alone."
                )
            key = f"{_PREFIX}{path}.trainable_tokens_delta"
            if module.tied_adapter is not None:
                following.add(name)
            if key not in shapes:  # it is tied to one that is saved
                key = next(
                    f"{_PREFIX}{other}.trainable_tokens_delta"
                    for other, owner in adapted.base_model.model.named_modules()
                    if owner is module.tied_adapter
                )
            ids = tuple(module.token_indices[_ADAPTER])
            edits[name] = replace(edits.get(name, Edit()), rows=key, row_ids=ids)
    for name, edit in edits.items():
        if name in following and (edit.lora or edit.saved):
            raise ValueError(
                f"adapter: {name} is tied to the embedding and follows its rows, but it is trained as a whole or by "
                "LoRA too, which PEFT does not compute. Train one of the two."
            )
        rows = parameters[name][0] if name in parameters else 0
        if edit.row_ids and not 0 <= min(edit.row_ids) <= max(edit.row_ids) < rows:
            raise ValueError(
                f"adapter: it trains row {max(edit.row_ids)} of {name}, and the base has {rows} rows. Use the base "
                "that it was trained on: one with the coordinate tokens (`coordexp expand-vocab`)."
            )
    unused = set(shapes).difference(*(edit.keys() for edit in edits.values()))
    if unused or edits.keys() - parameters.keys():
        raise ValueError(
            f"adapter: {min(unused | (edits.keys() - parameters.keys()))} belongs to no parameter of the base. Use "
            "the base that it was trained on."
        )
    return edits


def stored_names(model: PreTrainedModel, stored: set[str]) -> dict[str, str]:
    """
    Args:
        model ([`~transformers.PreTrainedModel`]):
            The base.
        stored (`set[str]`):
            Names of the tensors of its files.

    Returns:
        `dict[str, str]`: The tensor of each parameter that is stored as it is; checkpoints of earlier releases have
        other names.
    """
    transforms = get_model_conversion_mapping(model)
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    renamings = [each for each in transforms if not isinstance(each, WeightConverter)]
    own = model.state_dict()
    names = {}
    for key in sorted(stored):
        name, converted = rename_source_key(key, renamings, converters, model.base_model_prefix, own)
        if converted is None:
            names[name] = key
    return names


def _check_fit(expected: dict, found: dict, parameters: dict) -> None:
    hint = "Use the base that it was trained on (--base)."
    for key in sorted(expected.keys() & found.keys()):
        if expected[key] != found[key]:
            raise ValueError(f"adapter: {key} has shape {found[key]}, and the base needs {expected[key]}. {hint}")
    for key in sorted(found.keys() - expected.keys()):
        shape = parameters.get(_parameter(key))
        if shape is None:
            raise ValueError(f"adapter: the base has no module for {key}. {hint}")
        if shape != found[key]:
            raise ValueError(f"adapter: {key} has shape {found[key]}, and the base needs {shape}. {hint}")
    absent = sorted(expected.keys() - found.keys())
    if absent:
        raise ValueError(
            f"adapter: it lacks {len(absent)} tensors that its configuration asks for on this base, such as "
            f"{absent[0]}. {hint} If it is that one, save the adapter anew."
        )


def _lora(path: str, layer: LoraLayer) -> Lora:
    variant = layer.lora_variant.get(_ADAPTER)
    of_embedding = _ADAPTER in layer.lora_embedding_A
    if variant is not None and (not isinstance(variant, _DORA) or of_embedding):
        kind = type(variant).__name__.removesuffix("Variant")
        raise ValueError(f"adapter: {kind} of {path} is not supported. Merge it with PEFT's merge_and_unload.")
    down, up = (
        f"{_PREFIX}{path}.lora_{'embedding_' if of_embedding else ''}{part}{'' if of_embedding else '.weight'}"
        for part in "AB"
    )
    magnitude = f"{_PREFIX}{path}.lora_magnitude_vector" if variant is not None else None
    return Lora(down, up, float(layer.scaling[_ADAPTER]), magnitude, of_embedding)


def _parameter(key: str) -> str:
    """The parameter that a tensor replaces, if it is saved as a whole."""
    return _plain(key.removeprefix(_PREFIX))


def _plain(path: str) -> str:
    """A name without what PEFT puts around modules."""
    return ".".join(part for part in path.split(".") if part not in ("base_layer", "token_adapter", "original_module"))
