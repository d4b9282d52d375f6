"""Look first: the two largest directions of a cloud of activations, coloured by a label that they never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import BadEdit, BadSweep, MissingExtra, OneClass
from residscope.methods._lib.activations import Key, Recorded, recorded
from residscope.methods.probes.probe_fit import fit_halves
from residscope.model.prompts import PromptSet, require_set
from residscope.probes.probe import Probe
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Scatter

C = 1e-2  # probes that only say how well a label can be read, and make no edit, go without cross-validation


@dataclass(frozen=True, eq=False, repr=False)
class Projection(Report):
    """Activations at one site and position in two dimensions, and how far a label that was not used for it shows there.

    shown: (x - mean) [v1 v2], v the first right singular vectors of the centred activations; or UMAP's two coordinates. share:
    of the variance along each (NaN for UMAP). silhouette: of the label in these two coordinates, -1 to 1 (Rousseeuw, 1987); 0
    where the classes lie on each other. probe: fitted on the whole activations, half of the prompts held out.
    """

    kind: ClassVar[str] = "report:projection"
    site: str
    position: str
    label: str
    shown: Float[Tensor, "prompt 2"]
    groups: tuple[str, ...]
    share: tuple[float, float]
    silhouette: float
    probe: Probe
    method: str = "svd"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self, texts: Sequence[str] | None = None) -> Scatter:
        a, b = self.share
        note = f"silhouette {self.silhouette:.2f}; probe {self.probe.accuracy:.0%} (shuffled {self.probe.control:.0%})"
        note += f"; {a + b:.0%} of the variance" if self.method == "svd" else f"; {self.method}"
        names = ("SV 0", "SV 1") if self.method == "svd" else ("UMAP 0", "UMAP 1")
        return Scatter(
            self.shown[:, 0], self.shown[:, 1], groups=self.groups, title=f"{self.site} at {self.position}",
            x_title=names[0], y_title=names[1], note=note, texts=None if texts is None else list(texts),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Projection({self.site}, {self.position}: silhouette of {self.label} {self.silhouette:.2f})"


@dataclass(frozen=True, eq=False, repr=False)
class Look(Report):
    """Projections over sites and layers. `view()` is small multiples; `silhouette` and `accuracy` are `Result`s."""

    kind: ClassVar[str] = "report:look"
    main: ClassVar[str] = "accuracy"
    projections: tuple[Projection, ...]
    texts: tuple[str, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def silhouette(self) -> Result:
        return self._result("silhouette", "coefficient", [p.silhouette for p in self.projections])

    @property
    def accuracy(self) -> Result:
        """The probes' held-out accuracy, with Wilson's 95 % intervals."""
        low, high = ([p.probe.interval[side] for p in self.projections] for side in (0, 1))
        return self._result("accuracy", "share", [p.probe.accuracy for p in self.projections], low, high)

    def _result(self, name: str, unit: str, values: list[float], low: Any = None, high: Any = None) -> Result:
        sites = tuple(p.site for p in self.projections)
        low, high = (None if x is None else torch.tensor(x) for x in (low, high))
        about = {"method": "look", **self.provenance}
        return Result(
            torch.tensor(values), ("site",), {"site": sites}, name=name, unit=unit, low=low, high=high, provenance=about
        )

    def view(self, columns: int = 4) -> Grid:
        first = self.projections[0]
        title = f"{first.label} at {first.position}: activations on their first two singular vectors"
        title = title if first.method == "svd" else f"{first.label} at {first.position}: {first.method}"
        return Grid([p.view(self.texts) for p in self.projections], columns=columns, title=title)


def price(model: Model, data: PromptSet, **_: Any) -> float:
    """Tokens through the whole model: each prompt once."""
    return float(sum(model.batch(data).lengths))


@method("look", title="Look at labelled prompts", group="probes", tokens=price)
def look(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    label: Annotated[str, fields.name(of="label")],
    position: Annotated[str, fields.name(of="position")],
    sites: Annotated[Sequence[str], fields.site(every=True, several=True, usual="resid_mid")] = ("resid_mid",),
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    method: Annotated[str, fields.choice("svd", "umap")] = "svd",
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Look:
    """Project the activations at a named position on their first two singular vectors, layer by layer.

        X - mean = U S V^T,   shown = (X - mean) V[:, :2]

    The label colours the points and is scored; the projection is made without it. sites: names without a layer, or with one.
    method: "umap" (McInnes et al., 2018, arXiv:1802.03426) needs `residscope[umap]`; distances in it say little.

        rs.look(model, rs.tasks.ioi(model), label="order", position="S2", layers=[6, 12, 18]).view()

    Raises:
        OneClass, UnseenLabel, TooFewPrompts, MissingLabel, UnknownPosition, SiteError, MissingExtra,
        Cancelled: with the projections so far as its `partial`.
    """
    names = [str(s) for name in sites for s in model.sites.expand(name) if layers is None or s.layer in layers]
    if not names or (layers is not None and {*layers} - {*range(model.n_layers)}):
        raise BadSweep(
            "there is no such place to look at",
            received=f"{len(sites)} sites, layers {layers}",
            allowed=f"one site or more, layers 0 to {model.n_layers - 1}",
        )
    names.sort(key=lambda name: int(name.rpartition(".")[2]))
    _check(data, label, method)
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    seen = recorded(model, data, names, [position], **watch)
    return project(seen, data, label=label, method=method, seed=seed, provenance=model.provenance, **watch)


def project(
    seen: Recorded | Mapping[Key, Float[Tensor, "prompt d"]],
    data: PromptSet,
    *,
    label: str,
    method: str = "svd",
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Look:
    """What `look` does once the model has run: from activations by (site, position), as `methods.activations` gives them.

    Of what `recorded` gives, mean, singular vectors, silhouette and probe are without attention sinks and first tokens; every
    prompt is shown.
    """
    _check(data, label, method)
    groups = tuple(map(str, data.label(label)))
    about = {**(provenance or {}), "data": data.name, "prompts": len(data), "label": label, "seed": seed}
    projections: list[Projection] = []
    quiet: dict[str, Any] = {"progress": False, "cancel": cancel}
    vectors = seen.vectors if isinstance(seen, Recorded) else seen

    def so_far() -> Look:
        return Look(tuple(projections), data.texts, about)

    with stage("Projecting", len(vectors), progress, cancel, partial=so_far) as tell:
        for (name, position), value in vectors.items():
            x, at = value.double(), (name, position)
            masks: Any = seen.left_out(at) if isinstance(seen, Recorded) else {}
            probe = fit_halves(x, data, label=label, **masks, seed=seed, Cs=(C,), **quiet, site=name, position=position)
            keep = seen.kept[at] if isinstance(seen, Recorded) else torch.ones(len(x), dtype=torch.bool)
            shown, share = _umap(x, seed) if method == "umap" else _svd(x, keep)
            score = _silhouette(shown[keep], [g for g, k in zip(groups, keep.tolist(), strict=True) if k])
            projections.append(Projection(name, position, label, shown, groups, share, score, probe, method, about))
            tell(len(projections))
    return so_far()


def _check(data: PromptSet, label: str, method: str) -> None:
    require_set(data)
    if method not in ("svd", "umap"):
        raise BadEdit("no such projection", received=repr(method), allowed='"svd" or "umap"')
    if len({str(value) for value in data.label(label)}) < 2:
        raise OneClass(f"every prompt has the same {label}", received=str(data.label(label)[:1]), allowed="two or more")
    if method == "umap":
        _need_umap()


def _svd(
    x: Float[Tensor, "prompt d"], keep: Bool[Tensor, "prompt"]
) -> tuple[Float[Tensor, "prompt 2"], tuple[float, float]]:
    """Every prompt's coordinates on the first two singular vectors of those kept, centred on their mean."""
    from scipy.linalg import eigh

    centre = x[keep].mean(0)
    rows = x[keep] - centre
    wide = rows.shape[0] < rows.shape[1]
    gram = rows @ rows.T if wide else rows.T @ rows  # the smaller one has the same largest eigenvalues
    n = len(gram)
    values, vectors = (torch.from_numpy(v.copy()).flip(-1) for v in eigh(gram.numpy(), subset_by_index=[n - 2, n - 1]))
    sizes = values.clamp_min(0).sqrt()
    axes = rows.T @ vectors / sizes.clamp_min(1e-150) if wide else vectors
    power = values.clamp_min(0) / gram.trace().clamp_min(1e-300)
    return (x - centre) @ axes, (float(power[0]), float(power[1]))


def _umap(x: Float[Tensor, "prompt d"], seed: int) -> tuple[Float[Tensor, "prompt 2"], tuple[float, float]]:
    centred = (x - x.mean(0)).float().numpy()  # only to keep float32 exact: neighbours do not depend on it
    shown = _need_umap().UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(centred)
    return torch.from_numpy(shown).double(), (float("nan"), float("nan"))


def _need_umap() -> Any:
    try:
        import umap
    except ImportError as error:
        raise MissingExtra("this projection needs umap-learn", fix="pip install residscope[umap]") from error
    return umap


def _silhouette(shown: Float[Tensor, "prompt 2"], groups: Sequence[str]) -> float:
    from sklearn.metrics import silhouette_score

    if not float(shown.std(0).max()) > 0:
        return 0.0  # every point is one point
    return float(silhouette_score(shown.numpy(), list(groups)))
