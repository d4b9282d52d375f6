"""What estimates are of: active features where their dictionary is read, log-probabilities of next tokens; sources' parts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.edits.features import joined
from residscope.engine.protocols import Edit
from residscope.engine.slopes import Marked, graphed, slopes
from residscope.graph.exact import Source
from residscope.graph.nodes import Level
from residscope.graph.setting import Setting
from residscope.model.sites import Site

_BLOCK = 1 << 24  # entries of what features write that are held at once


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers read off one site of a run: `of` the value there, without its row axis.

    target: the level whose features they are; None: log-probabilities of next tokens. keys: of each the position (of those
    read: 0 where there is one) and the feature, or the token's place.
    """

    target: int | None
    site: Site
    of: Callable[[Tensor], Tensor]
    keys: Int[Tensor, "some 2"]

    def __len__(self) -> int:
        return len(self.keys)


Encode = Callable[[Level, Tensor, list[int]], Tensor]


def of_level(setting: Setting, number: int, at: int | None, encode: Encode) -> Numbers:
    """The features of a level that are active where it is read: at one position, or at all that are kept."""
    level = setting.levels[number]
    rows = setting.keep.nonzero()[:, 0] if at is None else torch.tensor([at])
    row, feature = (level.coordinates[rows.to(level.coordinates.device)] != 0).cpu().nonzero(as_tuple=True)
    chosen, place = torch.unique(feature, return_inverse=True)

    def of(value: Tensor) -> Tensor:
        x = joined(level.dictionary, value)[rows.to(value.device)]
        return encode(level, x, chosen.tolist())[row.to(value.device), place.to(value.device)]

    return Numbers(number, level.read_site, of, torch.stack([row if at is not None else rows[row], feature], 1))


def of_tokens(setting: Setting, ids: Sequence[int]) -> Numbers:
    """The log-probabilities of some tokens as the next one, in nats."""
    record, table = setting.record, setting.model.sites
    site = Site("logits")
    if not any(site in edit.places(table) for edit in record.edits):
        site = Site("final_norm")

    def of(value: Tensor) -> Tensor:
        x = value[setting.last]
        logits = x if site.name == "logits" else record.unembed(x)
        return logits.float().log_softmax(-1)[list(ids)]

    keys = torch.stack([torch.zeros(len(ids), dtype=torch.int64), torch.arange(len(ids))], 1)
    return Numbers(None, site, of, keys)


@dataclass(frozen=True, eq=False)
class Graphed:
    """Part of a run with its graph: what is read, and the values at the marked places that it depends on."""

    setting: Setting
    values: dict[Site, Tensor]
    marked: Marked

    @classmethod
    def of(
        cls, setting: Setting, read: Sequence[Site], marked: Marked, edits: Sequence[Edit] = (), *, start: int = 0
    ) -> "Graphed":
        return cls(setting, graphed(setting.record, {*read}, [*edits, marked], start=start), marked)

    def read(self, numbers: Numbers) -> Float[Tensor, " some"]:
        """The numbers themselves; at a place that is marked, of what came in."""
        value = self.marked.before.get(numbers.site)
        with torch.enable_grad():
            return numbers.of((self.values[numbers.site] if value is None else value)[0])

    def slopes(self, numbers: Numbers) -> Iterator[tuple[range, dict[Site, Float[Tensor, "some pos d"]]]]:
        """d number / d value at each of the marked places that were come by."""
        after, sizes = self.marked.after, self.setting.model.layout.sizes
        length = self.setting.batch.ids.shape[1]
        width = 2 * length * (sizes.d_mlp + 2 * sizes.d_model) + 2 * sizes.n_heads * length**2
        for some, grads in slopes(self.read(numbers), [*after.values()], width=width):
            yield some, {site: grad[:, 0].flatten(2) for site, grad in zip(after, grads, strict=True)}


def entry_of(site: Site) -> int:
    """The block from which on a forward comes by a site."""
    return 0 if site.layer is None else site.layer


def parts_of(
    level: Level,
    sources: Sequence[Source],
    slope: Float[Tensor, "some pos d"],
    *,
    keep: Tensor,
    scale: float,
) -> Float[Tensor, "row some"]:
    """(1 - scale) sum over positions of slope . written, of what each source writes: at its position, or at all that are kept."""
    indices = list(dict.fromkeys(source.index for source in sources))
    place = {index: i for i, index in enumerate(indices)}
    most = max(1, _BLOCK // max(1, level.error.numel()))
    by_position = []
    for first in range(0, len(indices), most):
        written = torch.stack([level.written(index) for index in indices[first : first + most]])
        by_position.append(torch.einsum("ipd,tpd->itp", written.to(slope), slope))
    found = (1 - scale) * torch.cat(by_position)
    rows = torch.tensor([place[source.index] for source in sources])
    if sources[0].pos is None:
        return (found * keep.to(found)).sum(-1)[rows]
    return found[rows, :, torch.tensor([source.pos for source in sources])]
