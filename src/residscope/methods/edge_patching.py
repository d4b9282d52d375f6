"""Edge patching: what one part's other value does to the metric, as one later part alone reads it; exactly, for every edge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.memory import budget
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, Cancelled
from residscope.methods._lib.edges import Edges, Receiver, edges_of, table, unknown
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
    for group in edges.groups():
        first = edges.receivers[group[0]]
        left = 0 if first.site.layer is None else n - first.site.layer
        rows += 2 + len(group) * len(edges.into(first)) * left / n
    return rows * sum(model.batch(clean).lengths)


@method("edge-patching", title="Patch every edge", group="sweeps", tokens=_price)
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
    if mode not in ("noise", "denoise"):
        raise BadSweep("no such mode", received=repr(mode), allowed='"noise" or "denoise"')
    edges = edges_of(model, nodes=nodes, read=read, senders=senders, receivers=receivers)
    if not edges.count:
        raise BadSweep(
            "no receiver reads any of these senders", received=f"senders={senders}, receivers={receivers}",
            allowed="receivers in later layers than senders",
        )  # fmt: skip
    pair = paired(model, clean, corrupted, metric)
    here, there = (pair.clean, pair.corrupted) if mode == "noise" else (pair.corrupted, pair.clean)
    sites = dict.fromkeys(str(sender.site) for sender in edges.senders)
    with torch.no_grad():
        source = model.run(there.batch, [*sites, *pair.metric.sites], edits=background)
        target = model.run(here.batch, pair.metric.sites, edits=background)
    own, other = pair.metric(target).double().cpu(), pair.metric(source).double().cpu()
    if normalize and not bool((own != other).all()):
        raise BadSweep("both runs have the same metric", received=str(own.tolist()), fix="choose another pair")
    values = {site: source[site] for site in sites}
    about: dict[str, Any] = {
        **model.provenance,
        "method": f"edge patching, {mode}, heads read by {read}",
        "clean": (own if mode == "noise" else other).tolist(),
        "corrupted": (other if mode == "noise" else own).tolist(),
        "normalized": normalize,
        "no effect": 0.0,
        "edges": edges.count,
    }
    if pair.scored_by is not None:
        about["scored by"] = pair.scored_by
    words = f"{'share of the gap' if normalize else 'change of the'} {label_of(pair.metric, model)} along the edge"
    unit, gap = ("share", other - own) if normalize else (unit_of(pair.metric), torch.ones_like(own))
    effects = unknown(edges, len(here.batch))

    def made() -> Result:
        return table(edges, effects / gap, name=words, unit=unit, about=about)

    try:
        for group in edges.groups():
            parts = _parts(model, here.batch, edges.into(edges.receivers[group[0]]), memory)
            for number, rows in enumerate(parts):
                of = f", part {number + 1} of {len(parts)}" if len(parts) > 1 else ""
                part = _Part(edges, rows, group, values, here.batch, background, memory, of)
                plan = sweep(model, here.batch, part.cells(progress, cancel), pair.metric, background, memory=memory)
                base = plan.baseline()
                try:
                    part.put(plan.run(progress, cancel, what=f"Reading edges into {part.words}"), base, effects)
                except Cancelled as stop:
                    part.put(stop.partial, base, effects)
                    raise
    except Cancelled as stop:
        stop.partial = made()
        raise
    return made()


def _parts(model: Model, batch: Batch, senders: Sequence[int], memory: int | None) -> list[list[int]]:
    """Senders of which what a layer's heads make fits into a quarter of the memory at once."""
    each = batch.ids.numel() * model.n_heads * model.d_head * model.dtype.itemsize
    size = max(1, (budget(model.device) if memory is None else memory) // 4 // each)
    return [[*senders[first : first + size]] for first in range(0, len(senders), size)]


@dataclass(frozen=True)
class _Part:
    """Some senders of the receivers of one group, and the cell of each edge between them."""

    edges: Edges
    rows: Sequence[int]
    group: Sequence[int]
    values: Mapping[str, Tensor]
    batch: Batch
    background: Sequence[Edit]
    memory: int | None
    part: str

    @property
    def first(self) -> Receiver:
        return self.edges.receivers[self.group[0]]

    @property
    def words(self) -> str:
        by = f" by {self.first.reads[0]}" if len(self.first.reads) == 1 else ""
        words = self.first.label if self.first.head is None else f"the heads of layer {self.first.site.layer}{by}"
        return words + self.part

    def cells(self, progress: Progress, cancel: Cancel) -> list[list[Edit]]:
        """Sender by sender, each receiver's other value: for heads, their outputs, which are read off one pass of all senders."""
        paths = [self.edges.path(self.edges.senders[row], self.first, self.values) for row in self.rows]
        if self.first.head is None:
            return paths
        site, model = str(self.first.site), self.edges.model
        plan = sweep(model, self.batch, paths, _Outputs(site), self.background, memory=self.memory)
        z = plan.run(progress, cancel, what=f"Following edges into {self.words}").values
        z = z.reshape(*z.shape[:2], -1, model.n_heads, model.d_head)
        heads = [self.edges.receivers[i].head for i in self.group]
        return [[edits.patch(site, {site: of_sender}, head=head)] for of_sender in z for head in heads]

    def put(self, swept: Result | None, base: Tensor, effects: Tensor) -> None:
        """What is known of the edges, in their places."""
        if swept is not None:
            changes = (swept.values.double() - base.double().cpu()).reshape(len(self.rows), len(self.group), -1)
            effects[torch.tensor(self.rows)[:, None], torch.tensor(self.group)] = changes


@dataclass(frozen=True)
class _Outputs:
    """A readout of what every head of a layer gives, position by position."""

    site: str
    unit = ""

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    def __call__(self, recording: Any) -> Float[Tensor, "row entry"]:
        return recording[self.site].flatten(1)
