"""One attention score as a sum over pairs: what was written where the query stands, and what was written where the key stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.directions import Dictionary
from residscope.edits import ablate
from residscope.engine.flow import scores_factor
from residscope.engine.forward import forward
from residscope.engine.memory import budget
from residscope.engine.model import Model, Prompt
from residscope.engine.passes import masked
from residscope.engine.protocols import At, Edit, LeastEdit
from residscope.engine.recording import Recording
from residscope.engine.slopes import Held
from residscope.engine.windows import Window
from residscope.errors import BadArguments, GraphError, NotAdditive, UnknownHead, UnknownLayer, WeightsChanged
from residscope.graph.last import Entered
from residscope.graph.scores.report import ScoreAttribution
from residscope.graph.scores.writes import BY, writes
from residscope.model.prompts import Batch
from residscope.model.sites import Site, SiteTable
from residscope.progress import Cancel, Progress, Tell, stage
from residscope.results import Result

BIAS = "bias"
SLACK = 16.0  # roundings that the sum may be off by


def attribute_scores(
    recording: Recording,
    head: tuple[int, int],
    query: int,
    key: int,
    *,
    by: str = "head",
    dictionary: Dictionary | None = None,
) -> ScoreAttribution:
    """`score_attribution` of a run that is there already. `rs.attribute_scores(rec, (9, 6), query=-1, key=3).top(5)`.

    head: its layer and number. Raises as `score_attribution`, and WeightsChanged.
    """
    _check_head(recording.model, *head)
    _check_by(by)
    return _attributed(recording, head, query, key, by, dictionary, lambda done: None)


def _attributed(
    recording: Recording,
    head: tuple[int, int],
    query: int,
    key: int,
    by: str,
    dictionary: Dictionary | None,
    tell: Tell,
) -> ScoreAttribution:
    model, (layer, number) = recording.model, head
    if len(recording.batch) != 1:
        raise GraphError("a score is of one prompt", received=f"{len(recording.batch)} prompts")
    if recording.stale:
        raise WeightsChanged("the model has changed since this run", fix="run the prompt again")
    q, k = recording.index(query), recording.index(key)
    with torch.no_grad():
        found = float(recording["scores", layer][0, number, q, k])
        if k > q or bool(masked(torch.tensor(found, dtype=model.dtype))):
            raise GraphError(
                "the head does not see this key",
                received=f"query {q}, key {k}",
                allowed="a key at the query or before it, within its window",
            )
        tell(1)
        sides = [writes(recording, layer, at, by=by, dictionary=dictionary) for at in (q, k)]
        queries = _made(recording, layer, "q", q, torch.stack([*sides[0].values()]))[:, number]
        tell(2)
        group = number // model.heads_at(layer).groups
        keys = _made(recording, layer, "k", k, torch.stack([*sides[1].values()]))[:, group]
        factor = scores_factor(model.layout, layer)
        terms = factor * torch.einsum("sd,td->st", queries.double(), keys.double())
        length = factor * float(queries.double().sum(0).norm() * keys.double().sum(0).norm())
        slope = _slope(recording, layer, number, q, k)
    return _report(
        recording, head, (q, k), sides, terms, length, found, slope, by if dictionary is None else dictionary.name
    )


def _refuse(model: Model, *, by: str = "head", layer: int, head: int, **_: Any) -> None:
    _check_head(model, layer, head)
    _check_by(by)


@method("attribute-scores", title="Why a head looks there", group="graphs", refuse=_refuse)
def score_attribution(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    layer: Annotated[int, fields.count(low=0, high=10_000)],
    head: Annotated[int, fields.heads(single=True)],
    query: Annotated[int, fields.positions(single=True)] = -1,
    key: Annotated[int, fields.positions(single=True)] = 0,
    *,
    by: Annotated[str, fields.choice(*BY, help="what the stream is split into, where no dictionary says")] = "head",
    dictionary: Annotated[Dictionary | None, fields.dictionary(help="of the stream that the head reads")] = None,
    background: Annotated[Sequence[LeastEdit], fields.edits()] = (),
    progress: Progress = None,
    cancel: Cancel = None,
) -> ScoreAttribution:
    """One attention score, before the softmax, as a sum over pairs of what the stream was written by, query side and key side.

        score(q, k) = scale sum over s, s' of Q(write_s at q) . K(write_s' at k)

    Q and K are what makes queries and keys of the stream, norms' divisors as they are in the run: the norm in front of
    attention, W_Q and W_K, the norms of queries and keys where they exist, the rotation at the true positions. They are affine:
    what they make of no write at all is the "bias" of each side. Of a model that caps its scores it is the score before the cap.
    by: "head" takes the embedding, each earlier head, each earlier MLP and the biases of attention; "component" attention as one.
    dictionary: of the stream that the head reads: its active features, what it leaves out ("error"), and what it writes beside
    them ("mean").
    query, key: positions, negative ones from the end. background: edits of the run.

    The sum is checked against the run's own score. Elhage et al. (2021), A Mathematical Framework for Transformer Circuits;
    Kamath et al. (2025), "Tracing attention computation through feature interactions".

    Raises:
        GraphError: several prompts; a key that the head does not see; a dictionary of another site. NotAdditive: the terms do not
        sum to the score, as where an edit stands inside this attention. UnknownLayer, UnknownHead, UnknownPosition. AbsentSite.
        QuantisedModel: heads' own writes are z W_O; by="component" and dictionaries need no weights.
    """
    _check_head(model, layer, head)
    _check_by(by)
    with stage("Splitting a score", 3, progress, cancel) as tell:
        names = ["resid_pre", f"scores.{layer}", f"attn_scale.{layer}"]
        sites = [name for name in names if name.split(".")[0] in model.sites.names]
        record = model.run(prompt, sites, edits=background)
        return _attributed(record, (layer, head), query, key, by, dictionary, tell)


@dataclass(frozen=True, eq=False)
class _Streams(Edit):
    """A stream of each row's own, the same at every position."""

    site: Site
    rows: Float[Tensor, "row d_model"]

    def places(self, table: SiteTable) -> list[Site]:
        return [self.site]

    def apply(self, value: Tensor, at: At) -> Tensor:
        return self.rows[:, None].to(value).expand(value.shape)


