"""What parts of a model write to the stream and read of it, as Gram matrices: the length of a product is a trace of two."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.parameters import plain_weight
from residscope.errors import BadArguments, UnknownHead, UnknownNeuron
from residscope.methods._lib.weights.matrices import (
    ROWS,
    HeadMatrices,
    embeddings,
    head_matrices,
    mlp_reads,
    mlp_writes,
    parallel,
    unembeddings,
    vocabulary,
)
from residscope.model.sites import Site

WRITERS = ("embed", "pos_embed", "result", "mlp_out")
READERS = ("q", "k", "v", "mlp_in", "logits")
PER_HEAD = ("result", "q", "k", "v")
Asked = str | Site | tuple[str | Site, Sequence[int]]


@dataclass(frozen=True)
class Part:
    """A head, an MLP or some of its neurons, or an embedding, at the site where it writes or reads.

    time: where it comes in the forward pass; a writer reaches readers of a later time. shape: of its matrix, a head's with its
    inner size; that of random ones to compare with.
    """

    site: Site
    name: str
    time: int
    shape: tuple[int, ...]
    head: int | None = None
    neurons: tuple[int, ...] | None = None


def parts_of(model: Model, asked: Sequence[Asked], allowed: tuple[str, ...]) -> list[Part]:
    """The parts that sites name, every head of those that have heads; (site, numbers): those heads, or those neurons as one.

    Raises SiteError, BadArguments.
    """
    found: list[Part] = []
    for one in asked:
        text, numbers = one if isinstance(one, tuple) else (one, None)
        for site in model.sites.expand(text):
            if site.name not in allowed:
                raise BadArguments("this is not written or read there", received=str(site), allowed=", ".join(allowed))
            found += _parts(model, site, numbers)
    if not found:
        raise BadArguments("there is nothing to compare", received="no sites", allowed=", ".join(allowed))
    if len({part.name for part in found}) < len(found):
        twice = [part.name for part in found]
        raise BadArguments("a part is given twice", received=next(x for x in twice if twice.count(x) > 1))
    return sorted(found, key=lambda part: (part.time, allowed.index(part.site.name)))


def _parts(model: Model, site: Site, numbers: Sequence[int] | None) -> list[Part]:
    d, layer = model.d_model, site.layer or 0
    heads = site.name in PER_HEAD
    own = model.heads_at(layer)
    most, error = (own.n_heads, UnknownHead) if heads else (model.d_mlp, UnknownNeuron)
    if numbers is not None and (not site.kind.layered or not numbers or not {*numbers} <= {*range(most)}):
        raise error("no such heads or neurons", received=f"{[*numbers]} of {site}", allowed=f"0 to {most - 1}")
    if heads:
        chosen = range(own.n_heads) if numbers is None else numbers
        return [Part(site, f"{site} head {head}", 2 * layer, (d, own.d_head, d), head=head) for head in chosen]
    if site.name in ("mlp_out", "mlp_in"):
        count = model.d_mlp if numbers is None else len(numbers)
        name = str(site) if numbers is None else f"{site} neurons {', '.join(map(str, numbers))}"
        before = site.name == "mlp_in" and parallel(model)
        if site.name == "mlp_in":
            count *= mlp_reads(model, layer).shape[1]
        else:
            mlp_writes(model, layer)
        return [
            Part(site, name, 2 * layer + (not before), (count, d), neurons=None if numbers is None else tuple(numbers))
        ]
    rows = len(plain_weight(model.layout.pos_embed)) if site.name == "pos_embed" else vocabulary(model)
    return [Part(site, str(site), 2 * model.n_layers if site.name == "logits" else -1, (rows, d))]


def grams(model: Model, parts: Sequence[Part]) -> Iterator[Float[Tensor, "d_model d_model"]]:
    """Of each part, W^T W of what it writes, or W W^T of what it reads, of x W."""
    kept: tuple[int, HeadMatrices] | None = None
    for part in parts:
        layer = part.site.layer
        if part.head is not None and layer is not None and (kept is None or kept[0] != layer):
            kept = layer, head_matrices(model, layer)
        yield _gram(model, part, None if kept is None else kept[1]).to(_wide(model))


def _wide(model: Model) -> torch.dtype:
    return torch.promote_types(model.dtype, torch.float32)


def _gram(model: Model, part: Part, heads: HeadMatrices | None) -> Tensor:
    name, layer, wide = part.site.name, part.site.layer or 0, _wide(model)
    if part.head is not None:
        assert heads is not None
        left, right = (x[part.head].to(wide) for x in _factors(heads, name))
        return left @ (right @ right.T) @ left.T
    if name in ("embed", "logits"):
        total = torch.zeros(model.d_model, model.d_model, dtype=wide, device=model.device)
        for first in range(0, vocabulary(model), ROWS):
            ids = slice(first, min(first + ROWS, vocabulary(model)))
            rows = (embeddings(model, ids) if name == "embed" else unembeddings(model, ids).T).to(wide)
            total += rows.T @ rows
        return total
    if name == "pos_embed":
        rows = plain_weight(model.layout.pos_embed).to(wide)
        return rows.T @ rows
    W = mlp_writes(model, layer).to(wide) if name == "mlp_out" else mlp_reads(model, layer).to(wide).movedim(0, -1)
    W = W if part.neurons is None else W[..., [*part.neurons], :]
    W = W.flatten(0, -2)
    return W.T @ W


def _factors(heads: HeadMatrices, name: str) -> tuple[Tensor, Tensor]:
    """left, right with left right as columns of the stream: of a writer, the transpose of what it multiplies by."""
    match name:
        case "result":
            return heads.o.mT, heads.need("v").mT
        case "v":
            return heads.need("v"), heads.o
        case "q":
            return heads.need("q"), heads.need("k").mT
        case _:
            return heads.need("k"), heads.need("q").mT


def random_core(shape: tuple[int, ...], draw: torch.Generator) -> Float[Tensor, "row d_model"]:
    """R, of no more rows than columns, with R^T R distributed as W^T W of a W with independent normal entries.

    W is of this shape, or the product of two such where the shape has an inner size. Of more rows than columns, R is what a QR
    decomposition leaves: normal above the diagonal, chi on it (Bartlett).
    """
    core = _core(shape[0], shape[1], draw)
    return core if len(shape) == 2 else core @ torch.randn(shape[1:], generator=draw, dtype=torch.float64)


def _core(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    if rows <= columns:
        return torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    core = torch.randn(columns, columns, generator=draw, dtype=torch.float64).triu(1)
    freedom = torch.arange(rows, rows - columns, -1, dtype=torch.float64)
    return core + torch.diag((2 * torch._standard_gamma(freedom / 2, generator=draw)).sqrt())
