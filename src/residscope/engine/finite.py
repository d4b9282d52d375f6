"""Numbers that are none: NaN and infinity, refused by the name of where they are first."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from residscope.errors import NotFinite
from residscope.model.sites import KINDS, rank

if TYPE_CHECKING:
    from residscope.engine.recording import Recording

_MASKED = ("scores",)  # minus infinity, or as good as, where a mask keeps a key out


def require_finite_weights(hf: nn.Module) -> None:
    """Refuse a model with a weight that is NaN or infinite. Raises NotFinite, with the first one's name."""
    for name, weight in hf.named_parameters():
        if weight.is_floating_point() and not weight.is_meta and type(weight.data) is Tensor and not _finite(weight):
            wrong = int((~torch.isfinite(weight)).sum())
            raise NotFinite(
                f"the weight {name} is not finite",
                received=f"{wrong} of {weight.numel()} entries are NaN or infinite",
                allowed="finite weights",
                fix="load them again from where they came; a fine-tune that diverged has no usable weights",
            )


def require_finite_run(recording: "Recording") -> None:
    """Refuse a model whose short prompt overflows. Raises NotFinite, with the first site where it does."""
    if _finite(recording.logits):
        return
    n, order = recording.model.n_layers, [name for name in KINDS if name != "resid_pre"]
    order.insert(order.index("resid_post"), "resid_pre")  # the next block's is the last of this one
    for site in sorted(recording.held, key=lambda s: (rank(s, n), order.index(s.name))):
        if site.name not in _MASKED and not _finite(recording[site]):
            dtype = str(recording.model.dtype).removeprefix("torch.")
            raise NotFinite(
                f"a run of six tokens is not finite from {site} on",
                received=f"NaN or infinity at {site}, in {dtype}",
                allowed="finite values at every site",
                fix=None if dtype == "float32" else "load it in a wider dtype: dtype=torch.float32",
                on_page=None if dtype == "float32" else "open it in a wider dtype: residscope open --dtype float32",
            )


def _finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite: by the least and the largest, which no copy of a matrix is made for."""
    if not x.numel() or x.dtype.itemsize == 1:  # the float8 kinds have no order on a CPU
        return bool(torch.isfinite(x).all())
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(x.detach()))