def _made(
    record: Recording, layer: int, name: str, at: int, given: Float[Tensor, "write d_model"]
) -> Float[Tensor, "term head d_head"]:
    """Queries or keys at a position, of each write by itself less those of nothing; and, last, those of nothing.

    One block, of one position, for each write: norms' divisors are the run's own.
    """
    model = record.model
    names = [f"{scale}_scale" for scale in ("attn", name) if f"{scale}_scale" in model.sites.names]
    held = Held({site: record[site] for site in (Site(scale, layer) for scale in names)})
    site, stream = Site(name, layer), Site("resid_pre", layer)
    rows = torch.cat([given, torch.zeros_like(given[:1])]).to(model.dtype)
    most = max(1, budget(model.device) // 4 // (8 * model.d_model * given.element_size() * (at + 1)))
    made = []
    for some in torch.split(rows, most):
        ids = record.tokens[:, : at + 1].expand(len(some), -1)
        batch = Batch(ids, (at + 1,) * len(some))
        sizes = model.heads_at(layer)
        nothing = [some.new_zeros(1, at, sizes.n_kv_heads, d) for d in (sizes.d_qk, sizes.d_head)]
        base = Entered(model, batch, some[:, None].expand(-1, at + 1, -1), (nothing[0], nothing[1]))
        edits = [_Streams(stream, some), held]
        window = Window(base, layer, layer, at) if layer or at else None
        made.append(forward(model.layout, batch, capture=[site], edits=edits, window=window)[site][:, -1])
    every = torch.cat(made)
    return torch.cat([every[:-1] - every[-1:], every[-1:]])


def _slope(record: Recording, layer: int, head: int, query: int, key: int) -> float:
    """What the model adds to a score for the distance alone: the score of a query that is zero."""
    model = record.model
    if model.family.positions != "slopes":
        return 0.0
    nothing = ablate(f"q.{layer}").prepare(model)
    run = model.run(record.batch, [f"scores.{layer}"], edits=[*record.edits, nothing])
    return float(run["scores", layer][0, head, query, key])


def _report(
    record: Recording,
    head: tuple[int, int],
    at: tuple[int, int],
    sides: Sequence[dict[str, Tensor]],
    terms: Float[Tensor, "query key"],
    length: float,
    found: float,
    slope: float,
    by: str,
) -> ScoreAttribution:
    """The terms as a report, checked. length: of query and key, times the scale. Raises NotAdditive."""
    model, cap = record.model, record.model.layout.factors.scores_cap
    total = float(terms.sum())
    capped = None if cap is None else float(cap * torch.tanh(torch.tensor(total / cap, dtype=torch.float64)))
    expected = (total if capped is None else capped) + slope
    eps = max(float(torch.finfo(model.dtype).eps), float(torch.finfo(torch.float32).eps))
    allowed = SLACK * eps * (float(terms.norm()) + length + abs(found) + 2 * abs(slope))
    if not abs(expected - found) <= allowed:
        raise NotAdditive(
            "the terms do not sum to the run's own score",
            received=f"{expected:.6g} against {found:.6g}",
            allowed=f"a difference of {allowed:.2g}, which rounding explains",
            fix="take edits off that stand inside this layer's attention, and check the model's certificate",
        )
    layer, number = head
    about = {
        **record.provenance, "method": "score attribution", "head": f"{layer}.{number}", "query": at[0], "key": at[1],
        "by": by, "norms": "their divisors as they are in the run", "scale": scores_factor(model.layout, layer),
    }  # fmt: skip
    names = [[*side, BIAS] for side in sides]
    result = Result(
        terms, ("query", "key"), {"query": names[0], "key": names[1]}, name=f"score of head {layer}.{number}",
        unit="score", provenance=about,
    )  # fmt: skip
    texts = model.token_texts(record.tokens[0, [*at]].tolist())
    score = total if cap is not None else found - slope
    return ScoreAttribution(
        result, score, abs(expected - found), (texts[0], texts[1]), slope, found - slope if cap is not None else None,
        provenance=about,
    )  # fmt: skip


def _check_head(model: Model, layer: int, head: int) -> None:
    if not 0 <= layer < model.n_layers:
        raise UnknownLayer("no such layer", received=str(layer), allowed=f"0 to {model.n_layers - 1}")
    if not 0 <= head < (n := model.heads_at(layer).n_heads):
        raise UnknownHead("no such head", received=str(head), allowed=f"0 to {n - 1}")
    model.sites.canonical(Site("scores", layer))


def _check_by(by: str) -> None:
    if by not in BY:
        raise BadArguments("by is one of a few words", received=repr(by), allowed=", ".join(BY))
