"""Skip trigrams: A ... B -> C, what a head alone makes of a pair of tokens, and the trigrams that it is then forced to have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.flow import scores_factor
from residscope.engine.model import Model
from residscope.errors import BadArguments
from residscope.methods._lib.weights.matrices import HeadMatrices, check_head, head_matrices
from residscope.methods._lib.weights.vocabulary import called, embedded, unembedded
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.shown_tokens import visible
from residscope.views import Table

Tokens = Sequence[str | int]
COLUMNS = (
    "source", "destination", "out", "score over mean key", "logit x divisor", "attention, measured", "logits, measured",
    "forced",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class SkipTrigrams(Report):
    """Of each source token A the destinations B that look at it, and the outs C that it raises where it is looked at.

    destinations [source destination], outs [source out]: token ids. score[source, destination]: how much more B's query scores
    with A's key than with the mean token's. logit[source, out]: what A's value adds to the logit of C over the mean token's,
    times the final norm's divisor. attention[source, destination]: of B to A in the text "A B", measured; effect[source,
    destination, out]: what the head adds there to the logit of C over the mean token's, from A alone, measured.

    A head is a product of the two: whoever looks at A gets all that A's value says. So every pair of a destination and an out
    is a skip trigram of the head, and of two, A B C and A B' C', the two others, A B C' and A B' C, are forced.
    """

    kind: ClassVar[str] = "report:skip_trigrams"
    main: ClassVar[str] = "effect"
    layer: int
    head: int
    destinations: Int[Tensor, "source destination"]
    outs: Int[Tensor, "source out"]
    score: Result
    logit: Result
    attention: Result
    effect: Result
    texts: Mapping[int, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trigrams(self) -> list[tuple[str, str, str]]:
        """The first destination of each source with the first out, the second with the second, and so on."""
        return [words for words, forced in self._every() if not forced]

    @property
    def forced(self) -> list[tuple[str, str, str]]:
        """Every other pair of a destination and an out of one source."""
        return [words for words, forced in self._every() if forced]

    def _every(self) -> list[tuple[tuple[str, str, str], bool]]:
        sources = self.effect.coords["source"]
        return [
            ((self.texts[int(a)], self.texts[b], self.texts[c]), i != j)
            for a, bs, cs in zip(sources, self.destinations.tolist(), self.outs.tolist(), strict=True)
            for i, b in enumerate(bs)
            for j, c in enumerate(cs)
        ]

    def view(self) -> Table:
        """Every trigram with the scores that make it and what was measured."""
        rows: list[list[Any]] = []
        _, bs, cs = self.effect.values.shape
        for number, (words, forced) in enumerate(self._every()):
            (s, rest), j = divmod(number, bs * cs), number % cs
            i = rest // cs
            numbers = [float(self.score.values[s, i]), float(self.logit.values[s, j])]
            numbers += [float(self.attention.values[s, i]), float(self.effect.values[s, i, j])]
            rows.append([*map(visible, words), *numbers, "forced" if forced else ""])
        note = 'Measured in the text "source destination" alone; elsewhere the stream holds more than these two tokens.'
        return Table([*COLUMNS], rows, title=f"Skip trigrams of head {self.layer}.{self.head}", note=note)

    def __repr__(self) -> str:
        some = ", ".join(" ... ".join(map(repr, words[:2])) + f" → {words[2]!r}" for words in self.trigrams[:2])
        return f"SkipTrigrams(head {self.layer}.{self.head}: {some}; {len(self.forced)} forced)"


def _refuse(
    model: Model,
    layer: int,
    head: int,
    sources: Tokens,
    *,
    destinations: Tokens | None = None,
    outs: Tokens | None = None,
    **_: Any,
) -> None:
    model.require_exact_weights("a head's matrices")
    check_head(model, layer, head)
    for name, tokens in (("sources", sources), ("destinations", destinations), ("outs", outs)):
        if isinstance(tokens, str) or (tokens is not None and not len(tokens)):
            raise BadArguments(f"{name} are several tokens", received=repr(tokens), allowed="a list of tokens")
        ids = [] if tokens is None else [model.token_id(token) for token in tokens]
        if len({*ids}) < len(ids):
            raise BadArguments(f"one of the {name} is given twice", received=repr([*(tokens or [])])[:80])


@method("skip-trigrams", title="Skip trigrams of a head", group="weights", refuse=_refuse)
def skip_trigrams(
    model: Model,
    layer: Annotated[int, fields.count(low=0, high=10_000)],
    head: Annotated[int, fields.heads(single=True)],
    sources: Annotated[Tokens, fields.tokens(several=True)],
    *,
    destinations: Annotated[Tokens | None, fields.tokens(several=True)] = None,
    outs: Annotated[Tokens | None, fields.tokens(several=True)] = None,
    k: Annotated[int, fields.count(low=1, high=50)] = 5,
    progress: Progress = None,
    cancel: Cancel = None,
) -> SkipTrigrams:
    """Skip trigrams A ... B -> C of one head, by its QK and OV circuits over the vocabulary, and those that are then forced.

        score(A, B) = c q_B (k_A - mean k)        logit(A, C) = v_A W_O (u_C - mean u)

    q, k and v are what the head makes of a stream that is a token's embedding alone, through its norm; u the unembedding behind
    the final norm's gain, that norm's divisor left out; the means are over all tokens, since a softmax knows no constant. Biases
    and positions are left out, and with rotary embeddings the key stands where its query does. The destinations are the k of the
    largest score, the outs the k of the largest logit, unless they are said. Each pair is then measured in the text "A B", behind
    the model's BOS where that is its habit.

        rs.skip_trigrams(model, 0, 1, [" keep"], destinations=[" in", " at"], outs=[" mind", " bay"]).forced

    The effect that is measured is direct: the final norm's divisor as it is in that text, later layers not followed.

    Raises:
        UnknownToken, UnknownLayer, UnknownHead, BadArguments. AbsentSite: a norm of queries and keys makes these two no matrix.
        QuantisedModel, Cancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (skip-trigram "bugs").
    """
    _refuse(model, layer, head, sources, destinations=destinations, outs=outs)
    said = [None if x is None else [model.token_id(token) for token in x] for x in (sources, destinations, outs)]
    A = torch.tensor(said[0])
    with stage("Reading skip trigrams", 3 + len(A), progress, cancel) as tell, torch.no_grad():
        W = head_matrices(model, layer)
        tell(1)
        scores = _scores(model, W, layer, head, A)  # [source token]
        tell(2)
        logits, written = _logits(model, W, layer, head, A)
        tell(3)
        B, C = (_chosen(ids, x, k) for ids, x in ((said[1], scores), (said[2], logits)))
        attention, effect = [], []
        for at, a in enumerate(A.tolist()):
            seen, added = _measured(model, layer, head, a, B[at], written[C[at]])
            attention.append(seen)
            effect.append(added)
            tell(4 + at)
    about = {
        **model.provenance, "method": "skip trigrams", "layer": layer, "head": head,
        "folded": "gains of the norms; biases and positions are left out",
    }  # fmt: skip
    texts = called(model, torch.cat([A, B.flatten(), C.flatten()]))
    coords = {"source": A.tolist(), "token": [texts[int(a)] for a in A]}

    def result(values: Tensor, dims: tuple[str, ...], name: str, unit: str) -> Result:
        dims = ("source", *dims)
        return Result(values.float(), dims, coords, along={"token": "source"}, name=name, unit=unit, provenance=about)

    return SkipTrigrams(
        layer, head, B, C,
        result(scores.gather(1, B), ("destination",), "score over the mean key", "score"),
        result(logits.gather(1, C), ("out",), "logit over the mean token", "logits x divisor"),
        result(torch.stack(attention), ("destination",), "attention to the source", "share"),
        result(torch.stack(effect), ("destination", "out"), "direct effect of the source", "logits"),
        texts, about,
    )  # fmt: skip


def _scores(model: Model, W: HeadMatrices, layer: int, head: int, A: Tensor) -> Float[Tensor, "source token"]:
    """c q_B (k_A - mean k), of every token as destination."""
    norm = model.layout.blocks[layer].attn_norm
    queries, keys = (_wide(embedded(model, norm, _wide(W.need(name)[head]))) for name in "qk")
    return scores_factor(model.layout, layer) * ((keys[A] - keys.mean(0)) @ queries.T).cpu()


def _logits(
    model: Model, W: HeadMatrices, layer: int, head: int, A: Tensor
) -> tuple[Float[Tensor, "source token"], Float[Tensor, "token d_head"]]:
    """v_A W_O (u_C - mean u), of every token as out; and W_O (u_C - mean u)."""
    values = embedded(model, model.layout.blocks[layer].attn_norm, _wide(W.need("v")[head]))[A]
    written = unembedded(model, _wide(W.o[head])) * model.layout.factors.residual
    return (values @ written.T).cpu(), written


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _chosen(ids: Sequence[int] | None, scores: Float[Tensor, "source token"], k: int) -> Int[Tensor, "source n"]:
    """The same tokens for every source, or those of its largest scores."""
    if ids is not None:
        return torch.tensor([[*ids]] * len(scores))
    return scores.topk(min(k, scores.shape[1])).indices


def _measured(
    model: Model, layer: int, head: int, a: int, B: Int[Tensor, " destination"], written: Float[Tensor, "out d_head"]
) -> tuple[Float[Tensor, " destination"], Float[Tensor, "destination out"]]:
    """In the texts "A B": B's attention to A, and what A's value adds by it to the logits, with the divisors that are there."""
    model.require_plain_mix("a skip trigram", [layer])
    begin = [model.tokenizer.bos_token_id] if model.bos and model.tokenizer is not None else []
    posted = "attn_post_scale" in model.sites.names
    sites = [Site("pattern", layer), Site("v", layer), Site("final_scale")]
    sites += [Site("attn_post_scale", layer)] if posted else []
    run = model.run([[*begin, a, b] for b in B.tolist()], sites)
    seen = run["pattern", layer][:, head, -1, -2]
    value = run["v", layer][:, -2, head // model.heads_at(layer).groups]
    added = torch.einsum("b,bd,od->bo", _wide(seen), _wide(value), written.to(value.device, _wide(value).dtype))
    added = added / run["attn_post_scale", layer][:, -1] if posted else added
    return seen.cpu(), (added / run["final_scale"][:, -1]).cpu()
