"""The numbers behind the page: one run's stream, kept small, and what is read from it."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import (
    Annotated,
    Generic,
    Literal,
    Never,
    NotRequired,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    cast,
    runtime_checkable,
)

import torch
from jaxtyping import Bool, Float, Float32, Int, Int64, UInt8
from safetensors.torch import save
from torch import Tensor

from residscope.declare import EditSpec
from residscope.directions import Dictionary, LinearDictionary, logit_diff
from residscope.engine.memory import held_share, together
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.engine.sinks import sinks, streams
from residscope.errors import DirectionError, UnknownLayer, UnknownPosition, WrongWidth
from residscope.views.view import Plain
from residscope.world.dictionaries import SAVED, every_layer, fitted_row, in_stream, row_names, row_sites
from residscope.world.loaded import Loaded
from residscope.world.mixing import Reads
from residscope.world.session_world import SessionWorld
from residscope.world.stack import act_after_the_blocks
from residscope.world.values import Prompt

NEXT, TOP = 5, 10
CAPTURE = ("resid_pre.0", "resid_post", "final_norm")
AT_ONCE = 64  # positions whose next tokens come with the picture: they cost little more than those of one
MOST_KEPT, KEPT_BYTES = 6, held_share()
MOST_GRAM = 400
MOST_WHOLE = 4096  # directions of a dictionary whose coordinates are all sent where none are named
MOST_NAMED = 400


Tensors = TypeVar("Tensors", bound=Mapping[str, object])
Words = TypeVar("Words", bound=str)


class TensorFile(bytes, Generic[Tensors, Words]):
    """A safetensors file: the tensors that it holds, by name, and the names of its metadata, each a JSON text."""

    @classmethod
    def of(cls, tensors: Tensors, metadata: Mapping[Words, str]) -> Self:
        named = cast("Mapping[str, Tensor]", tensors)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
        return cls(save(whole, metadata=dict(metadata)))


class StreamTensors(TypedDict):
    """`next_id`, `next_p`: of every position, or of the last alone where the others are still to be computed."""

    norm: Float32[Tensor, "row pos"]
    sink: UInt8[Tensor, "row pos"]
    next_id: Int64[Tensor, "pos k"]
    next_p: Float32[Tensor, "pos k"]


class StreamFile(TensorFile[StreamTensors, Literal["next_text"]]): ...


class Coordinates(TypedDict):
    """`sigma`: in the lens space."""

    coef: Float32[Tensor, "row pos k"]
    offset: Float32[Tensor, "row k"]
    sigma: NotRequired[Float32[Tensor, "row pos"]]


class CoefTensors(Coordinates):
    sink: UInt8[Tensor, "row pos"]


class CoefFile(TensorFile[CoefTensors, Literal["rows", "fitted_row"]]): ...


class LogitTensors(TypedDict):
    value: Float32[Tensor, "row pos"]
    offset: Float32[Tensor, "row pos"]


class LogitFile(TensorFile[LogitTensors, Never]): ...


class Coordinate(TypedDict):
    index: int
    label: str
    value: float


class StrongestCoordinates(TypedDict):
    top: list[Coordinate]


class Gram(TypedDict):
    """Inner products of read vectors; `of` says whose: a dictionary's id, or `saved:NAME`, and the index there."""

    of: list[Annotated[list[str | int], Plain(tuple[str, int])]]
    gram: list[list[float]]


@dataclass(frozen=True, eq=False)
class Held:
    """What is kept of a run. Row 0 of the stream is what block 0 reads, row r what block r - 1 leaves."""

    rows: Float[Tensor, "row pos d_model"]
    sink: Bool[Tensor, "row pos"]
    next: "NextTokens"
    last: Float[Tensor, "d_vocab"]
    seconds: float
    end: Recording | None = None  # the run from its last stream on, where edits act after the blocks
    version: tuple[int, ...] = ()  # of the model's weights

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.rows, self.last)) + self.next.bytes


Likely = tuple[Int[Tensor, "pos k"], Float[Tensor, "pos k"]]


class NextTokens:
    """The likeliest next tokens at each position: of a long prompt they are computed when they are first asked for, since the
    unembedding of all its positions takes a quarter as long as all blocks, and no picture waits for it."""

    def __init__(self, recording: Recording, last: Float[Tensor, "d_vocab"]) -> None:
        self._recording: Recording | None = recording
        self._last = last
        self._all: Likely | None = None
        self._lock = threading.Lock()

    def at_end(self) -> Likely:
        """All, where they are there; else those of the last position alone."""
        return self._all or top_p(self._last[None], NEXT)

    def all(self, turn: Callable[[], object] = lambda: None) -> Likely:
        """turn: called before each part, lets others go first. Raises WeightsChanged."""
        with self._lock:
            if self._all is None:
                assert self._recording is not None
                parts = []
                for part in self._recording.logits_in_parts():
                    turn()
                    parts.append(top_p(part[0], NEXT))
                ids, p = (torch.cat(list(column)) for column in zip(*parts, strict=True))
                self._all, self._recording = (ids, p), None
            return self._all

    @property
    def bytes(self) -> int:
        held = sum(t.numel() * t.element_size() for t in self._all or ())
        return held if self._recording is None else self._recording.nbytes


