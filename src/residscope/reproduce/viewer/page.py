"""The page of `viewer_study`: the guide's tour with its pictures, and a verdict for each of its claims."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.reproduce.viewer.claims import PRIMARILY, STRONG, cards
from residscope.reproduce.viewer.study import Study
from residscope.reproduce.viewer.tokens import HALVES
from residscope.views import Curve, Grid, HeatMap, Line, Reference, Table, Text, TokenStrip, View


def page(study: Study) -> list[View]:
    """Everything, in the order of the guide."""
    views: list[View] = [_about(study), Grid(cards(study), columns=2, title="The guide's claims, one by one")]
    views += [_strips(study, name) for name in study.strips]
    views += [_ends(study), _position(study), _words(study), _scree(study)]
    views += [
        Grid([cost.histogram("KL"), cost.histogram("loss")], columns=2, title=f"The model without {name}")
        for name, cost in study.removed.items()
    ]
    return [*views, _provenance(study)]


def _about(study: Study) -> Text:
    p = study.provenance
    return Text(
        "The Residual Stream Viewer's tour, taken again",
        [
            f"{p['model']}: {p['components']} principal components of each of {len(study.rows)} rows of the stream, fitted on "
            f"{p['fitted on']:,} tokens of {p['text']} and judged on {p['judged on']:,} tokens of other texts of it, half of "
            f"which chose among components. Seed {p['seed']}; {p['seconds']:.0f} s on {p['threads']} thread(s).",
            "Red is positive, blue negative, white is zero: the mean of the text. Each block of texts has one scale. The first "
            "token of each row of text and attention sinks are left out of every number. Components count from zero: PC 7 is "
            "the eighth.",
            "The guide speaks of GPT-2 small. A claim that fails here failed on this model: it says nothing of that one.",
        ],
    )


def _strips(study: Study, name: str) -> View:
    shown = study.strips[name]
    values = torch.tensor([x for _, line in shown for x in line])
    limit = float(values.abs().nanquantile(0.985)) or None
    strips = [TokenStrip(list(tokens), line, limit=limit) for tokens, line in shown]
    return Grid(strips, columns=1, title=f"{name} along held-out texts")


def _ends(study: Study) -> Table:
    rows = [[name, *(" · ".join(repr(t)[1:-1] for t in end) for end in ends)] for name, ends in study.ends.items()]
    title = "Tokens with letters at the two ends, by their mean over the judged texts"
    return Table(["component", "red end", "blue end"], rows, title=title)


def _position(study: Study) -> View:
    values, best = study.position.values, study.picks["position"]
    return Grid(
        [
            _map(study, values[1], (best.row, best.index), "Rank correlation with the position", "framed: chosen on other texts"),
            _by_row(study, values.abs().amax(2), "Best |rho| with the position, by row", PRIMARILY**0.5),
        ],
        columns=2,
        title="Which component holds the position",
    )  # fmt: skip


def _words(study: Study) -> View:
    auc, own = study.words.select(measure="AUC").values, study.picks["guide"]
    return Grid(
        [
            _map(
                study, 2 * auc[1] - 1, (own.row, own.index), "Auxiliary verbs (red) against names (blue): 2 AUC − 1",
                "framed: the guide's own, layer 0, component 7",
            ),
            _by_row(study, (auc - 0.5).abs().amax(2) + 0.5, "Best AUC, whichever end is which, by row", STRONG),
        ],
        columns=2,
        title="Which component parts auxiliary verbs from names",
    )  # fmt: skip


def _map(study: Study, values: Float[Tensor, "row component"], mark: tuple[int, int], title: str, note: str) -> HeatMap:
    return HeatMap(
        values, [_short(row) for row in study.rows], [str(i) for i in range(values.shape[1])], limit=1.0, title=title,
        row_title="row", column_title="component", marks=[mark], bottom_up=True, note=f"held-out texts; {note}",
    )  # fmt: skip


def _by_row(study: Study, values: Float[Tensor, "half row"], title: str, at: float) -> Curve:
    x = [_short(row) for row in study.rows]
    lines = [Line(name, values[i].tolist(), dashed=i == 0) for i, name in enumerate(HALVES)]
    return Curve(x, lines, title=title, x_title="row", references=[Reference(at, "criterion", axis="y")])


def _scree(study: Study) -> View:
    rows: Sequence[int] = sorted({0, len(study.rows) // 3, 2 * len(study.rows) // 3, len(study.rows) - 1})
    lines = []
    for row in rows:
        name = study.rows[row]
        variance = study.dictionaries[name].variance
        if variance is not None:
            lines.append(Line(name, variance.tolist()))
    n = len(lines[0].y) if lines else 0
    return Curve(
        list(range(n)), lines, title="Share of the variance, by component", x_title="component", y_title="share"
    )


def _provenance(study: Study) -> Table:
    rows = [
        [name, value if isinstance(value, int | float | str) else str(value)]
        for name, value in study.provenance.items()
    ]
    return Table(["what", "value"], rows, title="Provenance")


def _short(site: str) -> str:
    """`emb` for the embedding, else the layer that leaves it."""
    return "emb" if site == "resid_pre.0" else site.rpartition(".")[2]
