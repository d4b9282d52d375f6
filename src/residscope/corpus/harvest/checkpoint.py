"""A harvest's folder: what it is of, and the partial of each shard that is done, each a file that is whole or not there."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from residscope.corpus.harvest.shards import Shard
from residscope.corpus.harvest.statistics.base import Partial, Statistic
from residscope.drafts import replace_whole
from residscope.engine.model import Model
from residscope.errors import DamagedFile, HarvestNotWritten, OtherHarvest
from residscope.files import read_tensors, write_tensors
from residscope.incoming import Unreadable, content, parsed

KIND = "partial"
Partials = dict[str, Partial]


class Checkpoint:
    """The folder of one harvest: `harvest.json`, and `shard-000000.safetensors` and so on.

    told: what the harvest is of. A folder of another one is refused, by what differs.
    """

    def __init__(self, folder: str | Path, told: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder).expanduser()
        if told is not None:
            self._claim(json.loads(json.dumps(told)))

    def _claim(self, told: Any) -> None:
        header = self.folder / "harvest.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not header.exists():
                strangers = [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
                if strangers:
                    raise OtherHarvest(
                        f"the folder {self.folder.name} is no harvest's", received=", ".join(sorted(strangers)[:5]),
                        allowed="an empty folder, or one of this harvest", fix="give another folder",
                    )  # fmt: skip
                replace_whole(header, lambda path: path.write_text(json.dumps(told, indent=1)))
                return
            known = parsed(content(header))
        except OSError as error:
            raise _not_written(self.folder, error) from error
        except Unreadable as error:
            raise DamagedFile(f"{header.name} is damaged: {error}", received=str(header)) from error
        names = sorted({*known, *told}) if isinstance(known, dict) else ["harvest"]
        differs = [name for name in names if not isinstance(known, dict) or known.get(name) != told.get(name)]
        if differs:
            one = differs[0]
            was = known.get(one) if isinstance(known, dict) else known
            raise OtherHarvest(
                f"the folder {self.folder.name} is of another harvest: its {', '.join(differs)} differ",
                received=f"{one} {str(told.get(one))[:80]}",
                allowed=f"{one} {str(was)[:80]}",
                fix="give another folder, or remove that one",
            )

    def path(self, number: int) -> Path:
        return self.folder / f"shard-{number:06d}.safetensors"

    def has(self, shard: Shard) -> bool:
        """Whether this shard's partial is there and whole; a damaged one is removed.

        Raises OtherHarvest where it is of other rows: the text has changed.
        """
        if not self.path(shard.number).exists():
            return False
        try:
            _, about = read_tensors(self.path(shard.number), KIND)
        except DamagedFile:
            self.path(shard.number).unlink(missing_ok=True)
            return False
        if about["digest"] != shard.digest:
            raise OtherHarvest(
                f"the text is another one than {self.folder.name} was begun with: shard {shard.number} has other tokens",
                received=about["digest"][:16],
                allowed=shard.digest[:16],
                fix="give the same text, or another folder",
            )
        return True

    def write(self, shard: Shard, partials: Partials) -> None:
        """Raises HarvestNotWritten: the disk is full, or the folder is gone or not to be written to."""
        try:
            about = {"number": shard.number, "digest": shard.digest, "tokens": shard.tokens}
            write_tensors(self.path(shard.number), KIND, flat(partials), about)
        except (OSError, SafetensorError) as error:
            raise _not_written(self.folder, error) from error

    def assembled(self, statistic: Any, parts: Sequence[Callable[[], Partial]], model: Model, number: int) -> Any:
        """What a statistic makes of all partials on the disk. Raises HarvestNotWritten."""
        try:
            return statistic.assemble(parts, model, self.folder / f"store-{number}")
        except OSError as error:
            raise _not_written(self.folder, error) from error

    def read(self, number: int) -> dict[int, Partial]:
        """A shard's partials, by the number of their statistic. Raises FileNotThere, DamagedFile."""
        tensors, _ = read_tensors(self.path(number), KIND)
        return unflat(tensors)


def flat(partials: Partials) -> dict[str, Tensor]:
    return {f"{i}/{key}": x for i, partial in enumerate(partials.values()) for key, x in partial.items()}


def unflat(tensors: Mapping[str, Tensor]) -> dict[int, Partial]:
    """Partials by the number of their statistic: see `named`."""
    found: dict[int, Partial] = {}
    for name, x in tensors.items():
        number, _, key = name.partition("/")
        found.setdefault(int(number), {})[key] = x
    return found


def named(found: Mapping[int, Partial], statistics: Sequence[Statistic]) -> Partials:
    return {statistic.name: found[i] for i, statistic in enumerate(statistics)}


def identity(model: Model, corpus: str, statistics: Sequence[Statistic], **sizes: int) -> dict[str, Any]:
    """What a harvest is of: all that its partials depend on."""
    told = model.provenance
    return {
        "model": model.fingerprint(),
        "dtype": told["dtype"],
        "versions": told["versions"],
        "text": corpus,
        "statistics": [dict(statistic.told) for statistic in statistics],
        **sizes,
    }


def _not_written(folder: Path, error: BaseException) -> HarvestNotWritten:
    return HarvestNotWritten(
        f"what was gathered could not be written: {error}", received=str(folder),
        allowed="a folder on a disk with room", fix="make room, then harvest again: finished shards are kept",
    )  # fmt: skip
