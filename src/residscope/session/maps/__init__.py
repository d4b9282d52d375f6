"""The map of one run: what every head and MLP writes of the metric, where heads look, and one layer in full."""

from residscope.session.maps.files import AttentionFile, LayerFile, MapFile, RowsLens, Stopped
from residscope.session.maps.store import Maps

__all__ = ["AttentionFile", "LayerFile", "MapFile", "Maps", "RowsLens", "Stopped"]
