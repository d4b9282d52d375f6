"""Where each feature fires: sparse rows in columns on the disk, one feature's together, and the text's tokens."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.corpus.chunks import Chunk
from residscope.corpus.harvest.statistics.base import OfColumns, Partial, joined
from residscope.drafts import drafts, replace_whole, sweep, sync
from residscope.engine.model import Model
from residscope.errors import BadArguments, DamagedFile, DirectionError, FileNotThere
from residscope.incoming import array_header, content, mapping, opened, parsed
from residscope.reports import Record

LISTS = {"token": np.int64, "activation": np.float32, "ids": np.int32, "starts": np.int64, "offsets": np.int64}
Load = Callable[[], Partial]


@dataclass(frozen=True, eq=False)
class FeatureStore(Record):
    """Rows (token, activation) of each feature, read from the disk as they are asked for; nothing else is loaded.

    Files of a folder, memory-mapped: `offsets[f] : offsets[f + 1]` of `token` and `activation` are feature f's, tokens rising;
    `ids` are the tokens of the text, in the order of its rows, and `starts` where each row begins among them.
    """

    kind: ClassVar[str] = "feature_store"
    place: str
    folder: str
    features: int
    rows: int
    tokens: int

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        """Raises FileNotThere; DamagedFile for files that are not of the sizes that were written."""
        folder = Path(folder).expanduser()
        try:
            told = mapping(parsed(content(folder / "store.json")), "store.json")
            place, numbers = told["place"], [told[name] for name in ("features", "rows", "tokens")]
            if not isinstance(place, str) or not all(type(n) is int for n in numbers):
                raise TypeError("it does not say what it is of, and how many")
            store = cls(place, str(folder), *numbers)
            sizes, said = {name: len(store._list(name)) for name in LISTS}, told["sizes"]
        except FileNotFoundError as error:
            raise FileNotThere(
                "there is no feature store", received=str(folder), allowed="a folder with store.json"
            ) from error
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DamagedFile(f"the feature store {folder.name} is damaged: {error}", received=str(folder)) from error
        if sizes != said or not store._fits(sizes):
            raise DamagedFile(
                f"the feature store {folder.name} is damaged", received=str(sizes), allowed=str(said)[:200]
            )
        return store

    def _fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether its lists are of one another's sizes, and `offsets` and `starts` lead to what is there."""
        wanted = {"token": self.rows, "activation": self.rows, "ids": self.tokens, "offsets": self.features + 1}
        ends = (("offsets", self.rows), ("starts", self.tokens))
        return (
            wanted == {name: sizes[name] for name in wanted}
            and all(self._rises(name, most) for name, most in ends)
            and int(self._list("offsets")[-1]) == self.rows
        )

    def _rises(self, name: str, most: int) -> bool:
        x = self._list(name)
        return not len(x) or bool(x[0] == 0 and x[-1] <= most and (x[1:] >= x[:-1]).all())

    def of(self, feature: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """The tokens at which a feature fires, by their place in the text, and its activation at each. Raises DirectionError."""
        if not 0 <= feature < self.features:
            raise DirectionError("no such feature", received=str(feature), allowed=f"0 to {self.features - 1}")
        first, last = (int(x) for x in self._list("offsets")[feature : feature + 2])
        return self._list("token")[first:last], self._list("activation")[first:last]

    def row_of(self, token: int) -> tuple[int, int]:
        """The row of a token, and its position there."""
        row = int(np.searchsorted(self._list("starts"), token, side="right")) - 1
        return row, token - int(self._list("starts")[row])

    def context(self, token: int, before: int = 16, after: int = 4) -> tuple[list[int], int]:
        """The ids about a token, within its row, and which of them is the one."""
        row, pos = self.row_of(token)
        starts = self._list("starts")
        end = int(starts[row + 1]) if row + 1 < len(starts) else self.tokens
        first = token - min(pos, before)
        return self._list("ids")[first : min(end, token + after + 1)].tolist(), token - first

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum((Path(self.folder) / f"{name}.npy").stat().st_size for name in LISTS)

    def _list(self, name: str) -> Any:
        return self._lists[name]

    @cached_property
    def _lists(self) -> dict[str, Any]:
        """Mapped, not loaded."""
        return {name: _mapped(Path(self.folder) / f"{name}.npy", dtype) for name, dtype in LISTS.items()}


def _mapped(path: Path, dtype: Any) -> Any:
    """Raises ValueError for a file that holds no list of that dtype; FileNotFoundError."""
    with opened(path) as file:
        shape, held, _ = array_header(file)
    if held != dtype or len(shape) != 1:
        raise ValueError(f"{path.name} holds no list of {np.dtype(dtype).name}")
    return np.load(path, mmap_mode="r", allow_pickle=False)


@dataclass(frozen=True, eq=False)
class StoreFeatures(OfColumns):
    """`FeatureStore`: every token at which a feature of a dictionary is above `above`. It needs a folder.

    A row takes 12 bytes, a token of the text 4. Its partials are never joined in memory: each shard's is a file, whose rows
    are put in their places on the disk at the end, a shard at a time.
    """

    kind = "store"
    called = "rows"
    above: float = 0.0

    def start(self, model: Model) -> Partial:
        whole = torch.empty(0, dtype=torch.int64)
        lists = {"feature": torch.empty(0, dtype=torch.int32), "token": whole, "activation": torch.empty(0)}
        return {**lists, "ids": torch.empty(0, dtype=torch.int32), "starts": whole.clone()}

    def add(self, partial: Partial, chunk: Chunk) -> None:
        x, keep = self.columns.whole(chunk), self.columns.keep(chunk)
        on = (x > self.above) & keep[..., None].to(x.device)
        row, pos, feature = on.nonzero(as_tuple=True)
        seen = {
            "feature": feature.int().cpu(),
            "token": (chunk.starts[row.cpu()] + pos.cpu()),
            "activation": x[on].cpu(),
            "ids": chunk.record.tokens[chunk.record.batch.real].int().cpu(),
            "starts": chunk.starts,
        }
        partial.update(joined(partial, seen))

    def merge(self, first: Partial, second: Partial) -> Partial:
        return joined(first, second)

    def finish(self, partial: Partial, model: Model) -> Any:
        raise BadArguments("a feature store is written to a folder", fix="harvest(..., folder=...)")

    def assemble(self, parts: Sequence[Load], model: Model, folder: Path) -> FeatureStore:
        """The store out of the shards' partials, in the order of the text; in `folder` whole or not at all."""
        n = self.columns.count(model)
        sums = np.zeros(n, dtype=np.int64)
        sizes = {"ids": 0, "starts": 0}
        for load in parts:
            part = load()
            sums += np.bincount(part["feature"].numpy(), minlength=n)
            sizes = {name: size + len(part[name]) for name, size in sizes.items()}
        offsets = np.concatenate([[0], sums.cumsum()])
        sizes |= {"token": int(offsets[-1]), "activation": int(offsets[-1]), "offsets": n + 1}
        sweep(folder.parent)
        with drafts(folder.parent) as made:
            draft = made / folder.name
            draft.mkdir()
            self._fill(draft, parts, offsets, sizes)
            told = {
                "place": self.columns.label, "features": n, "rows": sizes["token"], "tokens": sizes["ids"], "sizes": sizes
            }  # fmt: skip
            replace_whole(draft / "store.json", lambda path: path.write_text(json.dumps(told)))
            rmtree(folder, ignore_errors=True)
            draft.rename(folder)
            sync(folder.parent)
        return FeatureStore.open(folder)

    def _fill(self, draft: Path, parts: Sequence[Load], offsets: Any, sizes: Mapping[str, int]) -> None:
        made = {
            name: np.lib.format.open_memmap(draft / f"{name}.npy", "w+", dtype=dtype, shape=(sizes[name],))
            for name, dtype in LISTS.items()
        }
        made["offsets"][:] = offsets
        free, at = offsets[:-1].copy(), {"ids": 0, "starts": 0}
        for load in parts:
            part = {name: x.numpy() for name, x in load().items()}
            order = np.argsort(part["feature"], kind="stable")  # tokens rise within a shard
            feature = part["feature"][order]
            counts = np.bincount(feature, minlength=len(free))
            begins = counts.cumsum() - counts
            goes = free[feature] + np.arange(len(feature)) - begins[feature]
            made["token"][goes], made["activation"][goes] = part["token"][order], part["activation"][order]
            free += counts
            for name in at:
                made[name][at[name] : at[name] + len(part[name])] = part[name]
                at[name] += len(part[name])
        for written in made.values():
            written.flush()


def token_ids(store: FeatureStore) -> Int[Tensor, " token"]:
    """All tokens of the text, in order."""
    return torch.from_numpy(np.array(store._list("ids")))
