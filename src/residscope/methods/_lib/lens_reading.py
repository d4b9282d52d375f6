"""What the stream of several rows says next, from logits that are made and read some columns at a time."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from residscope.engine.layout import Layout
from residscope.engine.model import Model
from residscope.engine.parameters import is_plain
from residscope.engine.turns import in_turn
from residscope.progress import ask_within

COLUMNS = 1024  # of the vocabulary at once on the CPU, where those of 2,048 positions then stay in its cache
WIDE = 1 << 15  # elsewhere
LEAST = -1e30  # a logit of nothing, finite

Row = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Said:
    """The run's own next token at some positions, which the rows are held against, and the tokens that are followed there.

    logs, shares: log q and q. token: the one that is followed; None: what the run says.
    """

    def __init__(self, own: Float[Tensor, "pos vocab"], token: int | None) -> None:
        self.logs = own.float().log_softmax(-1).clamp_min_(LEAST)
        self.shares = self.logs.exp()
        followed = self.logs.argmax(-1) if token is None else torch.full((len(own),), token, device=own.device)
        self.ids: Int[Tensor, " pos"] = followed


def read_rows(
    model: Model,
    rows: Float[Tensor, "row pos d_model"],
    said: Said,
    k: int,
    tell: Callable[[float], object] = lambda share: None,
) -> Row:
    """Of each row and position: top, probability [row, pos, k]; entropy, kl, rank, chance [row, pos].

    With z the logits, m their greatest so far and q the run's own, it goes over the vocabulary once:

        S = sum e^(z - m)      T = sum (z - m) e^(z - m)      Q = sum q (z - m - log q)      s = sum q

    where m grows S, T and Q are moved on to it. In the end entropy = log S - T / S, and KL(q || row) = log S - log s - Q / s:
    s is 1 but for rounding. tell is told what share of the vocabulary is behind it.
    """
    model.follow()
    with in_turn(model.hf), torch.no_grad():
        layout = model.layout
        x = layout.final_norm.module(rows.reshape(1, -1, model.d_model).to(model.dtype))[0]
        return _read(layout, x, len(rows), said, k, tell)


def _read(
    layout: Layout, x: Float[Tensor, "n d_model"], rows: int, said: Said, k: int, tell: Callable[[float], object]
) -> Row:
    n, positions = len(x), len(said.ids)
    followed, blocks = _blocks(layout, x, said.ids)
    followed = followed.clamp_min(LEAST)
    best = x.new_full((n, min(k, layout.sizes.d_vocab)), -torch.inf, dtype=torch.float32)
    top = torch.zeros(best.shape, dtype=torch.long, device=x.device)
    most = x.new_full((n,), LEAST, dtype=torch.float32)
    S, T, Q = (torch.zeros_like(most) for _ in range(3))
    rank, seen = torch.zeros_like(most), x.new_zeros(positions, dtype=torch.float32)
    spare = x.new_empty(0, dtype=torch.float32)
    for first, logits in blocks:
        ask_within()
        z, columns = logits.float().clamp_min_(LEAST), slice(first, first + logits.shape[1])
        here = ((said.ids >= columns.start) & (said.ids < columns.stop)).nonzero()[:, 0]
        z.view(rows, positions, -1)[:, here, said.ids[here] - first] = followed.view(rows, positions)[:, here]
        high = z.amax(-1)
        _keep_best(best, top, z, high, first)
        if spare.shape != z.shape:
            spare = torch.empty_like(z)
        rank += torch.gt(z, followed[:, None], out=spare).sum(-1)
        new = torch.maximum(most, high)
        further, most = new - most, new
        z.sub_(most[:, None])
        of_rows = spare.view(rows, positions, -1)
        torch.sub(z.view(rows, positions, -1), said.logs[:, columns], out=of_rows)
        Q -= further * seen.repeat(rows)
        Q += torch.linalg.vecdot(of_rows, said.shares[:, columns]).flatten()
        seen += said.shares[:, columns].sum(-1)
        torch.exp(z, out=spare)
        T = further.neg().exp() * (T - further * S) + torch.linalg.vecdot(spare, z)
        S = further.neg().exp() * S + spare.sum(-1)
        tell(columns.stop / layout.sizes.d_vocab)
    whole, share = S.log(), seen.repeat(rows)
    flat = whole - T / S, (whole - share.log() - Q / share).clamp_min(0), rank.long(), (followed - most - whole).exp()
    entropy, kl, rank, chance = (x.view(rows, positions) for x in flat)
    probability = (best - (most + whole)[:, None]).exp()
    return (*(x.view(rows, positions, -1) for x in (top, probability)), entropy, kl, rank, chance)  # type: ignore[return-value]


def _keep_best(
    best: Float[Tensor, "n k"], top: Int[Tensor, "n k"], z: Float[Tensor, "n column"], high: Float[Tensor, " n"], first: int
) -> None:  # fmt: skip
    """Take in the k greatest of some columns, where there is one that is greater than the least that is kept."""
    better = (~(high <= best[:, -1])).nonzero()[:, 0]
    if not len(better):
        return
    found = z[better].topk(min(best.shape[1], z.shape[1]))
    values, ids = torch.cat([best[better], found.values], 1), torch.cat([top[better], found.indices + first], 1)
    kept = values.topk(best.shape[1])
    best[better], top[better] = kept.values, ids.gather(1, kept.indices)


def _blocks(
    layout: Layout, x: Float[Tensor, "n d_model"], ids: Int[Tensor, " pos"]
) -> tuple[Float[Tensor, " n"], Iterator[tuple[int, Float[Tensor, "n column"]]]]:
    """The followed tokens' logits, and all logits some columns at a time, with the first column of each block."""
    times, vocabulary = len(x) // len(ids), layout.sizes.d_vocab
    size = min(COLUMNS if x.device.type == "cpu" else WIDE, (vocabulary + 1) // 2)  # two at least: one tells in between
    if not _by_columns(layout):
        whole = layout.logits(x[None])[0]
        parts = ((first, whole[:, first : first + size].clone()) for first in range(0, vocabulary, size))
        return whole.gather(1, ids.repeat(times)[:, None])[:, 0].float(), parts
    place = torch.arange(len(ids), device=x.device).repeat(times)
    own = layout.logits(x, ids.tolist()).gather(1, place[:, None])[:, 0].float()
    into = x.new_empty(len(x) * size)  # one place for all blocks: a new one each would be cleared by the system first

    def block(first: int) -> Tensor:
        columns = slice(first, min(first + size, vocabulary))
        width = columns.stop - first
        return layout.logits(x, columns, into=into[: len(x) * width].view(len(x), width))

    return own, ((first, block(first)) for first in range(0, vocabulary, size))


def _by_columns(layout: Layout) -> bool:
    """Whether some columns of the unembedding are all that they need: a plain matrix in memory that nobody listens to."""
    module = layout.unembed
    listened = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) is nn.Linear and is_plain(module) and not module.weight.is_meta and not listened
