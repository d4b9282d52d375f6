"""Edge attribution patching: every edge to first order, from one gradient or several along the way between two runs."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.memory import budget
from residscope.engine.model import Model, Prompt
from residscope.engine.planner.pricing import prices_of
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, Cancelled, SweepCancelled, SweepInterrupted
from residscope.methods._lib.agreement import correlations
from residscope.methods._lib.checklist import verdict
from residscope.methods._lib.edge_slopes import Moved, slopes_into, writes
from residscope.methods._lib.edges import LOGITS, Edge, Edges, edges_of
from residscope.methods.patching.edge_patching import Ends, ends_of
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result


def _price(model: Model, *, clean: Prompt, steps: int = 1, sample: int = 20, **_: Any) -> float:
    """Tokens through the whole model, about: both ends; at each step a run, its backward pass and each layer's; the sample."""
    return sum(model.batch(clean).lengths) * (4.0 + 6 * steps + sample / 2)


@method("edge-attribution", title="Estimate every edge", group="patching", tokens=_price)
def edge_attribution(
    model: Model,
    clean: Annotated[Prompt, fields.prompts()],
    corrupted: Annotated[Prompt | None, fields.prompts(begin="typed")],
    metric: Annotated[Readout, fields.metric()],
    *,
    steps: Annotated[int, fields.count(low=1, high=200)] = 1,
    read: Annotated[str, fields.choice("each", "all", "q", "k", "v")] = "each",
    nodes: Annotated[str, fields.choice("every", "heads")] = "every",
    mode: Annotated[str, fields.choice("noise", "denoise")] = "noise",
    senders: Annotated[Sequence[int] | None, fields.layers(title="senders' layers")] = None,
    receivers: Annotated[Sequence[int] | None, fields.layers(title="receivers' layers")] = None,
    normalize: Annotated[bool, fields.flag(help="as a share of the gap between the two runs")] = False,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    sample: Annotated[int, fields.count(low=0)] = 20,
    seed: Annotated[int, fields.seed()] = 0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """What each edge would change of the metric, estimated from gradients: EAP, and EAP-IG with steps > 1.

        score(s -> r) = (w_s' - w_s) . mean over k of dm/dx_r at e' + k/m (e - e'), k = 1 ... m

    w_s is what the sender writes to the stream in this run, w_s' in the other; x_r the stream as the receiver alone reads it; e,
    e' the embeddings of the two prompts, m the steps. One step is the gradient of this run (Syed et al.); more go along the way
    from the other run's embeddings to it (Hanna et al.; their code takes k = 0 ... m - 1, which is mode="denoise" with the other
    sign). Edges, arguments and sign are those of `rs.edge_patching`, which is
    exact: the change of the metric when the sender's value is the other run's. read: "each" as published, a head's query, key and
    value apart, also where heads share keys and values; "all" is the three as one edge, and the sum of their scores.

    It is linear in the change: wrong where a softmax is saturated or a norm bends on the way. sample: how many edges are also
    patched exactly, half of them the largest estimates, half drawn from the rest by `seed`.

        rs.edge_attribution(model, clean, corrupted, rs.logit_diff(" Mary", " John"), steps=5)

    Returns a `Result` over sender and receiver, and prompt where there are several, in the metric's unit, labelled an estimate; 0
    where a receiver does not read the sender. Its provenance's "sample" has the edges, the exact values and the estimates (edge x
    prompt), and Pearson's and Spearman's correlation of the two; "random" has those of the drawn half alone.

    Raises:
        NoGradient: the metric or the model has none. QuantisedModel. Otherwise as `rs.edge_patching`.

    Syed, Rager and Conmy 2023 (2310.10348); Hanna, Pezzelle and Belinkov 2024 (2403.17806).
    """
    model.require_exact_weights("gradients")
    if steps < 1:
        raise BadSweep("a way has one step or more", received=f"steps={steps}", allowed="1, or such as 5")
    edges = edges_of(model, nodes=nodes, read=read, senders=senders, receivers=receivers)
    ends = ends_of(model, clean, corrupted, metric, edges, mode=mode, normalize=normalize, background=background)
    effects = _estimated(ends, steps, background, memory, progress, cancel)
    words = "one gradient" if steps == 1 else f"{steps} gradients on the way between the runs"
    about: dict[str, Any] = {"method": f"edge attribution, {mode}, heads read by {read}", "steps": steps}
    about |= verdict(model, clean, corrupted, progress=progress, cancel=cancel)

    def made(beside: Mapping[str, Any] | None) -> Result:
        said = f"estimated to first order by {words}"
        if beside is None:
            return ends.told(effects, about, exact=said)
        told = ", ".join(
            f"{k} {'unknown' if beside[k] is None else f'{beside[k]:.2f}'}" for k in ("pearson", "spearman")
        )
        said += f"; beside exact values of {len(beside['edges'])} edges: {told}"
        return ends.told(effects, {**about, "sample": beside}, exact=said)

    chosen = _drawn(edges, effects, sample, seed)
    if not chosen:
        return made(None)
    exact = edges.unknown(len(ends.batch))
    try:
        ends.exactly(background, memory).fill(exact, chosen, progress, cancel)
    except Cancelled as stop:
        stop.partial = made(None)
        raise
    return made(_beside(ends, chosen, effects, exact, seed))


def _estimated(
    ends: Ends, steps: int, background: Sequence[Edit], memory: int | None, progress: Progress, cancel: Cancel
) -> Float[Tensor, "sender receiver prompt"]:
    """The scores, for as many prompts at a time as memory allows."""
    edges, model, whole = ends.edges, ends.edges.model, ends.batch
    length = whole.ids.shape[1]
    ends_each = (len(edges.senders) + len(edges.receivers)) * model.d_model * model.dtype.itemsize
    width = ends_each + prices_of(model.layout).bytes * model.n_layers
    most = max(1, (budget(model.device) if memory is None else memory) // 2 // (width * length))
    parts = [range(first, min(first + most, len(whole))) for first in range(0, len(whole), most)]
    groups = sum(edges.receivers[group[0]].site != LOGITS for group in edges.groups)
    passes = sum(len(_together(steps, most // len(rows))) for rows in parts)
    scores = torch.zeros(len(edges.senders), len(edges.receivers), len(whole), dtype=torch.float64)
    stopped: dict[str, Any] = {"cancelled": SweepCancelled, "interrupted": SweepInterrupted}
    done = 0
    with stage("Taking gradients", passes * (1 + groups), progress, cancel, **stopped) as tell:

        def another() -> None:
            nonlocal done
            done += 1
            tell(done)

        for rows in parts:
            here, there = (x if len(rows) == len(x) else x.take(rows) for x in (whole, ends.other))
            away = _away(model, here, there, background) if steps > 1 else None
            mean: dict[int, Tensor] = {}
            for some in _together(steps, most // len(rows)):
                batch = here if steps == 1 else here.take([*range(len(here))] * len(some))
                left = [] if away is None else [Moved(torch.cat([away * (1 - step / steps) for step in some]))]
                for group, slope in slopes_into(edges, batch, ends.metric, [*background, *left], another):
                    by_step = slope.view(len(slope), len(some), len(here), *slope.shape[2:])
                    mean[group[0]] = by_step.sum(1) / steps + mean.get(group[0], 0.0)
            changes = writes(edges, here, there, background)
            for count, alike in _alike(edges).items():
                slopes = torch.cat([mean.pop(group[0]) for group in alike])
                scored = torch.einsum("sbpd,rbpd->srb", changes[:count], slopes).double().cpu()
                scores[:count, [r for group in alike for r in group], rows.start : rows.stop] = scored
    return scores


def _together(steps: int, most: int) -> list[range]:
    """Steps that go through the model as rows of one pass: so many at a time."""
    size = max(1, most)
    return [range(first, min(first + size, steps + 1)) for first in range(1, steps + 1, size)]


def _alike(edges: Edges) -> dict[int, list[list[int]]]:
    """Groups of receivers by how many of the senders they read."""
    found: dict[int, list[list[int]]] = {}
    for group in edges.groups:
        found.setdefault(len(edges.into(edges.receivers[group[0]])), []).append(group)
    return found


def _away(model: Model, here: Any, there: Any, background: Sequence[Edit]) -> Float[Tensor, "prompt pos d_model"]:
    """The other run's embeddings less this one's."""
    this, other = (model.run(batch, ["embed"], edits=background)["embed"] for batch in (here, there))
    return other - this


def _drawn(edges: Edges, effects: Float[Tensor, "sender receiver prompt"], n: int, seed: int) -> list[Edge]:
    """The edges to patch exactly: first those of the largest mean |estimate|, half of them, then others drawn at random."""
    pairs = edges.pairs
    order = effects[tuple(torch.tensor(pairs).T)].abs().mean(1).argsort(descending=True, stable=True)
    n = min(n, len(order))
    strongest = (n + 1) // 2
    rest = order[strongest:]
    some = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[: n - strongest]
    return [pairs[i] for i in (*order[:strongest].tolist(), *rest[some].tolist())]


def _beside(ends: Ends, chosen: Sequence[Edge], effects: Tensor, exact: Tensor, seed: int) -> dict[str, Any]:
    """What the sample says of the estimates."""
    where, strongest = tuple(torch.tensor([*chosen]).T), (len(chosen) + 1) // 2
    pair = effects[where], exact[where]
    shown = [(x / ends.gap if ends.normalize else x).tolist() for x in pair]
    return {
        "edges": [ends.edges.label(edge) for edge in chosen],
        "strongest": strongest,
        "seed": seed,
        "estimate": shown[0],
        "exact": shown[1],
        **correlations(*(part.flatten() for part in pair)),
        "random": correlations(*(part[strongest:].flatten() for part in pair)),
    }
