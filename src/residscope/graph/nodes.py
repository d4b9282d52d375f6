"""What a causal graph is made of: features of a run as nodes, and how far each raises later ones as edges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from residscope.directions import Dictionary, by_id
from residscope.edits.features import joined
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.errors import GraphError
from residscope.model.sites import KINDS, Site, rank
from residscope.reports import Record

ERROR = -1  # the index of what a dictionary leaves out
_ORDER = {name: i for i, name in enumerate(KINDS)}


@dataclass(frozen=True, eq=False)
class Node(Record):
    """A feature of one dictionary in one run, or what the dictionary leaves out.

    id: such as `sae@resid_post.8/123`, with `@5` behind it where it stands for one position, or `sae@resid_post.8/error`.
    dictionary: its id in the graph. index: which feature (-1: the error). pos: its position; None: wherever it is active.
    activation: at the position that is read, or its own; of an error, its length there. Where there is no dictionary
    (`mlp_out.4/error@3` of an attribution graph) that is all of what is written there; an embedding's index is its token's id.
    """

    kind: ClassVar[str] = "node"
    id: str
    dictionary: str
    index: int
    pos: int | None
    activation: float
    label: str

    @property
    def is_error(self) -> bool:
        return self.index == ERROR


@dataclass(frozen=True, eq=False)
class Level:
    """One dictionary as a run has it: its coordinates at every position, and what it leaves out."""

    id: str
    dictionary: Dictionary
    read_site: Site
    write_site: Site
    x: Float[Tensor, "pos d"]
    coordinates: Float[Tensor, "pos n"]
    error: Float[Tensor, "pos d_write"]

    def active(self, keep: Bool[Tensor, " pos"]) -> list[int]:
        """The features that are active at any of these positions, in order."""
        return [int(i) for i in (self.coordinates[keep] != 0).any(0).nonzero()[:, 0]]

    def written(self, index: int) -> Float[Tensor, "pos d_write"]:
        """What a feature writes at each position."""
        if index == ERROR:
            return self.error
        return self.dictionary.added(self.x, self.coordinates[:, index : index + 1], [index])

    def node(self, index: int, pos: int | None, at: int) -> Node:
        """The node of a feature; `at`: the position that is read."""
        where = "" if pos is None else f"@{pos}"
        here = at if pos is None else pos
        if index == ERROR and not len(self.dictionary):
            return Node(f"{self.id}/error{where}", self.id, ERROR, pos, float(self.error[here].norm()), self.id)
        if index == ERROR:
            return Node(f"{self.id}/error{where}", self.id, ERROR, pos, float(self.error[here].norm()), "error")
        value = float(self.coordinates[here, index])
        return Node(f"{self.id}/{index}{where}", self.id, index, pos, value, self.dictionary.label(index))


def levels_of(model: Model, record: Recording, dictionaries: Sequence[tuple[str, Dictionary]]) -> list[Level]:
    """The dictionaries of a run of one prompt, in the order in which a forward reaches what they write."""
    made = []
    for id, dictionary in dictionaries:
        read, write = (model.sites.canonical(site) for site in (dictionary.read_site, dictionary.write_site))
        x, y = (joined(dictionary, record[site][0]) for site in (read, write))
        coordinates = dictionary.encode(x, model=model)
        made.append(Level(id, dictionary, read, write, x, coordinates, y - dictionary.reconstruct(x).to(y)))
    return sorted(made, key=lambda level: (when(level.write_site, model), when(level.read_site, model), level.id))


def named(dictionaries: Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary) -> list[tuple[str, Dictionary]]:
    """Dictionaries by the names they were given, or their ids. Raises GraphError: none, or something else."""
    given = [dictionaries] if isinstance(dictionaries, Dictionary) else dictionaries
    listed = [*given.values()] if isinstance(given, Mapping) else [*given]
    if not listed or not all(isinstance(one, Dictionary) for one in listed):
        raise GraphError(
            "a causal graph is drawn between the features of dictionaries",
            received=", ".join(type(one).__name__ for one in listed) or "none",
            allowed="a Dictionary, several, or a mapping of names to them: SAEs, transcoders, PCA",
        )
    return [*given.items()] if isinstance(given, Mapping) else [*by_id(listed).items()]


def when(site: Site, model: Model) -> tuple[int, int]:
    """Sites in the order in which a forward reaches them; the stream before a block is what the block below left."""
    return rank(site, model.n_layers), len(_ORDER) if site.name == "resid_pre" else _ORDER[site.name]


def follows(source: Level, target: Level, model: Model) -> bool:
    """Whether the target is read after the source is written."""
    return when(source.write_site, model) < when(target.read_site, model)
