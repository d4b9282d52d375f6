"""A number of a run as what it is exactly the sum of: a logit at a row of the stream, a head's effect, an attention score."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

from residscope import edits as vocabulary
from residscope.engine.model import Model
from residscope.engine.protocols import Edit
from residscope.engine.recording import Recording
from residscope.errors import NotAdditive, UnknownLayer
from residscope.graph.scores.build import attribute_scores
from residscope.methods._lib.direct import DirectAttribution
from residscope.methods._lib.weights.matrices import check_head
from residscope.methods.attribution.direct_attribution import attribute_logits
from residscope.metrics import logit, logit_diff

MOST_LISTED = 14
NEAR = 1e-3  # of the size of the terms: how far a sum may be from the number

Pair = tuple[int, int | None]


class Term(TypedDict):
    name: str
    value: float


class Sum(TypedDict):
    """A number as a sum. own: the number, read without the sum. rest: of the `others` terms that are not listed."""

    of: Annotated[str, "What the number is, in words."]
    terms: Annotated[list[Term], "The largest, in their order."]
    others: int
    rest: float
    total: float
    own: float
    unit: Literal["logits", "score"]
    note: str


def logit_sum(run: Recording, made: Sequence[Edit], pair: Pair, *, row: int | None, pos: int) -> Sum:
    """A logit, or a difference of two, over what was written into the stream up to a row.

    row: 0 the embedding, then what each layer leaves; None: the run's own logits. Of a row before the end it is the lens: the
    logits of the run whose later blocks add nothing, so that the final norm's divisor is the row's own.

    Raises UnknownLayer, UnknownPosition, NotAdditive.
    """
    model, at = run.model, run.index(pos)
    where = "the run's end"
    metric = logit(pair[0], pos=at) if pair[1] is None else logit_diff(pair[0], pair[1], pos=at)
    n = model.n_layers
    if row is not None and not 0 <= row <= n:
        raise UnknownLayer("the stream has no such row", received=row, allowed=f"0 (the embedding) to {n}")
    if row is None or row == n:
        row = n
        own, found = float(metric(run)[0]), attribute_logits(run, metric, by="head", position=at)
    else:
        own = _lens(model, run, pair, row, at)
        later = [vocabulary.ablate(f"{site}.{layer}") for layer in range(row, n) for site in ("attn_out", "mlp_out")]
        later = [edit for edit in later if str(edit.site).split(".")[0] not in model.sites.absent]
        cut = model.run(run.batch, edits=[*made, *later])
        found = attribute_logits(cut, metric, by="head", position=at)
        where = "the embedding" if row == 0 else f"resid_post.{row - 1}"
    terms = {name: value for name, value in _by_head(found, row).items() if value != 0.0}
    texts = [repr(model.token_texts([one])[0]) for one in pair if one is not None]
    about = f"logit {' − '.join(texts)} at {where}, position {at}"
    return _sum(about, terms, own, "logits", "over what is written into the stream; the final norm's divisor as it is")


def head_sum(run: Recording, pair: Pair, layer: int, head: int, *, pos: int) -> Sum:
    """What a head writes into a logit difference, over the positions that it moves from. Raises UnknownLayer, UnknownHead."""
    model, at = run.model, run.index(pos)
    check_head(model, layer, head)
    metric = logit(pair[0], pos=at) if pair[1] is None else logit_diff(pair[0], pair[1], pos=at)
    found = attribute_logits(run, metric, by="source", position=at)
    assert found.sources is not None
    assert found.value_bias is not None
    whole = attribute_logits(run, metric, by="head", position=at).heads
    assert whole is not None
    texts = model.token_texts(run.batch.ids[0].tolist())
    values = found.sources.values[layer, head].tolist()
    terms = {f"from {k} {text}": value for k, (text, value) in enumerate(zip(texts, values, strict=True))}
    terms["the values' bias"] = float(found.value_bias.values[layer, head])
    about = f"direct effect of head {layer}.{head} at position {at}"
    return _sum(about, terms, float(whole.values[layer, head]), "logits", "over the positions that it attends to")


def score_sum(run: Recording, layer: int, head: int, *, query: int, key: int) -> Sum:
    """An attention score before its softmax, over pairs of what was written. Raises as `rs.attribute_scores`."""
    found = attribute_scores(run, (layer, head), query, key)
    rows, columns = found.terms.coords["query"], found.terms.coords["key"]
    values = found.terms.values.tolist()
    terms = {f"{a} × {b}": values[i][j] for i, a in enumerate(rows) for j, b in enumerate(columns)}
    if found.slope:
        terms["the distance"] = found.slope
    about = f"score of head {layer}.{head}: {query} {found.tokens[0]!r} to {key} {found.tokens[1]!r}"
    note = "over pairs of writes: at the query × at the key"
    note += f"; its cap makes {found.capped:.4g} of it" if found.capped is not None else ""
    return _sum(about, terms, found.score + found.slope, "score", note)


def _by_head(found: DirectAttribution, layers: int) -> dict[str, float]:
    """The terms, with each layer's attention as its heads and its bias; of the layers from `layers` on, which are cut, whole."""
    assert found.heads is not None
    assert found.attn_bias is not None
    parts = zip(found.components.coords["component"], found.components.values.tolist(), strict=True)
    split = {f"attn_out.{layer}" for layer in range(layers)}
    terms = {str(name): value for name, value in parts if str(name) not in split}
    each = zip(found.heads.values.tolist(), found.attn_bias.values.tolist(), strict=True)
    for layer, (heads, bias) in [*enumerate(each)][:layers]:
        terms |= {f"head {layer}.{head}": value for head, value in enumerate(heads)}
        terms[f"attention's bias {layer}"] = bias
    return terms


def _lens(model: Model, run: Recording, pair: Pair, row: int, at: int) -> float:
    """The number as the lens reads it off the stream that is held."""
    logits = model.lens(run["resid_pre", row][0, at][None])[0].float()
    return float(logits[pair[0]] - (0.0 if pair[1] is None else logits[pair[1]]))


def _sum(of: str, terms: dict[str, float], own: float, unit: Literal["logits", "score"], note: str) -> Sum:
    total, size = sum(terms.values()), max([1.0, *map(abs, terms.values())])
    if abs(total - own) > NEAR * size:
        raise NotAdditive(
            "the number is no sum of these writes: an edit acts after the row it is read at, or between the writes",
            received=f"they sum to {total:.4g}, the number is {own:.4g}", allowed="the same run without that edit",
        )  # fmt: skip
    order = sorted(terms, key=lambda name: abs(terms[name]), reverse=True)
    listed: list[Term] = [{"name": name, "value": terms[name]} for name in order[:MOST_LISTED]]
    others = order[MOST_LISTED:]
    return {
        "of": of, "terms": listed, "others": len(others), "rest": sum(terms[name] for name in others),
        "total": total, "own": own, "unit": unit, "note": note,
    }  # fmt: skip
