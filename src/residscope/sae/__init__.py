"""Sparse autoencoders and transcoders: trained, read from other libraries' files, checked against a model, written.

Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residscope.sae.cross_layer import CrossLayer as CrossLayer
    from residscope.sae.evaluation import evaluate as evaluate
    from residscope.sae.fits import fit_check as fit_check
    from residscope.sae.loading import load as load
    from residscope.sae.saving import save as save
    from residscope.sae.splitting import absorbed as absorbed
    from residscope.sae.splitting import split_features as split_features
    from residscope.sae.training.report import Training as Training
    from residscope.sae.training.train import train as train

_HOME = {
    "CrossLayer": "cross_layer",
    "Training": "training.report",
    "evaluate": "evaluation",
    "fit_check": "fits",
    "load": "loading",
    "absorbed": "splitting",
    "save": "saving",
    "split_features": "splitting",
    "train": "training.train",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
