"""A page of prompts: windows drawn from a text beside one's own, with the stream of every token kept for colouring."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.corpus.drawn import draw_prompts
from residscope.corpus.text import Source
from residscope.directions import Dictionary, logit_diff
from residscope.engine.recording import Recording
from residscope.engine.sinks import sinks, streams
from residscope.errors import PageTooLarge, UnknownLayer
from residscope.session import compute
from residscope.world.dictionaries import in_stream, row_sites
from residscope.world.loaded import Loaded
from residscope.world.values import Prompt

NEXT = 3
BATCH_TOKENS = 256  # between two batches the live run takes its turn
PAGE_BYTES = 1 << 30
MOST_BESIDE = 4
CAPTURE = ("resid_pre.0", "resid_post")
Turn = Callable[[], None]


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


def draw(loaded: Loaded, source: Source, *, n: int, length: int, seed: int) -> tuple[Prompt, ...]:
    """n windows of a text, as `draw_prompts` has them. Raises EmptyCorpus, CorpusError."""
    drawn = draw_prompts(loaded.model, source, n, length=length, seed=seed)
    return tuple(loaded.prompt(text) for text in drawn.texts or ())


def record(loaded: Loaded, prompts: Sequence[Prompt], *, turn: Turn) -> tuple[Recorded, ...]:
    """The stream of prompts, a few at a time; `turn` is called before each batch, and may raise to stop."""
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
    for length, same in groupby(order, key=lambda i: len(prompts[i].tokens)):
        size = max(1, BATCH_TOKENS // length)
        indices = list(same)
        for batch in (indices[start : start + size] for start in range(0, len(indices), size)):
            turn()
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


def describe(page: Page, loaded: Loaded) -> dict[str, object]:
    """What `POST api/prompts` answers."""
    return {"id": page.id, "prompts": [_describe(r, loaded, i < len(page.own)) for i, r in enumerate(page.prompts)]}


def _describe(recorded: Recorded, loaded: Loaded, own: bool) -> dict[str, object]:
    k = recorded.next_id.shape[1]
    names = loaded.model.token_texts(recorded.next_id.flatten().tolist())
    p = recorded.next_p.tolist()
    return {
        "text": recorded.prompt.text,
        "own": own,
        "tokens": [{"id": token.id, "text": token.text} for token in recorded.prompt.tokens],
        "next": [
            [{"text": names[pos * k + i], "p": p[pos][i]} for i in range(k)]
            for pos in range(len(recorded.prompt.tokens))
        ],
    }


def coef(page: Page, loaded: Loaded, dictionary: Dictionary, row: int, *, turn: Turn) -> bytes:
    """coef[token, k], offset[k] and perhaps sigma[token] at one of the dictionary's rows, as `compute.coordinates` has them.

    And norm[token] = |x|, and sink[token], whether it is an attention sink's. Raises UnknownLayer.
    """
    table = loaded.model.sites
    sites, stream = row_sites(dictionary, table), in_stream(table.parse(dictionary.site))
    check_row(sites, row)
    x, sink = page.at(row) if stream else page.elsewhere(loaded, sites[row], dictionary.head, turn=turn)
    found = compute.coordinates(x[None], loaded, dictionary, slice(row, row + 1))
    more = {"norm": x.norm(dim=-1), "sink": sink.to(torch.uint8)}
    return compute.to_bytes({name: tensor[0] for name, tensor in found.items()} | more, {})


def logits(page: Page, loaded: Loaded, *, positive: int, negative: int, row: int) -> bytes:
    """The logit difference read through the final norm: value[token], and the data-set mean's share of it, offset[token]."""
    check_row(row_sites(None, loaded.model.sites), row)
    x, sink = page.at(row)
    direction = logit_diff(loaded.model, positive, negative)
    read = direction.read.to(x)
    sigma = loaded.model.final_scale(x).float().squeeze(-1)
    share = loaded.row_means[row].to(x) @ read / sigma
    value = x @ read / sigma + direction.offset
    tensors = {"value": value, "offset": share, "norm": x.norm(dim=-1), "sink": sink.to(torch.uint8)}
    return compute.to_bytes(tensors, {})
