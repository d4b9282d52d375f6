"""The tokens a direction points to: those whose logits its write vector raises and lowers most, by cosine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Direction
from residscope.engine.layout import weight_in_out
from residscope.engine.model import Model
from residscope.reports import Report
from residscope.views import Grid, Table

COMMON = 10_000  # byte-pair vocabularies are learnt commonest first, so low ids are common tokens
STREAM = ("embed", "pos_embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "result")


@dataclass(frozen=True, eq=False, repr=False)
class OwnTokens(Report):
    """Token ids with their cosines, highest first (`top`) and lowest first (`bottom`)."""

    kind: ClassVar[str] = "report:own_tokens"
    direction: str
    top: tuple[tuple[int, str, float], ...]
    bottom: tuple[tuple[int, str, float], ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(i for i, _, _ in self.top), tuple(i for i, _, _ in self.bottom)

    def view(self) -> Grid:
        def table(title: str, tokens: tuple[tuple[int, str, float], ...]) -> Table:
            return Table(["token", "cosine"], [[text, cosine] for _, text, cosine in tokens], title=title)

        title = f"Tokens of {self.direction} through W_U, common ones"
        return Grid([table("It raises", self.top), table("It lowers", self.bottom)], columns=2, title=title)

    def __repr__(self) -> str:
        top, bottom = (", ".join(repr(text) for _, text, _ in side[:3]) for side in (self.top, self.bottom))
        return f"OwnTokens({self.direction}: {top} against {bottom})"


def common_tokens(model: Model) -> list[int]:
    """The ids of readable tokens among the vocabulary's first 10,000; none without a tokenizer."""
    ids = list(range(min(COMMON, model.d_vocab)))
    texts, kinds = model.token_texts(ids), model.token_kinds(ids)
    return [i for i in ids if kinds[i] == "text" and readable(texts[i])]


class CommonTokens:
    """Common, readable tokens and the direction of the stream that raises each one's logit, at unit length."""

    def __init__(self, model: Model, *, after_norm: bool = False) -> None:
        self.ids = common_tokens(model)
        self.texts = model.token_texts(self.ids)
        rows = model.W_U.T[self.ids].float()
        norm = model.layout.final_norm
        rows = rows if after_norm else norm.center(norm.gain.float() * rows)
        self.rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def of(self, vectors: Float[Tensor, "n d_model"], k: int) -> list[tuple[list[int], list[int]]]:
        """The ids of the k tokens each vector raises most, and of the k it lowers most."""
        k = min(k, len(self.ids) // 2)
        cosine = self.cosines(vectors)
        high, low = cosine.topk(k).indices, (-cosine).topk(k).indices
        return [
            ([self.ids[i] for i in a], [self.ids[i] for i in b])
            for a, b in zip(high.tolist(), low.tolist(), strict=True)
        ]

    def cosines(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n token"]:
        unit = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        return unit.to(self.rows) @ self.rows.T


def to_stream(model: Model, direction: Direction) -> Float[Tensor, "d d_model"] | None:
    """The map from moves at a direction's site to moves of the stream: the identity there, W_O or W_out before it.

    None where there is no such linear map (a norm, attention or a nonlinearity lies between, or experts).
    """
    site = model.sites.parse(direction.site)
    if site.name in STREAM or site.name == "final_norm":
        return torch.eye(model.d_model)
    if site.layer is None:
        return None
    parts = model.layout.blocks[site.layer]
    if site.name == "z" and parts.attn_post_norm is None and model.quantised is None:
        W_O = weight_in_out(parts.attn_proj).float()
        if direction.head is None:  # of a dictionary over all heads
            return W_O if len(direction.write) == len(W_O) else None
        return W_O.reshape(model.heads_at(site.layer).n_heads, -1, model.d_model)[direction.head]
    if (
        site.name == "mlp_post"
        and parts.mlp_down is not None
        and parts.mlp_post_norm is None
        and model.quantised is None
    ):
        return weight_in_out(parts.mlp_down).float()
    return None


def own_tokens(model: Model, direction: Direction, *, k: int = 10) -> OwnTokens | None:
    """The k common tokens whose logits a move along the direction's write vector raises most, and the k it lowers most.

    By cosine of W_U's columns, the final norm's gain folded in, with the move (through W_O or W_out at `z` and `mlp_post`).
    Common: readable, and among the vocabulary's first 10,000. None at sites that no linear map leads from to the stream.
    """
    onward = to_stream(model, direction)
    if onward is None:
        return None
    common = CommonTokens(model, after_norm=direction.site == "final_norm")
    move = (direction.write.float().to(onward) @ onward)[None]
    cosine = common.cosines(move)[0]
    k = min(k, len(common.ids) // 2)

    def strongest(values: Tensor) -> tuple[tuple[int, str, float], ...]:
        chosen = values.topk(k).indices.tolist()
        return tuple((common.ids[i], common.texts[i], float(cosine[i])) for i in chosen)

    about = {**model.provenance, "method": "own_tokens", "site": direction.place}
    return OwnTokens(direction.name, strongest(cosine), strongest(-cosine), about)


def readable(text: str) -> bool:
    """Whether a token can be read on a line: with a letter or a digit, and nothing that cannot be seen."""
    return text.isprintable() and "�" not in text and any(c.isalnum() for c in text)
