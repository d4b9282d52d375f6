"""Find features: by the tokens that they are highest at, by a text, by what they write."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary, Direction
from residscope.edits.features import joined
from residscope.engine.model import Model, Prompt
from residscope.engine.sinks import kept
from residscope.errors import WrongWidth
from residscope.features.atlas import Atlas


@dataclass(frozen=True)
class Found:
    """A feature, by its number, and what it was found by."""

    index: int
    value: float


def on_token(model: Model, atlas: Atlas, token: str | int, k: int = 50) -> list[Found]:
    """The features of whose highest tokens the most are this one: the share of them. Raises UnknownToken."""
    id = model.token_id(token)
    at = atlas.top.ids[:, :, atlas.top.at]
    there = at >= 0
    share = ((at == id) & there).sum(1) / there.sum(1).clamp_min(1)
    return _best(share.double() + 1e-9 * atlas.highest.nan_to_num(0).clamp(0, 1e6), share, k)


def on_text(
    model: Model, atlas: Atlas, prompt: Prompt, dictionary: Dictionary | None = None, k: int = 50
) -> list[Found]:
    """The features most active on a text relative to the highest value known of each: at any token that is kept."""
    atlas.check(model, dictionary)
    values = values_on(model, atlas, prompt, dictionary)
    ratio = values / atlas.highest.clamp_min(1e-9).nan_to_num(torch.inf)
    return _best(ratio.double(), values, k)


def values_on(
    model: Model, atlas: Atlas, prompt: Prompt, dictionary: Dictionary | None = None
) -> Float[Tensor, " feature"]:
    """Each feature's highest value over the tokens of some prompts that are kept."""
    record = model.run(prompt, [atlas.site])
    x = record[atlas.site]
    x = x if atlas.head is None else x[:, :, atlas.head]
    values = (x if dictionary is None else dictionary.encode(joined(dictionary, x), model=model)).float().cpu()
    keep = kept(record, atlas.site).cpu()
    return values[keep].amax(0) if keep.any() else torch.zeros(atlas.features)


def similar(dictionary: Dictionary, to: Direction | Sequence[float] | Tensor, k: int = 50) -> list[Found]:
    """The features whose write vectors have the highest cosine with a direction's. Raises WrongWidth."""
    vector = torch.as_tensor(to.write if isinstance(to, Direction) else to).float()
    if vector.shape != dictionary.write.shape[1:]:
        raise WrongWidth(
            "of another width", received=str(tuple(vector.shape)), allowed=str(tuple(dictionary.write.shape[1:]))
        )
    cosine = torch.nn.functional.normalize(dictionary.write.float(), dim=1) @ torch.nn.functional.normalize(
        vector, dim=0
    )
    return _best(cosine.double(), cosine, k)


def _best(score: Tensor, value: Tensor, k: int) -> list[Found]:
    order = score.argsort(descending=True, stable=True)[:k].tolist()
    return [Found(i, float(value[i])) for i in order if float(value[i]) > 0]