def forward(world: SessionWorld, prompt: Prompt, active: tuple[EditSpec, ...], model: Model) -> Held:
    """Run once; keep the stream and what the predictions are made from, let the logits go. model: the world's, or its second."""
    edits = world.on(prompt).made(active)
    started = time.perf_counter()
    recording = model.run(list(prompt.ids), CAPTURE, edits=edits)
    last = recording.logits_at(-1)[0].float().cpu().clone()
    ends = act_after_the_blocks(recording.edits, model.sites)
    following = NextTokens(recording if ends else recording.keeping("final_norm"), last)
    if ends or len(prompt.ids) <= AT_ONCE:
        following.all()
    seconds = time.perf_counter() - started
    rows = [recording["resid_pre.0"][0], *(recording[f"resid_post.{i}"][0] for i in range(model.n_layers))]
    end = recording.keeping(rows_end(model)) if ends else None
    sink = sinks_at(recording, row_sites(None, model.sites))[:, 0]
    return Held(together(rows), sink, following, last, seconds, end, recording.version)


def sinks_at(recording: Recording, sites: Sequence[str]) -> Bool[Tensor, "row batch pos"]:
    """Which tokens are attention sinks (`engine.sinks`) at each of some sites."""
    return torch.stack([sinks(recording, site).cpu() for site in sites])


def rows_end(model: Model) -> str:
    """The last row's site."""
    return f"resid_post.{model.n_layers - 1}"


def vector(
    world: SessionWorld, prompt: Prompt, active: tuple[EditSpec, ...], model: Model, *, site: str, pos: int
) -> Float[Tensor, "d"]:
    """What stands at one site and token of a run, its edits there done; the forward stops at the site."""
    edits = world.on(prompt).made(active)
    return model.run(list(prompt.ids), [site], edits=edits)[site][0, pos].detach().cpu().clone()


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What is kept of a run at one site of every layer, beside the stream."""

    rows: Float[Tensor, "row pos d"]
    sink: Bool[Tensor, "row pos"]

    @property
    def bytes(self) -> int:
        return self.rows.numel() * self.rows.element_size()


def elsewhere(
    world: SessionWorld, prompt: Prompt, active: tuple[EditSpec, ...], model: Model, *, site: str, head: int | None
) -> Elsewhere:
    """A site without its layer, such as `z`, in every layer of a run; of one head, where it has heads, or of all end to end."""
    edits = world.on(prompt).made(active)
    sites = every_layer(site, model.sites)
    beside = {str(stream) for place in sites for stream in streams(model, place)}
    found = model.run(list(prompt.ids), [*sites, *sorted(beside)], edits=edits)
    rows = [found[place][0] for place in sites]
    stacked = torch.stack([x.flatten(1) if head is None else x[:, head] for x in rows]).detach().clone()
    return Elsewhere(stacked, sinks_at(found, sites)[:, 0])


def last_logits(world: SessionWorld, prompt: Prompt, active: tuple[EditSpec, ...]) -> Float[Tensor, "d_vocab"]:
    """Only the last position's logits of a run."""
    edits = world.on(prompt).made(active)
    return world.model.run(list(prompt.ids), CAPTURE[-1:], edits=edits).logits_at(-1)[0].float().cpu().clone()


def top_p(logits: Float[Tensor, "*pos d_vocab"], k: int) -> tuple[Int[Tensor, "*pos k"], Float[Tensor, "*pos k"]]:
    """The k likeliest tokens and their probabilities, without the whole softmax."""
    values, ids = logits.float().topk(min(k, logits.shape[-1]), dim=-1)
    return ids.cpu(), (values - logits.float().logsumexp(-1, keepdim=True)).exp().cpu()


def top_tokens(model: Model, logits: Float[Tensor, "d_vocab"], k: int) -> tuple[tuple[int, str, float], ...]:
    ids, p = top_p(logits, k)
    texts = model.token_texts(ids.tolist())
    return tuple(zip(ids.tolist(), texts, p.tolist(), strict=True))


