"""Direct attribution's arithmetic: what each write of a run adds to a metric of the logits through the final norm alone."""

from residscope.methods._lib.direct.effects import DirectEffects, direct_effects
from residscope.methods._lib.direct.features import as_dictionary
from residscope.methods._lib.direct.metrics import linear
from residscope.methods._lib.direct.removal import MetricAt, removed
from residscope.methods._lib.direct.report import DirectAttribution
from residscope.methods._lib.direct.sites import direct_sites
from residscope.methods._lib.direct.terms import report, terms_of

__all__ = [
    "DirectAttribution",
    "DirectEffects",
    "MetricAt",
    "as_dictionary",
    "direct_effects",
    "direct_sites",
    "linear",
    "removed",
    "report",
    "terms_of",
]
