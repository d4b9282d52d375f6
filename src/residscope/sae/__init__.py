"""Sparse autoencoders and transcoders: `rs.sae.train`, `rs.sae.evaluate`.

Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residscope.sae.evaluation import evaluate as evaluate
    from residscope.sae.training.report import Training as Training
    from residscope.sae.training.train import train as train

_HOME = {"evaluate": "evaluation", "Training": "training.report", "train": "training.train"}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
