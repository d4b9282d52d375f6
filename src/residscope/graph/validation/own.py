"""What a graph's nodes do in their own prompt, and what their controls do there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from residscope.engine.protocols import LeastEdit
from residscope.graph.validation import controls as drawn
from residscope.graph.validation.asked import Asked
from residscope.graph.validation.claims import ABOUT
from residscope.graph.validation.cuts import Chosen, cut, cut_others
from residscope.graph.validation.measure import Measured, measured
from residscope.graph.validation.report import Control, Outcome, Validation
from residscope.progress import Cancel, Progress


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of edits, by what they are for."""

    edits: list[tuple[LeastEdit, ...]] = field(default_factory=list)
    of: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, edits: Sequence[LeastEdit]) -> None:
        self.of.setdefault(name, []).append(len(self.edits))
        self.edits.append(tuple(edits))


def in_its_prompt(
    asked: Asked,
    *,
    controls: int,
    scales: Sequence[float],
    seed: int,
    memory: int | None,
    progress: Progress,
    cancel: Cancel,
) -> Validation:
    """The four runs, the doses and the controls, in one sweep. Raises SweepCancelled."""
    setting, levels = asked.setting, asked.levels
    model, keep = setting.model, setting.keep
    sets = {
        "active": drawn.active(levels, asked.active, keep, n=controls, seed=seed),
        "index": drawn.index(levels, asked.active, n=controls, seed=seed),
    }
    cells, here = Cells(), keep[None]
    cells.add("without", cut(model, levels, asked.chosen, here))
    cells.add("only", cut_others(model, levels, asked.chosen, here))
    cells.add("none", cut_others(model, levels, {}, here))
    for scale in scales:
        cells.add("dose", cut(model, levels, asked.chosen, here, scale=float(scale)))
    for name, draws in sets.items():
        for chosen in draws.sets:
            cells.add(name, cut(model, levels, chosen, here))
    for chosen in sets["active"].sets:
        cells.add("kept", cut_others(model, levels, chosen, here))
    sizes = drawn.sizes_of(setting, levels, cut(model, levels, asked.chosen, here))
    for edits in drawn.directions(levels, sizes, n=controls, seed=seed):
        cells.add("directions", edits)
    found = measured(
        model, setting.batch, cells.edits, [asked.target], background=setting.background, memory=memory,
        what="Taking the nodes and their controls out", progress=progress, cancel=cancel,
    )  # fmt: skip
    return Validation(
        prompt=tuple(model.token_texts(setting.batch.ids[0].tolist())),
        target=model.token_texts([asked.target])[0],
        nodes=tuple(node.id for node in asked.nodes),
        whole=Outcome(float(found.before[0]), 0.0),
        without=_outcome(found, cells.of["without"][0]),
        only=_outcome(found, cells.of["only"][0]),
        none=_outcome(found, cells.of["none"][0]),
        scales=tuple(map(float, scales)),
        dose=found.log_prob[cells.of.get("dose", []), 0],
        controls=tuple(_controls(cells, found, sets)),
        missing={name: draws.missing for name, draws in sets.items() if draws.missing},
        provenance={
            **model.provenance,
            "method": "validate_graph",
            "target id": asked.target,
            "positions": keep.nonzero()[:, 0].tolist(),
            "active nodes": sum(map(len, asked.active.values())),
            "background": [repr(edit) for edit in setting.background],
        },
    )


def _outcome(found: Measured, cell: int) -> Outcome:
    return Outcome(float(found.log_prob[cell, 0]), float(found.kl[cell, 0]))


def _controls(cells: Cells, found: Measured, sets: Mapping[str, drawn.Drawn]) -> Iterator[Control]:
    for name, about in ABOUT.items():
        if index := cells.of.get(name):
            draws = sets.get(name, drawn.Drawn(()))
            kept = found.log_prob[cells.of["kept"], 0] if name == "active" else None
            named = tuple(_ids(chosen) for chosen in draws.sets)
            yield Control(
                name, about, found.log_prob[index, 0], found.kl[index, 0], sets=named, matched=draws.matched, kept=kept
            )


def _ids(chosen: Chosen) -> tuple[str, ...]:
    """The ids that the nodes of these features have."""
    return tuple(f"{id}/{i}" + ("" if pos is None else f"@{pos}") for id, of in chosen.items() for i, pos in of)
