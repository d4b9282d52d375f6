"""What describes a model: its family's file, or what a look at it finds, kept by its architecture."""

from typing import Any

import torch

from residscope.engine.layout import require_merged
from residscope.engine.look.family import look
from residscope.engine.look.kept import known
from residscope.engine.structure import Structure
from residscope.errors import UnknownFamily
from residscope.model.families import Family, families, family_of


def described(hf: Any, weights: str = "") -> Family:
    """The family of a model: of its model type's file, or found by looking, also where the file does not know a field.

    What was found of the same architecture before is taken as it is, and judged as anew. weights: their hash, where known.

    Raises:
        UnmergedAdapter: an adapter of PEFT's works beside the weights. UnknownFamily: nothing was found that could be served.
        UnknownConfig: the file says that a value is not served; or it does not know a field, and looking found nothing either.
    """
    require_merged(hf)
    file = families().get(str(getattr(hf.config, "model_type", "")))
    if file is not None and not file.strange(hf.config):
        return family_of(hf.config)
    try:
        return known(hf, weights, look)
    except UnknownFamily as error:
        if file is not None:
            file.check_config(hf.config)
        ways = [f"take off {what}" for what in Structure(hf).attached()[:1]]
        ways += ["load it in a wider dtype: dtype=torch.float32"] if _is_half(hf) else []
        if not ways:
            raise
        fix = " or ".join([*ways, error.fix or "add a family file (docs/families.md)"])
        raise UnknownFamily(error.failed, received=error.received, allowed=error.allowed, fix=fix) from error


def _is_half(hf: Any) -> bool:
    dtype = getattr(next(hf.parameters(), None), "dtype", None)
    return dtype in (torch.float16, torch.bfloat16)
