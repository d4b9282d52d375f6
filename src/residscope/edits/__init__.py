"""Edits: everything worth doing to the stream, as declarative, serialisable changes at sites.

    model.run(prompt, edits=[edits.ablate("z.9", head=6), edits.freeze("pattern.3"), edits.steer("resid_pre.6", d, 4.0)])

An edit takes `head` (`kv_head` on k and v), `neuron` and `pos` where its site has them; all of them unless said. Negative
positions count from each row's own end. Edits are values: they change nothing until a run applies them.
"""

from residscope.edits.base import KINDS, BaseEdit
from residscope.edits.features import Feature, feature
from residscope.edits.isolate import Isolate, isolate
from residscope.edits.moves import Clamp, ProjectOut, Steer, clamp, project_out, steer
from residscope.edits.overlays import Overlay, overlay
from residscope.edits.paths import Path, path
from residscope.edits.resample import Resample
from residscope.edits.saved import from_dict, from_json, load, save, to_json
from residscope.edits.sources import Freeze, Patch, freeze, patch
from residscope.edits.values import Ablate, Noise, Scale, ablate, noise, scale

__all__ = [
    "KINDS", "Ablate", "BaseEdit", "Clamp", "Feature", "Freeze", "Isolate", "Noise", "Overlay", "Patch", "Path", "ProjectOut",
    "Resample", "Scale", "Steer", "ablate", "clamp", "feature", "freeze", "from_dict", "from_json", "isolate", "load", "noise",
    "overlay", "patch", "path", "project_out", "save", "scale", "steer", "to_json",
]  # fmt: skip
