"""A change of the state, as a page is told it: the keys that changed, and of a list of things with ids those that did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict

Things = dict[str, dict[str, Any]]


class Part(TypedDict):
    """The ids of what is in a list now, in order, and what of it is new or another than before."""

    ids: list[str]
    new: list[dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """whole: new values by key. parts: what turns the lists of other keys into what they are now."""

    whole: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)

    @classmethod
    def since(cls, before: Mapping[str, Any], patch: Mapping[str, Any]) -> Self:
        """The change that a patch of whole values makes of a state."""
        parts = {key: part for key, value in patch.items() if (part := _part(before.get(key), value)) is not None}
        return cls({key: value for key, value in patch.items() if key not in parts}, parts)

    def then(self, later: "Change") -> "Change":
        """Both, one after the other, as one."""
        whole = self.whole | later.whole
        parts = {key: part for key, part in self.parts.items() if key not in later.whole}
        for key, part in later.parts.items():
            if key in whole:
                whole[key] = _put(whole[key], part)
            elif key in parts:
                new = _things(parts[key]["new"]) | _things(part["new"])
                parts[key] = {"ids": part["ids"], "new": [new[id] for id in part["ids"] if id in new]}
            else:
                parts[key] = part
        return Change(whole, parts)


def _part(before: Any, now: Any) -> Part | None:
    """What turns one list into another; None where the other one is told as soon, or its things have no ids of their own."""
    if not (_named(before) and _named(now)):
        return None
    known = _things(before)
    new = [one for one in now if known.get(one["id"]) != one]
    return {"ids": [one["id"] for one in now], "new": new} if len(new) < len(now) else None


def _put(before: list[dict[str, Any]], part: Part) -> list[dict[str, Any]]:
    things = _things(before) | _things(part["new"])
    return [things[id] for id in part["ids"]]


def _things(several: list[dict[str, Any]]) -> Things:
    return {one["id"]: one for one in several}


def _named(value: Any) -> bool:
    """Whether it is a list of mappings, each with an id that no other has."""
    if not isinstance(value, list) or not all(
        isinstance(one, dict) and isinstance(one.get("id"), str) for one in value
    ):
        return False
    return len(_things(value)) == len(value)
