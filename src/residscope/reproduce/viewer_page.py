"""The page of `viewer_study`: the guide's tour with its pictures, and a verdict for each of its claims."""

from collections.abc import Sequence

import torch

from residscope.reproduce.viewer import HALVES, Study
from residscope.reproduce.viewer_claims import cards
from residscope.views import Curve, Grid, HeatMap, Line, Reference, Table, Text, TokenStrip, View


def page(study: Study) -> list[View]:
    """Everything, in the order of the guide."""
    found: list[View] = [_about(study), Grid(cards(study), columns=2, title="The guide's claims, one by one")]
    found += [_strips(study, name) for name in study.values]
    found += [_ends(study), _position(study), _words(study), _scree(study)]
    found += [cost.view() for cost in study.removed.values()]
    return [*found, _provenance(study)]


def _about(study: Study) -> Text:
    p = study.provenance
    return Text(
        "The Residual Stream Viewer's tour, taken again",
        [
            f"{p['model']}: {p['components']} principal components of each of {len(study.rows)} rows of the stream, fitted on {p['fitted on']:,} "
            f"tokens of {p['text']} and judged on {p['judged on']:,} tokens of other texts of it. Seed {p['seed']}; {p['seconds']:.0f} s on "
            f"{p['threads']} thread(s).",
            "Red is positive, blue negative, white is zero: the mean of the text. Each row of text has one scale. The first token is left "
            "out of every fit and every number. Components count from zero: PC 7 is the eighth.",
            "The guide speaks of GPT-2 small. A claim that fails here failed on this model: it says nothing of that one.",
        ],
    )


def _strips(study: Study, name: str) -> View:
    limit = float(torch.cat([v[1:] for v in study.values[name]]).abs().quantile(0.985))
    strips = [
        TokenStrip(list(tokens), [float("nan"), *values[1:].tolist()], limit=limit)
        for tokens, values in zip(study.strips, study.values[name], strict=True)
    ]
    return Grid(strips, columns=1, title=f"{name} along some texts")


def _ends(study: Study) -> Table:
    rows = [
        [name, " · ".join(repr(t)[1:-1] for t in high), " · ".join(repr(t)[1:-1] for t in low)]
        for name, (high, low) in study.ends.items()
    ]
    return Table(
        ["component", "red end", "blue end"], rows, title="Tokens at the two ends, by their mean over the judged text"
    )


def _position(study: Study) -> View:
    values = study.position.values
    return Grid(
        [
            HeatMap(
                values[1], [_short(row) for row in study.rows], [str(i) for i in range(values.shape[2])], limit=1.0,
                title="Rank correlation of each component with the position", row_title="row", column_title="component",
                marks=[(study.best_position.row, study.best_position.index)], bottom_up=True, note="framed: the best on the other half",
            ),
            _by_row(study, values.abs().amax(2), "Best |rho| with the position, by row", 0.5),
        ],
        columns=2,
        title="Which component holds the position",
    )  # fmt: skip


def _words(study: Study) -> View:
    values = study.words.values
    return Grid(
        [
            HeatMap(
                2 * values[1] - 1, [_short(row) for row in study.rows], [str(i) for i in range(values.shape[2])], limit=1.0,
                title="Auxiliary verbs (red) against names (blue): 2 AUC − 1", row_title="row", column_title="component",
                marks=[(0, study.seeds_own.index)] if study.seeds_own.index < values.shape[2] else [], bottom_up=True,
                note="framed: the guide's own, layer 0, component 7",
            ),
            _by_row(study, (values - 0.5).abs().amax(2) + 0.5, "Best AUC, whichever end is which, by row", 0.9),
        ],
        columns=2,
        title="Which component parts auxiliary verbs from names",
    )  # fmt: skip


def _by_row(study: Study, values: torch.Tensor, title: str, at: float) -> Curve:
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
