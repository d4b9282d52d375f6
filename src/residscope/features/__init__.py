"""Feature pages: what is known of every feature of a dictionary, every neuron, every direction, from one pass over a text.

Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residscope.features.atlas import Atlas as Atlas
    from residscope.features.endpoint import Endpoint as Endpoint
    from residscope.features.exporting import export as export
    from residscope.features.feature_page import FeaturePage as FeaturePage
    from residscope.features.feature_page import page as page
    from residscope.features.gathering import gather as gather
    from residscope.features.names import FeatureNames as FeatureNames
    from residscope.features.naming import name_features as name_features
    from residscope.features.removal import Effects as Effects
    from residscope.features.removal import effects as effects
    from residscope.features.search import on_text as on_text
    from residscope.features.search import on_token as on_token
    from residscope.features.search import similar as similar

_HOME = {
    "Atlas": "atlas",
    "Effects": "removal",
    "Endpoint": "endpoint",
    "FeatureNames": "names",
    "FeaturePage": "feature_page",
    "effects": "removal",
    "export": "exporting",
    "gather": "gathering",
    "name_features": "naming",
    "on_text": "search",
    "on_token": "search",
    "page": "feature_page",
    "similar": "search",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"residscope.features.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
