"""Generation: the stock model continued token by token over a cache of keys and values, with edits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.attention import active
from residscope.engine.forward import forward
from residscope.engine.hooks import Hooks
from residscope.engine.passes import Pass
from residscope.engine.protocols import Edit
from residscope.engine.sampling import Pick, Stops, generator
from residscope.engine.spans import Span, Spans
from residscope.engine.stock import call
from residscope.engine.timing import Starting, Timed
from residscope.engine.turns import in_turn
from residscope.errors import NotPlain, PromptError, PromptTooLong
from residscope.files import read_plain, write_plain
from residscope.items import save_item
from residscope.json_values import fits, from_plain
from residscope.model.prompts import Batch
from residscope.model.sites import Site
from residscope.views import Grid, TokenStrip

if TYPE_CHECKING:
    from residscope.engine.model import Model


@dataclass(frozen=True)
class Token:
    """A token as it came. `log_prob` (nats) is the edited model's own, before temperature and cuts; `row`: of which prompt."""

    id: int
    text: str
    log_prob: float
    row: int = 0


@dataclass(frozen=True)
class Completion:
    """What was generated for one prompt; `text` goes on where the prompt's ends."""

    tokens: tuple[Token, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


class Generation:
    """Tokens as they come.

        for token in model.generate("The Eiffel Tower is in"):
            print(token.text, end="")

    Iterating again repeats those that came and goes on. `text`, `ids` and `tokens` (of one prompt; `rows` of several) run
    to the end first. Nothing of a run stands between two tokens, so stopping early needs no cleaning up; `close` says that
    no more are wanted.
    """

    kind: ClassVar[str] = "generation"

    def __init__(self, steps: Iterable[Token], rows: int, provenance: Mapping[str, Any] | None = None) -> None:
        self._steps, self._rows = iter(steps), rows
        self._tokens: list[Token] = []
        self.provenance = dict(provenance or {})

    def __iter__(self) -> Iterator[Token]:
        i = 0
        while True:
            if i == len(self._tokens):
                token = next(self._steps, None)
                if token is None:
                    return
                self._tokens.append(token)
            yield self._tokens[i]
            i += 1

    @property
    def rows(self) -> tuple[Completion, ...]:
        """Every prompt's completion, in the prompts' order."""
        tokens = [*self]
        return tuple(Completion(tuple(t for t in tokens if t.row == row)) for row in range(self._rows))

    @property
    def tokens(self) -> tuple[Token, ...]:
        return self._only().tokens

    @property
    def ids(self) -> tuple[int, ...]:
        return self._only().ids

    @property
    def text(self) -> str:
        return self._only().text

    def _only(self) -> Completion:
        if self._rows != 1:
            raise PromptError("several prompts were continued", received=f"{self._rows} prompts", fix="read .rows")
        return self.rows[0]

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes: none, for tokens are plain values."""
        return 0

    def view(self) -> Grid:
        """Each prompt's completion, its tokens on the colour of -log p: dark is what was expected least. Runs to the end."""
        strips = [
            TokenStrip(
                [token.text for token in completion.tokens], [-token.log_prob for token in completion.tokens],
                unit="nats, -log p", scale="sequential", title="" if self._rows == 1 else f"prompt {row}",
            )
            for row, completion in enumerate(self.rows)
        ]  # fmt: skip
        return Grid(strips, columns=1, title="What was generated")

    def save(self, path: str | Path) -> None:
        """One safetensors file that `Generation.load` reads; a page for `x.html`, a figure for `x.png`, `.svg`, `.pdf`.

        Runs to the end. Raises WrongEnding, FileNotThere.
        """
        saved = {"rows": self._rows, "provenance": self.provenance, "tokens": [astuple(token) for token in self]}
        save_item(self, path, lambda place: write_plain(place, self.kind, {"generation": saved}))

    @classmethod
    def load(cls, path: str | Path) -> "Generation":
        """What `save` wrote: all that came, and no more to come. Raises FileNotThere, DamagedFile."""
        saved = read_plain(path, cls.kind, only="generation", of=dict, check=_check_saved)
        generation = cls((), saved["rows"], saved["provenance"])
        generation._tokens = [Token(*token) for token in saved["tokens"]]
        return generation

    def complete(self) -> "Generation":
        """Itself, run to the end: what is kept does not go on later, under weights that may have changed by then."""
        for _ in self:
            pass
        return self

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()

    def close(self) -> None:
        """No more tokens: what came stays."""
        self._steps = iter(())

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _check_saved(plain: Any) -> None:
    """Refuse what no generation says of itself, by NotPlain."""
    saved = from_plain(plain["generation"])
    rows = saved["rows"]
    whole = fits(rows, int) and rows > 0 and isinstance(saved["provenance"], dict) and isinstance(saved["tokens"], list)
    if not whole or not all(
        fits(token, tuple[int, str, float, int]) and 0 <= token[3] < rows for token in saved["tokens"]
    ):
        raise NotPlain("these are no tokens", received=str(saved)[:80], allowed="(id, text, log_prob, row) each")


def check_length(batch: Batch, new: int, context: int) -> None:
    """Refuse to run past the model's context."""
    if isinstance(new, bool) or not isinstance(new, int) or new < 1:
        raise PromptError("max_new_tokens is how many tokens may come", received=repr(new), allowed="1, 2, 3 ...")
    if max(batch.lengths) + new - 1 > context:
        raise PromptTooLong(
            "the prompt and what is to come are longer than the model's context",
            received=f"{max(batch.lengths)} + {new} tokens",
            allowed=f"at most {context + 1 - max(batch.lengths)} new tokens",
            fix="give a smaller max_new_tokens",
        )


def steps(start: Starting, new: int, pick: Pick, *, seed: int, stops: Stops) -> Iterator[Token]:
    """Tokens for every prompt; prompts of one length step together."""
    model, batch, edits = start.model, start.batch, start.edits
    for length in dict.fromkeys(batch.lengths):
        rows = tuple(row for row, own in enumerate(batch.lengths) if own == length)
        ids = batch.ids[list(rows), :length]
        yield from _together(model, ids, rows, edits, new, pick, [generator(seed, row) for row in rows], stops)


def _together(
    model: "Model",
    ids: Tensor,
    rows: tuple[int, ...],
    edits: Sequence[Timed],
    new: int,
    pick: Pick,
    draws: Sequence[torch.Generator],
    stops: Stops,
) -> Iterator[Token]:
    """Prompts of one length, in one batch; rows that are done are carried along unseen."""
    prompt, offset, cache = ids.shape[1], 0, memory_of(model)
    came: list[list[int]] = [[] for _ in rows]
    readings = [model._reading(row) for row in ids.tolist()]
    texts = [""] * len(rows)
    done = [False] * len(rows)
    first = Batch(ids, (prompt,) * len(rows), rows)
    unedited = unedited_at(model, first, [edit.edit for edit in edits if edit.edit.needs_unedited])
    for _ in range(new):
        length = ids.shape[1]
        acting = [now for edit in edits if (now := edit.now(offset, length, prompt)) is not None]
        logits = one_step(model, Batch(ids, (length,) * len(rows), rows), offset, acting, cache, unedited)[:, -1]
        log_probs = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
        picked = [pick(row, draw) for row, draw in zip(logits, draws, strict=True)]
        for i, (row, token) in enumerate(zip(rows, picked, strict=True)):
            if not done[i]:
                came[i].append(token)
                text = readings[i].feed(token)
                texts[i] += text
                done[i] = stops(came[i], texts[i])
                text += readings[i].close() if done[i] or len(came[i]) == new else ""
                yield Token(token, text, float(log_probs[i, token]), row)
        if all(done):
            return
        ids = torch.cat([ids, torch.tensor(picked, device=ids.device)[:, None]], 1)
        offset = length


def one_step(
    model: "Model",
    batch: Batch,
    offset: int,
    edits: Sequence[Edit],
    cache: Any,
    unedited: dict[Site, Tensor],
) -> Float[Tensor, "batch new d_vocab"]:
    """One forward over the positions from `offset` on, and the logits at them. It gives way as any pass does."""
    if isinstance(cache, Steps):
        return _whole_pass(model, batch, cache.until(offset, batch.ids.shape[1], edits), offset, unedited)
    inside = {site for edit in edits for site in edit.places(model.sites) if site.name in ("k", "v")}
    with in_turn(model.hf), torch.no_grad():
        cache.now = now = Pass(model.layout, batch, capture=inside, edits=edits, offset=offset, unedited=unedited)
        with Hooks(now)():
            out = call(model.hf, batch.ids[:, offset:], cache=cache)
            logits: Tensor = now.visit(Site("logits"), out.logits)
        # attention gets its keys and values after the cache has stored them: put the edited ones in their place
        for site in inside:
            layer = cache.layers[site.layer]
            stored = layer.keys if site.name == "k" else layer.values
            stored[:, :, offset:] = now.values[site].transpose(1, 2)
    return logits


def _whole_pass(
    model: "Model", batch: Batch, spans: Sequence[Span], offset: int, unedited: dict[Site, Tensor]
) -> Tensor:
    """One step of a model whose later positions run together with the earlier ones: all of them again, each with its edits."""
    with in_turn(model.hf), torch.no_grad():
        now = Spans(model.layout, batch, spans, capture=(), unedited=unedited)
        with Hooks(now)():
            out = call(model.hf, batch.ids)
            logits: Tensor = now.visit(Site("logits"), out.logits)
    return logits[:, offset:]


class Steps:
    """What stands for a cache where there can be none: the edits of every step so far."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    def until(self, first: int, end: int, edits: Sequence[Edit]) -> Sequence[Span]:
        self._spans.append(Span(first, end, tuple(edits)))
        return self._spans


def memory_of(model: "Model") -> Any:
    """What carries earlier positions from step to step: a cache of keys and values, or the steps themselves."""
    return Steps() if model.layout.whole else cache_of_all()


def cache_of_all() -> Any:
    """A cache of all keys and values; not the model's own, which would cut sliding layers short."""
    from transformers import DynamicCache

    class Cache(DynamicCache):  # type: ignore[misc]
        now: Pass | None = None

        def update(self, key: Tensor, value: Tensor, layer_idx: int, *more: Any, **named: Any) -> tuple[Tensor, Tensor]:
            if active.get() is self.now:
                return super().update(key, value, layer_idx, *more, **named)
            # a second reading of the same positions, for an edit: seen by it alone
            layer, offset = self.layers[layer_idx], self.now.offset if self.now else 0
            return torch.cat([layer.keys[:, :, :offset], key], 2), torch.cat([layer.values[:, :, :offset], value], 2)

    return Cache()


def unedited_at(model: "Model", batch: Batch, edits: Iterable[Edit]) -> dict[Site, Tensor]:
    """What the unedited prompt has at the sites that edits hold to it."""
    held_sites = {site for edit in edits for site in edit.places(model.sites)}
    return forward(model.layout, batch, capture=held_sites) if held_sites else {}