def stream(held: Held, loaded: Loaded, likely: Likely) -> StreamFile:
    """norm[row, pos] = |x|, sink[row, pos] whether it is an attention sink's, and the likeliest next tokens given."""
    next_id, next_p = likely
    texts = loaded.model.token_texts(next_id.flatten().tolist())
    width = next_id.shape[1]
    tensors: StreamTensors = {
        "norm": held.rows.float().norm(dim=-1),
        "sink": held.sink.to(torch.uint8),
        "next_id": next_id.long(),
        "next_p": next_p.float(),
    }
    lines = [texts[i : i + width] for i in range(0, len(texts), width)]
    return StreamFile.of(tensors, {"next_text": json.dumps(lines)})


def coordinates(
    x: Float[Tensor, "row pos d"],
    loaded: Loaded,
    dictionary: Dictionary,
    rows: slice = slice(None),
    indices: Sequence[int] | None = None,
) -> Coordinates:
    """coef[row, pos, k] = x . read_k and offset[row, k] = mean_row . read_k, so that coef - offset reads x less the mean.

    x: those of the dictionary's rows (`row_sites`) that are asked for. indices: the directions k that are; all unless said. In
    the lens space coef is read_k . x / sigma(x) + offset_k, and the mean's share of it offset[row, k] / sigma[row, pos]. NaN
    where the mean of a row is not known. Of an encoder coef is the activation, which has no share of the mean: offset is zero.

    Raises:
        DirectionError: a direction that it does not have; too many at once.
    """
    shown = named(dictionary, indices)
    model, x32 = loaded.model, x.float()
    if not isinstance(dictionary, LinearDictionary):
        coef = dictionary.encode(x32, indices=shown)
        return {"coef": coef, "offset": coef.new_zeros(len(x), coef.shape[-1])}
    read = dictionary.read if shown is None else dictionary.read[shown]
    read = read.to(x.device, torch.float32)
    head = None if in_stream(model.sites.parse(dictionary.site)) else dictionary.head
    means = loaded.means.stack(row_sites(dictionary, model.sites), head, like=dictionary).to(x.device)
    own = fitted_row(dictionary, model.sites)
    if dictionary.name == SAVED and dictionary.space == "centred" and own is not None:
        means[own] = dictionary.mean  # the mean it was fitted with, not that of the model's own components
    tensors: Coordinates = {"coef": _uncentred(dictionary).encode(x32, indices=shown), "offset": means[rows] @ read.T}
    if dictionary.space == "lens":
        sigma = model.final_scale(x).float()
        bias = dictionary.offset if shown is None or dictionary.offset is None else dictionary.offset[shown]
        added = 0.0 if bias is None else bias.to(x.device, torch.float32)
        return {**tensors, "coef": tensors["coef"] / sigma + added, "sigma": sigma.squeeze(-1)}
    return tensors


def _uncentred(dictionary: LinearDictionary) -> LinearDictionary:
    """The same directions, read by inner products alone."""
    return replace(dictionary, mean=torch.zeros_like(dictionary.mean), space="raw", offset=None)


def named(dictionary: Dictionary, indices: Sequence[int] | None) -> list[int] | None:
    """The directions whose coordinates are sent; None for all. Raises DirectionError where they are too many, or not there."""
    if indices is None and len(dictionary) > MOST_WHOLE:
        raise DirectionError(
            f"{dictionary.name} has more directions than are sent at once",
            received=f"all {len(dictionary)}",
            allowed=f"up to {MOST_WHOLE}",
            fix="name those that are shown: indices=[...]",
        )
    if indices is None:
        return None
    if not 1 <= len(indices) <= MOST_NAMED:
        raise DirectionError(
            "so many directions are not sent at once", received=len(indices), allowed=f"1 to {MOST_NAMED}"
        )
    dictionary.check_index(*indices)
    return [*indices]


def coef(
    held: Held | Elsewhere, loaded: Loaded, dictionary: Dictionary, *, indices: Sequence[int] | None = None
) -> CoefFile:
    """`coordinates` of a run and its `sink`, with the names of its rows and which of them is the dictionary's own place."""
    table = loaded.model.sites
    rows, own = row_names(row_sites(dictionary, table)), fitted_row(dictionary, table)
    found = coordinates(held.rows, loaded, dictionary, indices=indices)
    tensors: CoefTensors = {**found, "sink": held.sink.to(torch.uint8)}
    return CoefFile.of(tensors, {"rows": json.dumps(rows), "fitted_row": json.dumps(own)})


