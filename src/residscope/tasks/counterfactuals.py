"""Counterfactual prompts: one word exchanged for another of as many tokens, so that every position keeps its place."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of
from residscope.engine.protocols import Readout
from residscope.errors import BadPrompt
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Record, Report
from residscope.tasks.ioi import NAMES, OBJECTS, PLACES
from residscope.tasks.spans import locate
from residscope.views import Table

WORD = re.compile(r"[^\W\d_]+|\d+")
COMMON = 10_000  # byte-pair vocabularies are learnt commonest first, so low ids are common tokens
LEAST_LETTERS = 3  # of a word that is worth exchanging
ROWS = 8  # prompts of one forward
STEPS = (1, -1, 10, -10)  # from a number to others
Exchange = tuple[str, str, int | None, str]  # word, other, which of its occurrences (None: all), what kind


@dataclass(frozen=True, eq=False, repr=False)
class Counterfactual(Record):
    """One proposal: its text, each token that changes as (position, before, after), and the metric before and after."""

    kind: ClassVar[str] = "counterfactual"
    text: str
    how: str
    changes: tuple[tuple[int, str, str], ...]
    before: float
    after: float

    @property
    def moved(self) -> float:
        return self.after - self.before

    def __repr__(self) -> str:
        return f"Counterfactual({self.how}: {self.before:+.2f} to {self.after:+.2f})"


@dataclass(frozen=True, eq=False, repr=False)
class Counterfactuals(Report):
    """Proposals for one prompt, the one that moves the metric farthest first. bos: as the prompt's own."""

    kind: ClassVar[str] = "report:counterfactuals"
    text: str
    bos: bool
    metric: str
    proposals: tuple[Counterfactual, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Counterfactual | None:
        """The one that moves it farthest; None where no word has another of as many tokens."""
        return self.proposals[0] if self.proposals else None

    def view(self) -> Table:
        rows = [[p.how, p.before, p.after, p.moved, p.text] for p in self.proposals]
        note = "" if rows else "No word of the prompt has another of as many tokens."
        columns = ["exchange", "before", "after", "moved", "text"]
        return Table(columns, rows, title=f"Counterfactuals: {self.metric}", note=note)

    def __repr__(self) -> str:
        return f"Counterfactuals({len(self.proposals)} of {self.text[:40]!r}, best {self.best!r})"


def _price(model: Model, *, prompt: Prompt, n: int = 24, **_: Any) -> float:
    """Tokens through the whole model: the prompt, and each proposal."""
    return float((n + 1) * max(model.batch(prompt).lengths))


@method("counterfactuals", title="Make a counterfactual", group="prompts", tokens=_price)
def counterfactuals(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True)],
    metric: Annotated[Readout, fields.metric()],
    *,
    n: Annotated[int, fields.count(low=1, high=200, title="proposals")] = 24,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Counterfactuals:
    """Prompts of the very same length in which one word is exchanged for another, each with what it does to a metric.

    Exchanged are, in this order, up to `n`: a repeated name's last occurrence for the other name (the two change roles) and for a
    third; each name, all its occurrences, for a third; each number for others of as many digits; each other word of three letters
    or more, all its occurrences, for the nearest by the cosine of their embeddings (of a word of several tokens, their mean):
    of one token among the vocabulary's common tokens, of several among the tasks' own words. Names are those of the IOI task.
    Capital letters and the space in front stay, and no other token changes. Sorted by |after - before|; read off one forward
    each, so `before` and `after` are the metric's own values.

        rs.counterfactuals(model, "John met Mary, and John gave the milk to", rs.logit_diff(" Mary", " John")).best

    Raises:
        BadPrompt: several prompts, or tokens that no text gives. NoTokenizer, PromptError, Cancelled.
    """
    text, ids, bos = _read(model, prompt)
    spans = locate(model, text).spans[-len(ids) :]
    spans = ((0, 0),) * (len(ids) - len(spans)) + spans
    found: dict[str, tuple[str, list[int]]] = {}
    with stage("Looking for words", n, progress, cancel) as tell:
        for word, other, which, kind in _exchanges(model, text):
            places = _places(text, word, which)
            changed = _exchanged(text, places, other)
            new = model.encode(changed, bos=bos)
            if changed not in found and len(new) == len(ids) and new != ids and _only(ids, new, spans, places):
                found[changed] = (f"{kind}: {word} → {other}" + ("" if which is None else ", the last"), new)
            if len(found) == n:
                break
            tell(len(found))
    rows = [ids, *(new for _, new in found.values())]
    values: list[float] = []
    with stage("Running each", len(rows), progress, cancel) as tell:
        for start in range(0, len(rows), ROWS):
            run = model.run(rows[start : start + ROWS], metric.sites)
            values += metric(run).double().flatten().tolist()
            tell(len(values))
    before, texts = values[0], model.token_texts(ids)
    proposals = [
        Counterfactual(
            changed, how, tuple((i, texts[i], name) for i, name in enumerate(model.token_texts(new)) if new[i] != ids[i]),
            before, after,
        )
        for (changed, (how, new)), after in zip(found.items(), values[1:], strict=True)
    ]  # fmt: skip
    proposals.sort(key=lambda one: -abs(one.moved))
    about = {**model.provenance, "method": "counterfactuals", "prompt": text}
    return Counterfactuals(text, bos, label_of(metric, model), tuple(proposals), about)


