"""The direct path: what the embedding alone says next, through the unembedding, with and without the first block's MLP."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import edits, fields
from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source
from residscope.corpus.text import called as named
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.engine.windows import Window
from residscope.errors import BadArguments
from residscope.methods._lib.weights.matrices import embeddings
from residscope.methods._lib.weights.vocabulary import called
from residscope.model.prompts import Batch
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.shown_tokens import visible
from residscope.views import Grid, Table

PART = 32  # tokens whose logits are held at once
ROWS = ("embedding", "embedding and MLP 0")


@dataclass(frozen=True, eq=False, repr=False)
class DirectPath(Report):
    """What follows each asked token by the path through no head: a row for the embedding alone, one with the first MLP.

    top[row, token, k]: the likeliest next tokens, by id; probability, logit beside them; logits are those of the model, capped
    where it caps. kl[row, token]: from what follows the token in a text to the row's, KL(text || row), in nats; NaN where the
    token is never followed there, empty without a text. seen[token]: how often it is followed there.
    """

    kind: ClassVar[str] = "report:direct_path"
    main: ClassVar[str] = "probability"
    tokens: tuple[int, ...]
    rows: tuple[str, ...]
    texts: Mapping[int, str]
    top: Int[Tensor, "row token k"]
    probability: Result
    logit: Float[Tensor, "row token k"]
    kl: Float[Tensor, "row some"]
    seen: Int[Tensor, " some"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean_kl(self) -> list[float]:
        """Of each row, the mean of kl over the asked tokens as often as the text has them, in nats; NaN if it has none."""
        known = self.seen > 0
        share = self.seen[known].double() / self.seen.sum()
        return [float((row[known].double() * share).sum()) if known.any() else float("nan") for row in self.kl]

    def view(self) -> Grid:
        """Each asked token with its likeliest next ones; with a text, how far each row is from what follows there."""
        parts = []
        for row, name in enumerate(self.rows):
            lines = [
                [visible(self.texts[id]), visible(self.texts[int(self.top[row, at, i])]), float(p), float(x)]
                for at, id in enumerate(self.tokens)
                for i, (p, x) in enumerate(zip(self.probability.values[row, at], self.logit[row, at], strict=True))
            ]
            parts.append(Table(["token", "next", "probability", "logit"], lines, title=f"Next by {name}"))
        if len(self.seen):
            lines = [
                [visible(self.texts[id]), int(self.seen[at]), *self.kl[:, at].tolist()]
                for at, id in enumerate(self.tokens)
            ]
            columns = ["token", "times in the text", *(f"KL, {name}, nats" for name in self.rows)]
            note = "From the text's counts to the model's path; of few counts KL is too high."
            parts.append(Table(columns, lines, title="How far from the text's bigram", note=note))
        return Grid(parts, columns=1, title="The direct path")

    def __repr__(self) -> str:
        some = ", ".join(
            f"{self.texts[a]!r} → {self.texts[int(b)]!r}" for a, b in zip(self.tokens, self.top[0, :, 0], strict=True)
        )
        return f"DirectPath({some[:200]})"


def _refuse(model: Model, tokens: Sequence[str | int], **_: Any) -> None:
    if isinstance(tokens, str) or not len(tokens):
        raise BadArguments("tokens are several", received=repr(tokens), allowed="a list of tokens")
    if len({model.token_id(token) for token in tokens}) < len(tokens):
        raise BadArguments("a token is given twice", received=repr([*tokens])[:80])


@method("direct-path", title="Direct path", group="weights", refuse=_refuse)
def direct_path(
    model: Model,
    tokens: Annotated[Sequence[str | int], fields.tokens(several=True)],
    *,
    k: Annotated[int, fields.count(low=1, high=50)] = 5,
    text: Annotated[Source | None, fields.text(title="text")] = None,
    read: Annotated[int, fields.count(low=1, title="tokens of the text")] = 20_000,
    progress: Progress = None,
    cancel: Cancel = None,
) -> DirectPath:
    """What a model says after a token by its embedding alone, and by its embedding and the first block's MLP: its own bigrams.

        logits(A) = cap(scale · W_U norm(W_E[A]))        logits'(A) = cap(scale · W_U norm(x + MLP_0(x))),  x = W_E[A]

    The norm is the model's final one, gain and bias included, its divisor that of what it reads. Positions and attention are left
    out, the biases of attention's output too. The second row is there where blocks have an MLP.

    tokens: those asked for. k: how many next ones are kept. text: a text whose first `read` tokens are counted, pairs within a
    row; KL is from the counts of what follows, which are not smoothed, to the path.

        rs.direct_path(model, [" Barack"], k=3).view()

    Raises:
        BadArguments, UnknownToken. CorpusError: the text cannot be used. Cancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (zero-layer transformers).
    """
    _refuse(model, tokens)
    ids = torch.tensor([model.token_id(token) for token in tokens])
    counts = {} if text is None else _followed(model, text, read, {*ids.tolist()}, progress, cancel)
    rows = ROWS if "mlp_out" in model.sites.names else ROWS[:1]
    parts = torch.split(ids, PART)
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in rows]
    with stage("Reading the direct path", len(parts) * len(rows), progress, cancel) as tell, torch.no_grad():
        for number, part in enumerate(parts):
            x = embeddings(model, part)
            streams = [x, _with_mlp(model, part, x)] if len(rows) > 1 else [x]
            for at, stream in enumerate(streams):
                found[at].append(_read(model.lens(stream).float(), part, counts, k))
                tell(number * len(rows) + at + 1)
    top, logit, probability, kl = (
        torch.stack([torch.cat([p[i] for p in row]) for row in found]).cpu() for i in range(4)
    )
    seen = torch.tensor([counts[a].total() for a in ids.tolist()] if counts else [], dtype=torch.long)
    texts = called(model, torch.cat([ids, top.flatten()]))
    about = {
        **model.provenance,
        "method": "direct path",
        "positions": "left out",
        **({"text": named(text)} if text is not None else {}),
    }
    coords = {"row": rows, "token": [texts[a] for a in ids.tolist()], "place": list(range(1, top.shape[2] + 1))}
    result = Result(
        probability,
        ("row", "token", "place"),
        coords,
        name="probability of the next token",
        unit="probability",
        provenance=about,
    )
    return DirectPath(tuple(ids.tolist()), rows, texts, top, result, logit, kl if counts else kl[:, :0], seen, about)


def _with_mlp(
    model: Model, ids: Int[Tensor, " token"], x: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token d_model"]:
    """The stream behind the first block were its attention to write nothing."""
    x = x.to(model.dtype)[:, None]
    batch = Batch(ids.to(model.device)[:, None], (1,) * len(ids))
    base = Recording(model, batch, {Site("resid_pre", 0): x}, weights=model.weights_version())
    stack = [edits.patch("resid_pre.0", {"resid_pre.0": x}), edits.ablate("attn_out.0")]
    run = model.run(batch, ["resid_post.0"], edits=stack, window=Window(base, 0, 0))
    return run["resid_post", 0][:, 0]


def _followed(
    model: Model, text: Source, read: int, asked: set[int], progress: Progress, cancel: Cancel
) -> dict[int, Counter[int]]:
    """Of each asked token, how often each token follows it in a row of the text."""
    counts: dict[int, Counter[int]] = {token: Counter() for token in asked}
    with stage("Counting pairs", read, progress, cancel) as tell:
        done = 0
        for batch in Reader.of(model, text).batches(tokens=read, length=LENGTH, size=4, tell=tell):
            for row in batch:
                for a, b in pairwise(row):
                    if a in asked:
                        counts[a][b] += 1
                done += len(row)
            tell(done)
    return counts


def _read(
    logits: Float[Tensor, "token vocab"], ids: Int[Tensor, " token"], counts: Mapping[int, Counter[int]], k: int
) -> tuple[Tensor, ...]:
    """The likeliest with their logits and probabilities, and KL from the counts."""
    told = logits.log_softmax(-1)
    best = logits.topk(min(k, logits.shape[-1]), dim=-1)
    kl = torch.full((len(ids),), float("nan"))
    for at, a in enumerate(ids.tolist()):
        if counts and counts[a]:
            p = torch.tensor([*counts[a].values()]).double() / counts[a].total()
            kl[at] = float((p * (p.log() - told[at, [*counts[a]]].cpu().double())).sum())
    return best.indices.cpu(), best.values.cpu(), told.gather(-1, best.indices).exp().cpu(), kl