def strongest(
    held: Held | Elsewhere, loaded: Loaded, dictionary: Dictionary, *, row: int, pos: int, k: int
) -> StrongestCoordinates:
    """The k strongest of a dictionary's coordinates at one cell, as `coef` has them; those at zero are left out.

    Raises:
        UnknownLayer, UnknownPosition, DirectionError.
    """
    rows, length = held.rows.shape[:2]
    if not 0 <= row < rows:
        raise UnknownLayer(f"the dictionary is read in {rows} rows", received=row, allowed=f"0 to {rows - 1}")
    if not 0 <= pos < length:
        raise UnknownPosition(
            f"the prompt has {length} tokens", received=f"position {pos}", allowed=f"0 to {length - 1}"
        )
    if not 1 <= k <= MOST_NAMED:
        raise DirectionError("so many directions are not sent at once", received=k, allowed=f"1 to {MOST_NAMED}")
    read = dictionary
    if isinstance(dictionary, LinearDictionary) and dictionary.space != "lens":
        read = _uncentred(dictionary)
    values, indices = read.strongest(held.rows[row, pos][None].float(), k, model=loaded.model)
    pairs = zip(indices[0].tolist(), values[0].tolist(), strict=True)
    return {"top": [{"index": i, "label": dictionary.label(i), "value": value} for i, value in pairs if value]}


def gram(vectors: Sequence[Reads]) -> Gram:
    """The inner products of all read vectors, and which each one is.

    Raises:
        WrongWidth, DirectionError: there are more than fit in one answer.
    """
    of: list[list[str | int]] = [[name, index] for name, indices, _ in vectors for index in indices]
    if len(of) > MOST_GRAM:
        raise DirectionError("too many directions for one table", received=len(of), allowed=f"up to {MOST_GRAM}")
    first, width = vectors[0].source, vectors[0].read.shape[1]
    for name, _, read in vectors:
        if read.shape[1] != width:
            raise WrongWidth(
                "the directions have different widths",
                received=f"{name}: {read.shape[1]}",
                allowed=f"{width}, as {first} has",
            )
    stacked = torch.cat([read.double().cpu() for *_, read in vectors])
    return {"of": of, "gram": (stacked @ stacked.T).tolist()}


def logits(held: Held, loaded: Loaded, positive: int, negative: int) -> LogitFile:
    """The logit difference read through the final norm; exact at the last row.

    value[row, pos] = read . x / sigma(x) + b, and offset[row, pos] = read . mean_row / sigma(x), the data-set mean's share
    of it: value - offset reads x - mean_row at the scale of x. NaN where the mean of a row is not known.
    """
    direction = logit_diff(loaded.model, positive, negative)
    x = held.rows.float()
    read = direction.read.to(x.device, torch.float32)
    sigma = loaded.model.final_scale(held.rows).float().squeeze(-1)
    value = x @ read / sigma + direction.offset
    if held.end is not None:
        pair = held.end.logits_of([positive, negative])[0].float()
        value[-1], sigma[-1] = pair[:, 0] - pair[:, 1], held.end["final_scale"][0, :, 0].float()
    mean = (loaded.row_means.to(x.device) @ read)[:, None]
    return LogitFile.of({"value": value, "offset": mean / sigma}, {})


def lens(held: Held, loaded: Loaded, *, layer: int, pos: int) -> tuple[tuple[int, str, float], ...]:
    """The logit lens at one cell; layer -1 is what block 0 reads.

    Raises:
        UnknownLayer, UnknownPosition.
    """
    check_cell(loaded.model.n_layers, held.rows.shape[1], layer=layer, pos=pos)
    if held.end is not None and layer == loaded.model.n_layers - 1:
        return top_tokens(loaded.model, held.end.logits_at(pos)[0], NEXT)
    return top_tokens(loaded.model, loaded.model.lens(held.rows[layer + 1, pos][None])[0], NEXT)


def check_cell(n_layers: int, n_pos: int, *, layer: int, pos: int) -> None:
    if not -1 <= layer < n_layers:
        raise UnknownLayer(f"the model has {n_layers} layers", received=layer, allowed=f"-1 (embed) to {n_layers - 1}")
    if not 0 <= pos < n_pos:
        raise UnknownPosition(f"the prompt has {n_pos} tokens", received=f"position {pos}", allowed=f"0 to {n_pos - 1}")


K = TypeVar("K", bound=Hashable)


@runtime_checkable
class Sized(Protocol):
    @property
    def bytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


class Latest(Generic[K, V]):
    """The few latest results, by run; the caller holds the session's lock."""

    def __init__(self) -> None:
        self._held: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
        return held

    def put(self, key: K, held: V) -> None:
        self._held[key] = held
        self._held.move_to_end(key)
        while len(self._held) > MOST_KEPT or (
            len(self._held) > 2 and sum(h.bytes for h in self._held.values()) > KEPT_BYTES
        ):
            self._held.popitem(last=False)

    def items(self) -> list[tuple[K, V]]:
        return list(self._held.items())

    def clear(self) -> None:
        self._held.clear()
