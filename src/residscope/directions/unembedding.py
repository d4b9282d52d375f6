"""Tokens' logits as directions of the stream."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch

from residscope import fields
from residscope.declare.methods import method
from residscope.directions.dictionary import Dictionary
from residscope.directions.direction import Direction
from residscope.engine.model import Model
from residscope.engine.parameters import in_memory
from residscope.errors import CappedLogits, DirectionError, NoVectors
from residscope.shown_tokens import visible


def unembedding(model: Model, token: str | int, *, site: str | None = None, before_cap: bool = False) -> Direction:
    """One token's logit as a direction of the stream: W_U's column, the final norm's gain and the model's scale folded in.

    logit = read . x / sigma(x) + offset, exactly so at the end of the stream, a lens before it (nostalgebraist, 2020).
    Where the model caps its logits, c tanh(logit / c), no direction gives them; `before_cap` gives what the cap takes.
    Raises UnknownToken, CappedLogits.
    """
    cap, factor = model.layout.factors.logits_cap, model.layout.factors.logits
    if cap is not None and not before_cap:
        raise CappedLogits(
            "this model caps its logits, so a logit is not a linear function of the stream",
            received=f"a cap of {cap:g}",
            allowed="the logit before the cap, which has the same order over the tokens",
            fix="give before_cap=True, or read the logits themselves",
        )
    index = model.token_id(token)
    norm = model.layout.final_norm
    column = model.W_U[:, index].float() * factor
    read = norm.center(norm.gain.float() * column)
    bias = 0.0 if norm.bias is None else float(norm.bias.float() @ column)
    head_bias = in_memory(model.layout.unembed, "bias")
    bias += 0.0 if head_bias is None else float(head_bias[index]) * factor
    text = model.token_texts([index])[0]
    return Direction(
        read=read,
        write=read,
        site=site or f"resid_post.{model.n_layers - 1}",
        offset=bias,
        name=f"logit {text!r}" + (" before the cap" if cap is not None else ""),
        space="lens",
        provenance={"unembedding": text, "id": index, "model": model.hash},
    )


def logit_diff(
    model: Model, positive: str | int, negative: str | int, *, site: str | None = None, before_cap: bool = False
) -> Direction:
    """logit(positive) - logit(negative) as a direction of the stream; see `unembedding`."""
    difference = unembedding(model, positive, site=site, before_cap=before_cap)
    difference = difference - unembedding(model, negative, site=site, before_cap=before_cap)
    texts = model.token_texts([model.token_id(token) for token in (positive, negative)])
    bare = [visible(text[1:] if text[:1] == " " and text[1:].strip() else text) for text in texts]
    names = bare if bare[0] != bare[1] else [visible(text) for text in texts]  # "Mary" and " Mary" are two
    capped = " before the cap" if model.layout.factors.logits_cap is not None else ""
    return replace(difference, name=f"{names[0]} - {names[1]}{capped}")


def _check(model: Model, tokens: Sequence[str | int], **more: Any) -> None:
    """What it refuses: it reads no text, so that making it is the quickest way to know."""
    unembedding_rows(model, tokens, **more)


@method(
    "unembedding-rows",
    title="Directions of tokens",
    group="directions",
    tokens=lambda model, **_: 0.0,
    refuse=_check,
)
def unembedding_rows(
    model: Model,
    tokens: Annotated[Sequence[str | int], fields.tokens(several=True)],
    *,
    site: Annotated[str | None, fields.site()] = None,
    before_cap: Annotated[bool, fields.flag(help="of a capped model: its logits before the cap")] = False,
) -> Dictionary:
    """The logits of several tokens as a dictionary in the lens space, one direction a token; see `unembedding`.

    `encode(x, model=model)` is [..., token]: the model's own logits at the end of the stream, the logit lens before it.

    Raises:
        UnknownToken, CappedLogits: as `unembedding` does. DirectionError: no tokens.
        NoVectors: a site without one vector a token of the stream's width.
    """
    if isinstance(tokens, str | int):
        tokens = [tokens]
    if not len(tokens):
        raise DirectionError("no tokens are named", received="an empty list", allowed="one token or more")
    if site is not None:
        where = model.sites.parse(site)
        if where.kind.axes != ("batch", "pos", "d_model"):
            raise NoVectors(
                "the lens reads vectors of the stream's width, one a token",
                received=f"{where}, [{where.kind.dims}]",
                allowed="resid_pre, resid_mid, resid_post, attn_out, mlp_out ...",
            )
        site = str(where)
    rows = [unembedding(model, token, site=site, before_cap=before_cap) for token in tokens]
    read = torch.stack([row.read for row in rows])
    return Dictionary(
        name="unembedding",
        site=rows[0].site,
        read=read,
        write=read,
        mean=torch.zeros_like(read[0]),
        provenance={"ids": [row.provenance["id"] for row in rows], "model": model.hash},
        space="lens",
        offset=read.new_tensor([row.offset for row in rows]),
        names=tuple(row.provenance["unembedding"] for row in rows),
    )
