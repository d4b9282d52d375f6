"""A description as the source of a family file: what looking found, pinned to one configuration."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from residscope.model.families import HARMLESS, Block, Family

_SIZES = {
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "n_heads": ("num_attention_heads", "n_head", "n_heads"),
    "n_kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "d_head": ("head_dim",),
    "d_mlp": ("intermediate_size", "ffn_dim", "n_inner"),
    "d_vocab": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len"),
}


def pinned(family: Family, config: Any) -> str:
    """The source of a family file: a model of this type is served where all but its sizes is as it is here.

    A size that no field says pins the others too; layers that differ pin the number of layers.
    """
    told = {name: value for name, value in config.to_dict().items() if name not in HARMLESS}
    sizes: dict[str, Any] = dict(family.sizes)
    for name, called in _SIZES.items():
        same = [field for field in called if isinstance(sizes.get(name), int) and told.get(field) == sizes[name]]
        sizes[name] = same[0] if same else sizes[name]
    heads, d_head, d_model = (int(family.sizes[name]) for name in ("n_heads", "d_head", "d_model"))
    if isinstance(sizes["d_head"], int) and heads * d_head == d_model:  # as a family has it that does not say
        del sizes["d_head"]
    unsaid = any(isinstance(size, int) and size > 0 for name, size in sizes.items() if name != "context")
    free = set() if unsaid else {field for field in sizes.values() if isinstance(field, str)}
    if family.others or any("." in site for site in family.absent):
        free -= {sizes["n_layers"]}
    known = {name: () if name in free else (value,) for name, value in sorted(told.items())}
    whole = replace(family, sizes=sizes, config=known, found=False)
    head = f'"""{family.name}, as looking found it: `residscope families show --save`."""'
    return f"{head}\n\nfrom residscope.model.families import Block, Family\n\nFAMILY = {_source(whole)}\n"


def _source(value: Any, indent: str = "") -> str:
    """A value as Python reads it, one part a line; fields that are as they would be anyway are left out."""
    inner = f"{indent}    "
    if isinstance(value, Family | Block):
        parts = [
            f"{field.name}={_source(getattr(value, field.name), inner)}"
            for field in fields(value)
            if getattr(value, field.name) != _default(field)
        ]
        return f"{type(value).__name__}({_lines(parts, indent)})"
    if isinstance(value, Mapping):
        return "{" + _lines([f"{_source(key)}: {_source(item, inner)}" for key, item in value.items()], indent) + "}"
    if isinstance(value, list | tuple):
        items = ", ".join(_source(item, indent) for item in value)
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"[{items}]" if isinstance(value, list) else f"({items}{comma})"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f"float('{value}')"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _lines(parts: list[str], indent: str) -> str:
    return "".join(f"\n{indent}    {part}," for part in parts) + (f"\n{indent}" if parts else "")
