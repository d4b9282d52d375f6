"""Probes that edits may name: on the shelf, or what a job that is still at work has of one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from residscope.errors import NotFound
from residscope.model.prompts import PromptSet
from residscope.probes.probe import Probe
from residscope.probes.probe_map import ProbeMap
from residscope.shelf.items import ItemShelf

RECIPE = ("data", "site", "position", "label")  # all that a probe depends on, beside the model and a seed


@dataclass(frozen=True, eq=False)
class Fitted:
    """A probe of the session. id: what edits say. name: of its item on the shelf; "" while `job` is at work on it.

    args: what the method that made it was asked for. revision: grows as the map fills.
    """

    id: str
    item: Probe | ProbeMap
    name: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""
    revision: int = 0

    @property
    def probe(self) -> Probe:
        return self.item.probe if isinstance(self.item, ProbeMap) else self.item

    @property
    def data(self) -> PromptSet | None:
        """Its prompts, where they are known."""
        return self.item.data if isinstance(self.item, ProbeMap) else None

    @property
    def recipe(self) -> dict[str, Any] | None:
        """What it was fitted from, where that is known."""
        return {part: self.args[part] for part in RECIPE} if {*RECIPE} <= self.args.keys() else None

    @property
    def mapped(self) -> str:
        """How far its map is: "none", "part" or "whole"."""
        if not isinstance(self.item, ProbeMap):
            return "none"
        return "whole" if self.item.done and not self.args.get("here_only") else "part"


def shelved(shelf: ItemShelf | None) -> dict[str, Fitted]:
    """The probes on the shelf, by id."""
    kept = [] if shelf is None else shelf.items.values()
    items = [(one, one.item) for one in kept]
    return {
        one.id: Fitted(one.id, item, one.name, one.args) for one, item in items if isinstance(item, Probe | ProbeMap)
    }


def find_probe(name: str, fitted: Mapping[str, Fitted]) -> Fitted:
    """A probe of the session by its id, or by its item's name. Raises NotFound."""
    found = fitted.get(name) or next((one for one in fitted.values() if one.name == name), None)
    if found is None:
        raise NotFound(
            "no probe of that name is fitted",
            received=name,
            allowed=", ".join(fitted) or "none is fitted yet",
            fix="fit it in the Probe tab first",
        )
    return found


def find_map(name: str, fitted: Mapping[str, Fitted]) -> tuple[Fitted, ProbeMap]:
    """A probe that has its prompts. Raises NotFound."""
    found = find_probe(name, fitted)
    if not isinstance(found.item, ProbeMap):
        known = ", ".join(one.id for one in fitted.values() if isinstance(one.item, ProbeMap))
        raise NotFound(
            "that probe came without its prompts", received=name, allowed=known or "none", fix="fit it in the Probe tab"
        )
    return found, found.item


def names_in(ids: tuple[int, ...], fitted: Iterable[Fitted]) -> dict[str, int]:
    """The named positions of a prompt that is one of the probes' own."""
    for one in fitted:
        if one.data is not None and ids in one.data.prompts:
            row = one.data.prompts.index(ids)
            return {name: column[row] for name, column in one.data.positions.items() if column[row] is not None}
    return {}
