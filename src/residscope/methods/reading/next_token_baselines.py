"""What counts alone would have predicted: the model's next tokens beside a unigram, a bigram and skip trigrams of a text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from residscope import fields
from residscope.corpus.reading import Reader
from residscope.corpus.text import Source
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.errors import PromptError
from residscope.methods._lib.ngrams import ADDED, Counts
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Table, TokenStrip, View

READERS = ("model", "unigram", "bigram", "skip trigrams")
PART = 128  # positions unembedded at once
LENGTH = 512  # tokens of a row of the text


@dataclass(frozen=True, eq=False, repr=False)
class NextTokenBaselines(Report):
    """How well the model and three tables of counts expected every token of a text but the first.

    log_prob[reader, pos], pos from 1: log P(token at pos | what the reader looks at before it), in nats. expected[reader][place]:
    what each thought likeliest there. seen[baseline, place]: how often the token itself, the pair with the token before it, and
    one of its skip trigrams stood in the text that was counted.
    """

    kind: ClassVar[str] = "report:next_token_baselines"
    main: ClassVar[str] = "log_prob"
    prompt: tuple[str, ...]
    log_prob: Result
    expected: tuple[tuple[str, ...], ...]
    seen: Int[Tensor, "baseline pos"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def means(self) -> Result:
        """The mean over tokens of each reader's log-probability, in nats."""
        return Result(
            self.log_prob.values.mean(1), ("reader",), {"reader": READERS}, name="mean log-probability", unit="nats",
            provenance=dict(self.provenance),
        )  # fmt: skip

    def view(self) -> View:
        """The means; each token's log-probability by reader; on the text, what the model knows beyond the best of the counts."""
        values, means = self.log_prob.values, self.means.values
        rows = [[name, mean, 2.718281828459045**-mean] for name, mean in zip(READERS, means.tolist(), strict=True)]
        gain = values[0] - values[1:].max(0).values
        places = list(range(1, len(self.prompt)))
        lines = [Line(name, values[i].tolist()) for i, name in enumerate(READERS)]
        tokens = [
            [
                pos,
                repr(self.prompt[pos]),
                *values[:, at].tolist(),
                *(repr(said[at]) for said in self.expected),
                *self.seen[:, at].tolist(),
            ]
            for at, pos in enumerate(places)
        ]
        columns = [
            "position",
            "token",
            *READERS,
            *(f"{name} expected" for name in READERS),
            *(f"{name}: seen" for name in READERS[1:]),
        ]
        return Grid(
            [
                Table(["reader", "mean log-probability, nats", "perplexity"], rows, title="How well each expected the text"),
                TokenStrip(
                    list(self.prompt), [None, *gain.tolist()], unit="nats", scale="diverging",
                    title="What the model expected beyond the best of the counts",
                    note="log-probability above that of the likeliest of the three; nothing predicts the first token",
                ),
                Curve(places, lines, title="Log-probability of each token", x_title="position", unit="nats"),
                Table(columns, tokens, title="Token by token"),
            ],
            columns=1,
            title="Next-token baselines",
        )  # fmt: skip

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {mean:.2f}" for name, mean in zip(READERS, self.means.values.tolist(), strict=True))
        return f"NextTokenBaselines({len(self.prompt)} tokens; mean log-probability: {said} nats)"


@method("next-token-baselines", title="Next-token baselines", group="reading")
def next_token_baselines(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    *,
    text: Annotated[Source, fields.text(title="text that is counted")] = "english",
    tokens: Annotated[int, fields.count(low=1, help="of it")] = 200_000,
    reach: Annotated[
        int, fields.count(low=1, high=1000, help="how far before the last token a skip trigram begins")
    ] = 16,
    progress: Progress = None,
    cancel: Cancel = None,
) -> NextTokenBaselines:
    """The model's log-probability of each next token beside those of counts over another text: what is left is the model's own.

        unigram        P1(c)     = (n(c) + 0.1) / sum
        bigram         P2(c | b) = (n(b c) + K P1(c)) / (n(b) + K)                      K: how many kinds of token follow b
        skip trigrams  P3(c | a ... b) the same from n(a ... b c), backed off to P2;    the mean over the tokens a before b

    backed off as Witten and Bell (1991) do. A model without layers can say no more than bigrams, one layer of attention alone no
    more than these and skip trigrams: Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits". Rows of the text
    that have 8 tokens in a row as the prompt has them are left out of the counts; the provenance says how many.

        rs.next_token_baselines(model, "The capital of France is Paris").means

    Raises:
        PromptError: several prompts, or fewer than two tokens. CorpusError: the text cannot be used. Cancelled.
    """
    batch = model.batch(prompt)
    if len(batch) != 1:
        raise PromptError("baselines are of one prompt", received=f"{len(batch)} prompts", fix="ask for each")
    if batch.lengths[0] < 2:
        raise PromptError("the first token is predicted by nothing", received="one token", allowed="two or more")
    ids = batch.ids[0].tolist()
    counts, reader, read = Counts(ids, reach, model.d_vocab), Reader(model, text), 0
    with stage("Counting over the text", tokens, progress, cancel) as tell:
        for row in reader.rows(length=LENGTH, tokens=tokens, least=2, tell=tell):
            counts.add(row.ids)
            read += len(row.ids)
            tell(read)
    found: list[list[float]] = []
    best: list[list[int]] = []
    with stage("Reading the predictions", len(ids) - 1, progress, cancel) as tell:
        for part in model.run(batch).logits_in_parts(PART):
            for said in part[0].double().log_softmax(-1).cpu():
                pos = len(found)
                if pos == len(ids) - 1:
                    break
                every = torch.stack([said, *(p.log() for p in counts.predictions(pos))])
                found.append(every[:, ids[pos + 1]].tolist())
                best.append(every.argmax(-1).tolist())
                tell(pos + 1)
    seen = torch.tensor([counts.seen(pos, ids[pos + 1]) for pos in range(len(ids) - 1)]).T.contiguous()
    about = {**model.provenance, **reader.about, "method": "next_token_baselines", "counted tokens": counts.tokens}
    about |= {"rows left out": counts.left_out, "reach": reach, "added": ADDED}
    coords = {"reader": READERS, "pos": tuple(range(1, len(ids)))}
    log_prob = Result(
        torch.tensor(found).T.contiguous(), ("reader", "pos"), coords, name="log-probability of each token", unit="nats",
        provenance=about,
    )  # fmt: skip
    expected = tuple(tuple(model.token_texts([row[i] for row in best])) for i in range(len(READERS)))
    return NextTokenBaselines(tuple(model.token_texts(ids)), log_prob, expected, seen, about)
