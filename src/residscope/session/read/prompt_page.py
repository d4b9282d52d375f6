"""Pages of prompts: windows drawn from a text beside one's own, with the stream of every token kept for colouring."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any, Never, NotRequired, TypedDict

import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor

from residscope.declare import shorten
from residscope.directions import Dictionary, logit_diff
from residscope.engine.memory import held_share
from residscope.engine.recording import Recording
from residscope.engine.sinks import sinks, streams
from residscope.errors import Cancelled, NotFound, PageTooLarge, UnknownLayer
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, stage
from residscope.session import compute
from residscope.session.compute import Held, TensorFile
from residscope.session.jobs import Taker
from residscope.session.read.company import Company
from residscope.session.state import token
from residscope.session.wire import Tok
from residscope.world.dictionaries import beside_stream, row_sites
from residscope.world.loaded import Loaded
from residscope.world.values import Prompt

NEXT = 3
BATCH_TOKENS = 256  # between two batches the live run takes its turn
PAGE_BYTES = held_share()
MOST_BESIDE = 4
MOST_PAGES = 3
FIRST = 2  # prompts of a drawing that are recorded first, then thrice as many in all, and so on
CAPTURE = ("resid_pre.0", "resid_post")
Turn = Callable[[int], None]
"""Called before each batch, with the number of prompts that are done: lets the live run go first, and may raise to stop."""


class Likely(TypedDict):
    text: str
    p: float


class ShownPrompt(TypedDict):
    """One prompt of a page; `next`: the three likeliest tokens after each of its own."""

    text: str
    own: bool
    tokens: list[Tok]
    next: list[list[Likely]]


class PromptsAnswer(TypedDict):
    id: str
    prompts: list[ShownPrompt]


class PageCoefTensors(TypedDict):
    """`sigma`: in the lens space."""

    coef: Float32[Tensor, "token k"]
    offset: Float32[Tensor, "k"]
    norm: Float32[Tensor, "token"]
    sink: UInt8[Tensor, "token"]
    sigma: NotRequired[Float32[Tensor, "token"]]


class PageLogitTensors(TypedDict):
    value: Float32[Tensor, "token"]
    offset: Float32[Tensor, "token"]
    norm: Float32[Tensor, "token"]
    sink: UInt8[Tensor, "token"]


class PageCoefFile(TensorFile[PageCoefTensors, Never]): ...


class PageLogitFile(TensorFile[PageLogitTensors, Never]): ...


@dataclass(frozen=True, eq=False)
class Recorded:
    """One prompt, its stream (row 0 is what block 0 reads) and the likeliest tokens after each of its own."""

    prompt: Prompt
    rows: Float[Tensor, "row pos d_model"]
    sink: Bool[Tensor, "row pos"]
    next_id: Int[Tensor, "pos k"]
    next_p: Float[Tensor, "pos k"]

    @property
    def bytes(self) -> int:
        return self.rows.numel() * self.rows.element_size()


@dataclass(frozen=True, eq=False)
class Page:
    """What is kept of one page: one's own prompts, then those drawn."""

    id: str
    own: tuple[Recorded, ...]
    drawn: tuple[Recorded, ...]
    beside: dict[tuple[str, int | None], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[Recorded, ...]:
        return (*self.own, *self.drawn)

    @property
    def bytes(self) -> int:
        return sum(recorded.bytes for recorded in self.prompts)

    def at(self, row: int) -> tuple[Float[Tensor, "token d_model"], Bool[Tensor, "token"]]:
        """One row of the stream, over all tokens of all prompts, and which of them are attention sinks there."""
        whole = torch.cat([recorded.rows[row] for recorded in self.prompts]).float()
        return whole, torch.cat([recorded.sink[row] for recorded in self.prompts])

    def elsewhere(
        self, loaded: Loaded, site: str, head: int | None, *, turn: Turn
    ) -> tuple[Float[Tensor, "token d"], Bool[Tensor, "token"]]:
        """The same at another site than the stream, from running the prompts once more; the latest few are kept."""
        if (site, head) not in self.beside:
            capture = [site, *(str(stream) for stream in streams(loaded.model, site))]
            runs = _batches(loaded, [recorded.prompt for recorded in self.prompts], capture, turn)
            found = {i: (run[site][at], sinks(run, site)[at].cpu()) for i, run, at in runs}
            whole = torch.cat([found[i][0] for i in range(len(found))])
            sink = torch.cat([found[i][1] for i in range(len(found))])
            while len(self.beside) >= MOST_BESIDE:
                del self.beside[next(iter(self.beside))]
            self.beside[site, head] = (whole if head is None else whole[:, head]).float(), sink
        return self.beside[site, head]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a job has drawn and recorded: `asked` says of which text, how many, how long and by which seed. whole: all of it."""

    loaded: Loaded
    asked: str
    prompts: tuple[Recorded, ...] = ()
    whole: bool = True

    @property
    def bytes(self) -> int:
        return sum(recorded.bytes for recorded in self.prompts)


class PromptPages:
    """Pages by id, and what jobs have drawn for them; the latest few of each, within a budget.

    now: the model and what belongs to it. live: the unedited run of a prompt, where it is held. first: waits until the live run
    is done.
    """

    def __init__(
        self, now: Callable[[], Loaded], live: Callable[[Prompt], Held | None], first: Callable[[], None]
    ) -> None:
        self._now, self._live, self._first = now, live, first
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # around the model: two queries at a new site do not both run the prompts
        self._drawn: OrderedDict[str, Drawn] = OrderedDict()
        self._pages: OrderedDict[str, tuple[Loaded, Page]] = OrderedDict()
        self._company: Company[Recorded] = Company(BATCH_TOKENS)
        self._number = 0

    # ── drawing, in a job ───────────────────────────────────────────────────────────────────────────────────

    def known(self, asked: str) -> str | None:
        """The job that has drawn the same from the same model, where that is still held."""
        model = self._now().model
        with self._lock:
            for job, drawn in self._drawn.items():
                if drawn.asked == asked and drawn.loaded.model is model and drawn.whole:
                    self._drawn.move_to_end(job)
                    return job
        return None

    def keep(self, job: str, drawn: Drawn) -> None:
        with self._lock:
            self._drawn[job] = drawn
            _bound(self._drawn, [kept.bytes for kept in self._drawn.values()])

    # ── reading, in queries ─────────────────────────────────────────────────────────────────────────────────

    def page(self, own: Sequence[str], job: str | None) -> PromptsAnswer:
        """A new page: one's own prompts, then those that a job has drawn.

        Raises:
            NotFound: no such job, or not yet; no prompts at all. ModelNotFound, EmptyPrompt, PromptTooLong, PageTooLarge.
        """
        loaded = self._now()
        drawn = () if job is None else self._of_job(job, loaded)
        mine = fitting(loaded, [loaded.prompt(text) for text in own])
        tokens = [*mine, *(recorded.prompt for recorded in drawn)]
        check_room(loaded, sum(len(prompt.tokens) for prompt in tokens))
        recorded = self._own(loaded, mine)
        if not tokens:
            raise NotFound("there is no prompt to show", fix="type one, or ask for some from a text")
        with self._lock:
            self._number += 1
            page = Page(f"p{self._number}", recorded, drawn)
            for id in [id for id, (model, _) in self._pages.items() if model.model is not loaded.model]:
                del self._pages[id]
            self._pages[page.id] = loaded, page
            _bound(self._pages, [kept.bytes for _, kept in self._pages.values()])
        return describe(page, loaded)

    def coef(
        self,
        id: str,
        dictionary: Callable[[Loaded], Dictionary],
        *,
        row: int,
        indices: Sequence[int] | None = None,
    ) -> PageCoefFile:
        """A row in the coordinates of a dictionary, or of a saved direction. Raises NotFound, UnknownLayer, DirectionError."""
        loaded, page = self._page(id)
        found = dictionary(loaded)
        with self._reading:
            return coef(page, loaded, found, row, turn=lambda done: self._first(), indices=indices)

    def logits(self, id: str, *, positive: int, negative: int, row: int) -> PageLogitFile:
        """Raises NotFound, UnknownLayer, UnknownToken."""
        loaded, page = self._page(id)
        model = loaded.model
        return logits(page, loaded, positive=model.token_id(positive), negative=model.token_id(negative), row=row)

    def _of_job(self, job: str, loaded: Loaded) -> tuple[Recorded, ...]:
        with self._lock:
            found = self._drawn.get(job)
        if found is None or found.loaded.model is not loaded.model:
            raise NotFound(
                "no prompts that this job has drawn are held",
                received=shorten(job),
                allowed=f"the latest {MOST_PAGES} that are done",
                fix="draw them again",
            )
        return found.prompts

    def _own(self, loaded: Loaded, prompts: Sequence[Prompt]) -> tuple[Recorded, ...]:
        """One's own prompts: from runs that are still held, from the latest pages, or run with others'."""
        with self._company.asking(loaded.model, prompts) as mine, self._reading:
            with self._lock:
                pages = [page for model, page in self._pages.values() if model.model is loaded.model]
            known = {recorded.prompt.ids: recorded for page in pages for recorded in page.own} | mine.found
            for prompt in prompts:
                if prompt.ids not in known and (held := self._live(prompt)) is not None:
                    ids, p = held.next.all(self._first)
                    known[prompt.ids] = Recorded(prompt, held.rows, held.sink, ids[:, :NEXT], p[:, :NEXT])
            missing = [prompt for prompt in prompts if prompt.ids not in known]
            known |= self._company.run(
                mine, missing, lambda some: record(loaded, some, turn=lambda done: self._turn(loaded))
            )
        return tuple(known[prompt.ids] for prompt in prompts)

    def _page(self, id: str) -> tuple[Loaded, Page]:
        loaded = self._now()
        with self._lock:
            model, page = self._pages.get(id, (None, None))
        if model is None or page is None or model.model is not loaded.model:
            raise NotFound(
                "that page of prompts is no longer held, or never was",
                received=shorten(id),
                allowed=f"the latest {MOST_PAGES}",
                fix="ask for it again",
            )
        return loaded, page

    def _turn(self, loaded: Loaded) -> None:
        self._first()
        if self._now().model is not loaded.model:
            raise Cancelled("another model was loaded meanwhile", fix="ask again")


@dataclass(frozen=True, eq=False)
class Drawing(Taker):
    """Records what a job has drawn, for pages to come. asked: which drawing it is."""

    pages: PromptPages
    loaded: Loaded
    asked: str

    def take(self, job: str, made: PromptSet, *, progress: Progress, cancel: Cancel, grown: Callable[[], None]) -> str:
        """A few of them first, for pages that show those while the others are read. Raises PageTooLarge, Cancelled."""
        prompts = [self.loaded.prompt(text) for text in made.texts or ()]
        check_room(self.loaded, sum(len(prompt.tokens) for prompt in prompts))
        recorded: tuple[Recorded, ...] = ()
        with stage("Reading prompts", len(prompts), progress, cancel) as tell:
            while (done := len(recorded)) < len(prompts):
                part = prompts[done : max(FIRST, 3 * done)]
                recorded += record(self.loaded, part, turn=_from(done, tell))
                whole = len(recorded) == len(prompts)
                self.pages.keep(job, Drawn(self.loaded, self.asked, recorded, whole))
                if not whole:
                    grown()
        return f"{len(prompts)} prompts, on the Prompts tab."


def _from(done: int, tell: Turn) -> Turn:
    return lambda more: tell(done + more)


def _bound(kept: OrderedDict[str, Any], sizes: Sequence[int]) -> None:
    """Let the oldest go until a few are left, and no more bytes than a page may take, or one alone."""
    sizes = [*sizes]
    while len(sizes) > MOST_PAGES or (len(sizes) > 1 and sum(sizes) > PAGE_BYTES):
        kept.popitem(last=False)
        sizes.pop(0)


def record(loaded: Loaded, prompts: Sequence[Prompt], *, turn: Turn) -> tuple[Recorded, ...]:
    """The stream of prompts, a few at a time."""
    found = {
        i: _recorded(loaded, prompts[i], _rows(run, at), _sink(loaded, run, at))
        for i, run, at in _batches(loaded, prompts, CAPTURE, turn)
    }
    return tuple(found[i] for i in range(len(prompts)))


def _batches(
    loaded: Loaded, prompts: Sequence[Prompt], capture: Sequence[str], turn: Turn
) -> Iterator[tuple[int, Recording, int]]:
    """Each prompt's number, the run of its batch and its row in it; prompts of one length share a batch: nothing is padded."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
    done = 0
    for length, same in groupby(order, key=lambda i: len(prompts[i].tokens)):
        size = max(1, BATCH_TOKENS // length)
        indices = list(same)
        for batch in (indices[start : start + size] for start in range(0, len(indices), size)):
            turn(done)
            done += len(batch)
            run = loaded.model.run([list(prompts[i].ids) for i in batch], capture)
            yield from ((i, run, at) for at, i in enumerate(batch))


def _rows(run: Recording, at: int) -> Float[Tensor, "row pos d_model"]:
    first = run["resid_pre.0"][at]
    return torch.stack([first, *(x[at].to(first.device) for x in run.stack("resid_post"))])


def _sink(loaded: Loaded, run: Recording, at: int) -> Bool[Tensor, "row pos"]:
    return compute.sinks_at(run, row_sites(None, loaded.model.sites))[:, at]


def _recorded(
    loaded: Loaded, prompt: Prompt, rows: Float[Tensor, "row pos d_model"], sink: Bool[Tensor, "row pos"]
) -> Recorded:
    parts = [compute.top_p(loaded.model.lens(part), NEXT) for part in torch.split(rows[-1], BATCH_TOKENS)]
    ids, p = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    return Recorded(prompt, rows, sink, ids, p)


def room(loaded: Loaded) -> int:
    """Tokens whose whole stream a page may keep."""
    model = loaded.model
    return PAGE_BYTES // ((model.n_layers + 1) * model.d_model * model.dtype.itemsize)


def check_room(loaded: Loaded, tokens: int) -> None:
    """Raises PageTooLarge where the stream of so many tokens takes more than a page may."""
    if tokens > room(loaded):
        raise PageTooLarge(
            "the stream of so many prompts does not fit a page",
            received=f"{tokens} tokens",
            allowed=f"at most {room(loaded)} tokens on this model",
            fix="ask for fewer or shorter prompts",
        )


def fitting(loaded: Loaded, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The first of one's own prompts, whatever it takes, and of the rest as many as half the room has place for."""
    taken = list(accumulate(len(prompt.tokens) for prompt in prompts))
    return tuple(prompt for i, prompt in enumerate(prompts) if i == 0 or taken[i] <= room(loaded) // 2)


def check_row(sites: Sequence[str], row: int) -> None:
    if not 0 <= row < len(sites):
        last = len(sites) - 1
        raise UnknownLayer(
            f"there are {len(sites)} rows", received=f"row {row}", allowed=f"0 ({sites[0]}) to {last} ({sites[-1]})"
        )


def describe(page: Page, loaded: Loaded) -> PromptsAnswer:
    """What the query `prompts` answers."""
    return {"id": page.id, "prompts": [_describe(r, loaded, i < len(page.own)) for i, r in enumerate(page.prompts)]}


def _describe(recorded: Recorded, loaded: Loaded, own: bool) -> ShownPrompt:
    k = recorded.next_id.shape[1]
    names = loaded.model.token_texts(recorded.next_id.flatten().tolist())
    p = recorded.next_p.tolist()
    return {
        "text": recorded.prompt.text,
        "own": own,
        "tokens": [token(tok) for tok in recorded.prompt.tokens],
        "next": [
            [{"text": names[pos * k + i], "p": p[pos][i]} for i in range(k)]
            for pos in range(len(recorded.prompt.tokens))
        ],
    }


def coef(
    page: Page,
    loaded: Loaded,
    dictionary: Dictionary,
    row: int,
    *,
    turn: Turn,
    indices: Sequence[int] | None = None,
) -> PageCoefFile:
    """coef[token, k], offset[k] and perhaps sigma[token] at one of the dictionary's rows, as `compute.coordinates` has them.

    And norm[token] = |x|, and sink[token], whether it is an attention sink's. Raises UnknownLayer.
    """
    table = loaded.model.sites
    sites, stream = row_sites(dictionary, table), beside_stream(dictionary, table)
    check_row(sites, row)
    x, sink = page.at(row) if stream else page.elsewhere(loaded, sites[row], dictionary.head, turn=turn)
    found = compute.coordinates(x[None], loaded, dictionary, slice(row, row + 1), indices)
    tensors: PageCoefTensors = {
        "coef": found["coef"][0],
        "offset": found["offset"][0],
        "norm": x.norm(dim=-1),
        "sink": sink.to(torch.uint8),
    }
    if "sigma" in found:
        tensors["sigma"] = found["sigma"][0]
    return PageCoefFile.of(tensors, {})


def logits(page: Page, loaded: Loaded, *, positive: int, negative: int, row: int) -> PageLogitFile:
    """The logit difference read through the final norm: value[token], and the data-set mean's share of it, offset[token]."""
    check_row(row_sites(None, loaded.model.sites), row)
    x, sink = page.at(row)
    direction = logit_diff(loaded.model, positive, negative)
    read = direction.read.to(x)
    sigma = loaded.model.final_scale(x).float().squeeze(-1)
    share = loaded.row_means[row].to(x) @ read / sigma
    value = x @ read / sigma + direction.offset
    tensors: PageLogitTensors = {
        "value": value,
        "offset": share,
        "norm": x.norm(dim=-1),
        "sink": sink.to(torch.uint8),
    }
    return PageLogitFile.of(tensors, {})
