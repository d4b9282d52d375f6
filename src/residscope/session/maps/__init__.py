"""The map of one run: what every head and MLP writes of the metric, where heads look, and one layer in full."""

from residscope.session.maps.files import AttentionFile, LayerFile, MapFile, RowsLens, Stopped
from residscope.session.maps.lens import LensFile, lens_file
from residscope.session.maps.store import Maps

__all__ = ["AttentionFile", "LayerFile", "LensFile", "MapFile", "Maps", "RowsLens", "Stopped", "lens_file"]
