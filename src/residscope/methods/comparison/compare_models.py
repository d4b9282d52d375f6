"""Two models on one prompt: how far their streams, patterns, direct effects and predictions part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.alike import require_alike
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep
from residscope.methods._lib.by_head import stacked
from residscope.methods._lib.direct import direct_effects, direct_sites, linear
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, HeatMap, Line, Table, View

TOP, HEADS = 10, 10


@dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(Report):
    """Two models on the same tokens.

    cosine: of the two streams, over row (`embed`, then what each layer leaves) and pos. change: |x' - x| / |x|, likewise.
    patterns: how much of a head's attention goes elsewhere, the mean over queries of half of sum |A' - A|, over layer and head.
    heads: the direct effect of each head on the metric in the other model less that in this one, where a metric was asked for.
    kl: KL(this || other) of the next token at each position, in nats. next: the likeliest next tokens at the end in either.
    """

    kind: ClassVar[str] = "report:model_comparison"
    main: ClassVar[str] = "change"
    cosine: Result
    change: Result
    kl: Result
    next: Table
    patterns: Result | None = None
    heads: Result | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> Grid:
        """Next tokens, KL by position, the streams, and the heads that part most."""
        tokens = [f"{i} {text}" for i, text in enumerate(self.kl.coords["token"])]
        kl = Curve(tokens, [Line("KL", self.kl.values)], title="KL of the next token", x_title="pos", unit="nats")
        views: list[View] = [self.next, kl, _map(self.change, "Change of the stream")]
        views.append(
            _map(
                replace(self.cosine, values=(1 - self.cosine.values).clamp_min(0), unit="1 − cosine"),
                "Turn of the stream",
            )
        )
        for heads, title in ((self.patterns, "Attention that goes elsewhere"), (self.heads, "Direct effect of heads")):
            if heads is not None:
                views += [_map(heads, title), _largest(heads, title)]
        return Grid(views, columns=1, title=self.change.name)

    def __repr__(self) -> str:
        return f"ModelComparison({self.change.name}: KL {float(self.kl.values[-1]):.3g} nats at the end)"


def _map(result: Result, title: str) -> HeatMap:
    shown = result.view()
    assert isinstance(shown, HeatMap)
    signed = bool((result.values < 0).any())
    return replace(shown, title=title, bottom_up=True, scale="diverging" if signed else "sequential")


def _largest(heads: Result, title: str) -> Table:
    values, n = heads.values.flatten(), heads.values.shape[1]
    best = values.abs().topk(min(HEADS, len(values))).indices.tolist()
    rows = [[f"{i // n}.{i % n}", float(values[i])] for i in best]
    return Table(["head", heads.unit], rows, title=f"{title}: the largest")


def _price(model: Model, *, prompt: Prompt, **_: Any) -> float:
    """Tokens through the whole model: the prompt once in each."""
    return 2.0 * sum(model.batch(prompt).lengths)


def _refuse(model: Model, *, prompt: Prompt, metric: Readout | None = None, **_: Any) -> None:
    if len(model.batch(prompt)) != 1:
        raise BadSweep("two models are compared on one prompt", received=f"{len(model.batch(prompt))} prompts")
    if metric is not None:
        linear(metric, model)


@method("compare-models", title="Two models on one prompt", group="comparison", tokens=_price, refuse=_refuse)
def compare_models(
    model: Model,
    other: Annotated[Model, fields.model()],
    prompt: Annotated[Prompt, fields.prompts()],
    *,
    metric: Annotated[Readout | None, fields.metric()] = None,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    progress: Progress = None,
    cancel: Cancel = None,
) -> ModelComparison:
    """How far two models of the same shapes part on one prompt: streams, attention, direct effects, next tokens.

        change = |x' - x| / |x|      moved attention = mean_i 1/2 sum_j |A'[i, j] - A[i, j]|      KL(p || p') = sum p log(p / p')

    metric: a logit or a difference of logits; then heads are compared by their direct effects on it (`rs.direct_attribution`).
    background: edits under which both run.

        rs.compare_models(model, other, "When John and Mary went to the store, John gave a bottle of milk to")

    Raises:
        OtherModel: shapes, sites or tokens differ. BadSweep: several prompts. NotLinear, PromptError, EditError, TooLarge.
    """
    require_alike(model, other)
    _refuse(model, prompt=prompt, metric=metric)
    batch = model.batch(prompt)
    n, own, both = model.n_layers, "pattern" in model.sites.names, []
    with stage("Running both", 2, progress, cancel) as tell, torch.no_grad():
        for at, one in enumerate((model, other)):
            tell(at)
            wanted = [*(["pattern"] if own else []), *(f"resid_pre.{i}" for i in range(n)), "final_norm"]
            parts = [] if metric is None else direct_sites(one)
            both.append(one.run(batch, dict.fromkeys([*wanted, f"resid_post.{n - 1}", *parts]), edits=background))
    first, second = both
    about = {
        **model.provenance,
        "method": "two models on one prompt",
        "other": {"model": other.name, "hash": other.fingerprint() if other.hash else ""},
        "background": [str(edit) for edit in background],
    }
    tokens, title = model.token_texts(batch.ids[0].tolist()), f"{other.name} − {model.name}"
    rows = ["embed", *range(n)]

    def result(values: Tensor, dims: tuple[str, ...], unit: str, **coords: Any) -> Result:
        along = {"token": "pos"} if "pos" in dims else {}
        coords |= {"token": tokens} if along else {}
        return Result(values, dims, coords, along, name=title, unit=unit, provenance=about)

    x, y = (_rows(run, n) for run in both)
    kl = _kl(first, second)
    patterns = heads = None
    if own:
        moved = [(second["pattern", i] - first["pattern", i])[0].float().abs().sum(-1).mean(-1) / 2 for i in range(n)]
        patterns = result(stacked([part.cpu() for part in moved]), ("layer", "head"), "share")
    if metric is not None:
        heads = result(_heads(second, metric) - _heads(first, metric), ("layer", "head"), "logits")
        about["metric"] = label_of(metric, model)
    return ModelComparison(
        cosine=result(cosine_similarity(x, y, dim=-1), ("row", "pos"), "cosine", row=rows),
        change=result((y - x).norm(dim=-1) / x.norm(dim=-1).clamp_min(1e-30), ("row", "pos"), "share", row=rows),
        kl=result(kl, ("pos",), "nats"),
        next=_next(first, second),
        patterns=patterns,
        heads=heads,
        provenance=about,
    )


def _rows(run: Any, n: int) -> Tensor:
    last = run[f"resid_post.{n - 1}"][0]
    return torch.stack([*(run[f"resid_pre.{i}"][0].to(last) for i in range(n)), last]).float().cpu()


def _heads(run: Any, metric: Readout) -> Tensor:
    effects = direct_effects(run, metric, -1)
    assert effects.heads is not None
    return effects.heads[:, :, 0, 0].float().cpu()


def _kl(first: Any, second: Any) -> Tensor:
    parts = []
    for own, theirs in zip(first.logits_in_parts(), second.logits_in_parts(), strict=True):
        p, q = own[0].double().log_softmax(-1), theirs[0].double().log_softmax(-1)
        parts.append((p.exp() * (p - q)).sum(-1).float().cpu())
    return torch.cat(parts)


def _next(first: Any, second: Any) -> Table:
    """The likeliest next tokens at the end of either, with the probability that each model gives them."""
    p, q = (run.logits_at(-1)[0].float().softmax(-1).cpu() for run in (first, second))
    ids = dict.fromkeys([*p.topk(TOP).indices.tolist(), *q.topk(TOP).indices.tolist()])
    order = sorted(ids, key=lambda id: -float(max(p[id], q[id])))[:TOP]
    texts = first.model.token_texts(order)
    rows = [[text, float(p[id]), float(q[id]), float(q[id] - p[id])] for id, text in zip(order, texts, strict=True)]
    return Table(["next token", first.model.name, second.model.name, "difference"], rows, title="Next tokens")
