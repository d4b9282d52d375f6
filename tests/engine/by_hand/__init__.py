"""Twenty-five families described by hand, from their modeling files: what looking is compared with, and shares no code with.

Each is a file as a plugin brings it (`residscope.model.families.Family`). With the three that Residscope has itself they are
all that `families.FAMILIES` has configurations of.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from residscope.model import families as own
from residscope.model.families import Family


def families() -> dict[str, Family]:
    """The families that are described by hand, here or in Residscope, by model type."""
    files = [module.name for module in iter_modules(__path__) if not module.name.startswith("_")]
    listed = [import_module(f"{__name__}.{name}").FAMILY for name in files]
    return {model_type: family for family in listed for model_type in family.model_types} | own.families()


def family_of(config: Any) -> Family:
    """The hand-written description of a configuration's type, as it is for this configuration."""
    family = families()[config.model_type]
    family.check_config(config)
    return family.variant(config)
