"""Direct attribution's arithmetic: what each write of a run adds to a metric of the logits through the final norm alone."""

from residscope.methods._lib.direct.effects import DirectEffects, direct_effects
from residscope.methods._lib.direct.metrics import linear
from residscope.methods._lib.direct.report import DirectAttribution
from residscope.methods._lib.direct.sites import direct_sites

__all__ = ["DirectAttribution", "DirectEffects", "direct_effects", "direct_sites", "linear"]