def _read(model: Model, prompt: Prompt) -> tuple[str, list[int], bool]:
    """The prompt's text, its tokens, and whether BOS stands in front. Raises BadPrompt."""
    batch = model.batch(prompt)
    if len(batch) != 1:
        raise BadPrompt("counterfactuals are of one prompt", received=f"{len(batch)} prompts", allowed="one")
    ids = batch.ids[0].tolist()
    if isinstance(prompt, str):
        return prompt, ids, model.bos
    begins = getattr(model.tokenizer, "bos_token_id", None) == ids[0]
    for bos in (True, False) if begins else (False,):
        text = model.text(ids[1:] if bos else ids)
        if model.encode(text, bos=bos) == ids:
            return text, ids, bos
    raise BadPrompt("no text gives these tokens, so its words cannot be exchanged", received=repr(ids)[:120])


def _only(
    ids: Sequence[int], new: Sequence[int], spans: Sequence[tuple[int, int]], places: Sequence[tuple[int, int]]
) -> bool:
    """Whether no token changes but those of the words that are exchanged."""
    changed = [spans[i] for i, (a, b) in enumerate(zip(ids, new, strict=True)) if a != b]
    return all(any(start < b and a < end for start, end in places) for a, b in changed)


def _exchanges(model: Model, text: str) -> Iterator[Exchange]:
    """What to try, the likeliest to matter first."""
    words = [found.group() for found in WORD.finditer(text)]
    known = [*dict.fromkeys(words)]
    names = [word for word in known if word in NAMES]
    near = _Near(model)
    for name in names:
        last = words.count(name) - 1
        others = [other for other in names if other != name]
        third = [other for other in near.of(name, NAMES) if other not in names][:2]
        if last:
            yield from ((name, other, last, "roles") for other in others)
            yield from ((name, other, last, "name") for other in third)
        yield from ((name, other, None, "name") for other in third)
    for word in (word for word in known if word.isdecimal()):
        others = [str(int(word) + step) for step in STEPS if int(word) + step >= 0]
        yield from ((word, other, None, "number") for other in others if len(other) == len(word))
    for word in reversed(known):
        if word not in names and len(word) >= LEAST_LETTERS and not word.isdecimal():
            yield from ((word, other, None, "word") for other in near.of(word, (*NAMES, *PLACES, *OBJECTS))[:1])


class _Near:
    """Words by the cosine of their embeddings with another's."""

    def __init__(self, model: Model) -> None:
        self.model = model
        ids = range(min(COMMON, model.d_vocab))
        texts = model.token_texts(ids)
        self.common = {
            text[1:]: id for id, text in zip(ids, texts, strict=True) if text[:1] == " " and text[1:].isalpha()
        }

    def of(self, word: str, listed: Sequence[str]) -> list[str]:
        """Words of as many tokens, the nearest first: of the list, or, for a word of one token that is not on it, common ones."""
        own = self.model.encode(f" {word}", bos=False)
        single = len(own) == 1 and word not in listed
        among = self.common if single else {one: self.model.encode(f" {one}", bos=False) for one in listed}
        rows = {one: id if isinstance(id, list) else [id] for one, id in among.items()}
        fitting = [one for one, ids in rows.items() if len(ids) == len(own) and _alike(one, word)]
        if not fitting:
            return []
        vectors = self._vectors([rows[one] for one in fitting])
        cosine = torch.nn.functional.cosine_similarity(vectors, self._vectors([own]), dim=-1)
        return [fitting[i] for i in cosine.argsort(descending=True).tolist()]

    def _vectors(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "word d"]:
        embedding = self.model.hf.get_input_embeddings()
        with torch.no_grad():
            ids = torch.tensor(rows, device=next(embedding.parameters()).device)
            return embedding(ids).float().mean(1).cpu()


def _alike(other: str, word: str) -> bool:
    """Whether a word may stand for another: as capital, and neither it nor a form of it."""
    a, b = other.casefold(), word.casefold()
    capital = (other[:1].isupper(), other.isupper()) == (word[:1].isupper(), word.isupper())
    return capital and len(other) >= LEAST_LETTERS and not a.startswith(b) and not b.startswith(a)


def _places(text: str, word: str, which: int | None) -> list[tuple[int, int]]:
    """Where a word stands: all its occurrences, or one of them."""
    found = [one.span() for one in WORD.finditer(text) if one.group() == word]
    return found if which is None else [found[which]]


def _exchanged(text: str, places: Sequence[tuple[int, int]], other: str) -> str:
    for start, end in reversed(places):
        text = text[:start] + other + text[end:]
    return text
