"""A run's edits made ready: sources resolved, contradictions refused, and those joined that mean something together."""

from collections.abc import Iterable, Sequence
from typing import Any

from residscope.engine.protocols import Edit
from residscope.model.sites import SiteTable


def prepare(model: Any, edits: Iterable[Edit], lengths: tuple[int, ...]) -> tuple[Edit, ...]:
    """Edits as a pass takes them, for prompts of these lengths. Raises ClashingEdits, and what an edit itself refuses."""
    return join([edit.prepare(model) for edit in edits], model.sites, lengths)


def join(edits: Sequence[Edit], table: SiteTable, lengths: tuple[int, ...]) -> tuple[Edit, ...]:
    """Prepared edits in their order, each seen with those before it.

    An edit may have `refuse(later, table, lengths)`, which raises where a later one contradicts it, and `joined(later,
    table)`, which gives one edit for both (it stands where the earlier stood) or None.
    """
    done: list[Edit] = []
    for edit in [part for given in edits for part in getattr(given, "parts", (given,))]:
        for i, earlier in enumerate(done):
            if (refuse := getattr(earlier, "refuse", None)) is not None:
                refuse(edit, table, lengths)
            if (joined := getattr(earlier, "joined", None)) is not None and (both := joined(edit, table)) is not None:
                done[i] = both
                break
        else:
            done.append(edit)
    return tuple(done)
