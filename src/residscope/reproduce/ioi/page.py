"""The page of `ioi_study`: the claims, then every stage with its picture, its classes and its controls."""

from collections.abc import Sequence

from residscope.reproduce.ioi.claims import cards
from residscope.reproduce.ioi.knocks import ALONE, CIRCUIT, NOTHING
from residscope.reproduce.ioi.measures import LOOKS, Head
from residscope.reproduce.ioi.numbers import effect, effects_of, kept, looked, words
from residscope.reproduce.ioi.study import Study
from residscope.views import Grid, HeatMap, Table, Text, View

ENDS = {
    "logits": "to the logits", "queries": "to the writers' queries", "values": "to the S-inhibition heads' values",
    "keys": "to the induction heads' keys",
}  # fmt: skip


def page(study: Study) -> list[View]:
    """Everything, in the order of the paper."""
    views: list[View] = [_about(study), Grid(cards(study), columns=2, title="The paper's claims, one by one")]
    views += [study.task.view(), study.stream.view(), _paths(study), _classes(study), _knocks(study)]
    return [*views, study.repair.view(), _provenance(study)]


def _about(study: Study) -> Text:
    p = study.provenance
    return Text(
        "Interpretability in the Wild, taken again",
        [
            f"{p['model']} on {p['prompts']} prompts of the paper's templates; paths on {p['traced']}, knock-outs "
            f"on {p['knocked out on']} of them. Seed {p['seed']}; {p['seconds']:.0f} s on {p['threads']} thread(s).",
            "Paths are followed back from the logits as in the paper: a head's value of the partner with three names runs "
            "through skips and MLPs, never through other heads, to what receives. Heads are found by that effect; their class "
            "is where they look. Under grouped queries, values and keys are a group's, not one head's.",
            "Knocked out is set to the mean over partners of the template, at the position where the class acts. Beside each "
            "stand random heads of the same layers. Shuffled: another IOI prompt of the same template and order as the "
            "partner, so that names differ and the order does not.",
            "The paper is of GPT-2 small. A claim that fails here failed on this model: it says nothing of that one.",
        ],
    )  # fmt: skip


def _paths(study: Study) -> Grid:
    maps = [
        _map(study, stage, [h for heads in study.classes.values() for h in heads])
        for stage in ENDS
        if stage in study.paths
    ]
    return Grid(maps, columns=2, title="Paths, from the logits back")


def _map(study: Study, stage: str, marks: Sequence[Head]) -> HeatMap:
    values = effects_of(study, stage)
    layers, heads = values.shape
    return HeatMap(
        values, range(layers), range(heads), title=f"Change of the logit difference along the paths {ENDS[stage]}",
        row_title="layer", column_title="head", unit="logits", marks=marks, bottom_up=True,
        note=f"{study.paths[stage].concentration()}; framed: heads of a class",
    )  # fmt: skip


def _classes(study: Study) -> View:
    columns = ["class", "head", *(f"{a} to {b}" for a, b in LOOKS), "direct effect", *ENDS.values()]
    rows = [
        [
            name, f"{head[0]}.{head[1]}", *(round(looked(study, [head], look), 3) for look in LOOKS),
            round(float(study.direct.values[head].mean()), 3),
            *(_number(effect(study, study.paths, stage, [head])) for stage in ENDS),
        ]
        for name, heads in study.classes.items()
        for head in heads
    ]  # fmt: skip
    return Table(
        columns, rows, title="The heads of each class", note="attention: shares; effects: logits, means over prompts"
    )


def _number(x: float) -> float | None:
    return None if x != x else round(x, 3)


def _knocks(study: Study) -> Table:
    rows = []
    for name, knock in study.knocked.items():
        heads = "" if name in (CIRCUIT, ALONE, NOTHING) else words(study.classes[name])
        chance = float(knock.chance.mean()) if len(knock.chance) else None
        rows.append([name, heads, round(float(knock.after.mean()), 3), round(kept(study, knock), 3), chance])
    before = float(study.before.after.mean())
    columns = ["what", "heads", "logit difference", "as a share", "random heads instead, mean"]
    note = f"without any knock-out {before:.2f} logits; “{ALONE}” and “{NOTHING}”: every other head out"
    return Table(columns, rows, title="Knocked out, to the mean over partners", note=note)


def _provenance(study: Study) -> Table:
    rows = [[name, x if isinstance(x, int | float | str) else str(x)] for name, x in study.provenance.items()]
    return Table(["what", "value"], rows, title="Provenance")
