"""Edge patching: what one part's other value does to the metric, as one later part alone reads it; exactly, for every edge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, Cancelled
from residscope.methods._lib.checklist import verdict
from residscope.methods._lib.edges import Edges, Exactly, edges_of
from residscope.methods._lib.pairs import paired
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress
from residscope.results import Result


def _price(
    model: Model, *, clean: Prompt, nodes: str = "every", read: str = "all", senders: Any = None, receivers: Any = None,
    **_: Any,
) -> float:  # fmt: skip
    """Tokens through the whole model, about: for each edge the layers from its receiver on, two runs for each receiving layer."""
    edges, n = edges_of(model, nodes=nodes, read=read, senders=senders, receivers=receivers), model.n_layers
    rows = 0.0
    for group in edges.groups:
        first = edges.receivers[group[0]]
        left = 0 if first.site.layer is None else n - first.site.layer
        rows += 2 + len(group) * len(edges.into(first)) * left / n
    return rows * sum(model.batch(clean).lengths)


@method("edge-patching", title="Patch every edge", group="patching", tokens=_price)
def edge_patching(
    model: Model,
    clean: Annotated[Prompt, fields.prompts()],
    corrupted: Annotated[Prompt | None, fields.prompts(begin="typed")],
    metric: Annotated[Readout, fields.metric()],
    *,
    read: Annotated[str, fields.choice("all", "q", "k", "v", "each")] = "all",
    nodes: Annotated[str, fields.choice("every", "heads")] = "every",
    mode: Annotated[str, fields.choice("noise", "denoise")] = "noise",
    senders: Annotated[Sequence[int] | None, fields.layers(title="senders' layers")] = None,
    receivers: Annotated[Sequence[int] | None, fields.layers(title="receivers' layers")] = None,
    normalize: Annotated[bool, fields.flag(help="as a share of the gap between the two runs")] = False,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """What each sender's value of the other run does to the metric, as one receiver alone reads it; exact, for every edge.

        effect(s -> r) = m(x; r reads stream + w_s' - w_s) - m(x)

    w_s is what the sender writes to the stream, w_s' the same in the other run. The receiver reads the sum through its own norm,
    and all that is behind the receiver runs on; everybody else reads the stream as it is. That is one forward for each edge; here
    what each head of a layer makes of each sender's change is computed at once (a head's output is a function of what it reads
    alone), and the forwards begin at the receiver, many in a pass.

    Senders are the heads, the MLPs and the token embedding; receivers the heads, the MLPs and the logits (the final norm). nodes:
    "heads" for heads alone. read: by what a head receives: its query, key or value, "all" three at once, or "each" by itself. A
    head's key and value are as that head reads them, also where other heads share them. mode: "noise" runs the clean prompt with
    the sender from the corrupted one, "denoise" the other way round. senders, receivers: layers; where they are said, the
    embedding, or the logits, are left out. normalize: the effect over m(other run) - m(x). With `edits.freeze("norms")` in the
    background the norms are held. Edges do not add up: they meet in softmaxes, norms and MLPs.

        found = rs.edge_patching(model, clean, corrupted, rs.logit_diff(" Mary", " John"))
        found.select(sender="9.6", receiver="logits")

    Returns a `Result` over sender and receiver ("9.6" is a head, "9.6 q" what one reads its query from, "mlp 9" an MLP), and
    prompt where there are several: the change of the metric, in its unit; 0 where a receiver does not read the sender. Its
    provenance has the metric of both runs and how many edges there are.

    Raises:
        BadSweep, SiteError, UnalignedPrompts, PromptError, SweepCancelled (with `partial`).

    Goldowsky-Dill et al. 2023 (2304.05969); Conmy et al. 2023 (2304.14997); Wang et al. 2022 (2211.00593).
    """
    edges = edges_of(model, nodes=nodes, read=read, senders=senders, receivers=receivers)
    ends = ends_of(model, clean, corrupted, metric, edges, mode=mode, normalize=normalize, background=background)
    about: dict[str, Any] = {"method": f"edge patching, {mode}, heads read by {read}"}
    about |= verdict(model, clean, corrupted, progress=progress, cancel=cancel)
    effects = edges.unknown(len(ends.batch))
    try:
        ends.exactly(background, memory).fill(effects, edges.pairs, progress, cancel)
    except Cancelled as stop:
        stop.partial = ends.told(effects, about)
        raise
    return ends.told(effects, about)


@dataclass(frozen=True)
class Ends:
    """The two runs of a pair: the prompts that run, what senders have in the other run, and the metric of both."""

    edges: Edges
    batch: Batch
    other: Batch
    metric: Readout
    values: Mapping[str, Tensor]
    gap: Float[Tensor, "prompt"]
    normalize: bool
    about: Mapping[str, Any]

    def exactly(self, background: Sequence[Edit], memory: int | None) -> Exactly:
        """Edges of this pair, by forwards."""
        return Exactly(self.edges, self.values, self.batch, self.metric, background, memory)

    def told(
        self, effects: Float[Tensor, "sender receiver prompt"], about: Mapping[str, Any], *, exact: bool | str = True
    ) -> Result:
        """The changes of the metric, or their shares of the gap, over sender and receiver."""
        model, whole = self.edges.model, "share of the gap" if self.normalize else "change of the"
        return self.edges.table(
            effects / self.gap if self.normalize else effects,
            name=f"{whole} {label_of(self.metric, model)} along the edge",
            unit="share" if self.normalize else unit_of(self.metric),
            about={**self.about, **about},
            exact=exact,
        )


def ends_of(
    model: Model,
    clean: Prompt,
    corrupted: Prompt | None,
    metric: Readout,
    edges: Edges,
    *,
    mode: str,
    normalize: bool,
    background: Sequence[Edit],
) -> Ends:
    """Both runs of a pair. Raises BadSweep, UnalignedPrompts, PromptError, SiteError."""
    if mode not in ("noise", "denoise"):
        raise BadSweep("no such mode", received=repr(mode), allowed='"noise" or "denoise"')
    pair = paired(model, clean, corrupted, metric)
    here, there = (pair.clean, pair.corrupted) if mode == "noise" else (pair.corrupted, pair.clean)
    sites = dict.fromkeys(str(sender.site) for sender in edges.senders)
    with torch.no_grad():
        source = model.run(there.batch, [*sites, *pair.metric.sites], edits=background)
        target = model.run(here.batch, pair.metric.sites, edits=background)
    own, other = pair.metric(target).double().cpu(), pair.metric(source).double().cpu()
    if normalize and not bool((own != other).all()):
        raise BadSweep("both runs have the same metric", received=str(own.tolist()), fix="choose another pair")
    about: dict[str, Any] = {
        **model.provenance,
        "clean": (own if mode == "noise" else other).tolist(),
        "corrupted": (other if mode == "noise" else own).tolist(),
        "normalized": normalize,
        "no effect": 0.0,
        "edges": len(edges.pairs),
    }
    if pair.scored_by is not None:
        about["scored by"] = pair.scored_by
    values = {site: source[site] for site in sites}
    return Ends(edges, here.batch, there.batch, pair.metric, values, other - own, normalize, about)
