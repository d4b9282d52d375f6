"""The page of `graph_study`: the claims, the graph, and every table of the post in its form, with the share beside it."""

from torch import Tensor

from residscope.reproduce.graph.claims import SEED, cards, rank
from residscope.reproduce.graph.study import MAIN, Study
from residscope.views import Curve, Grid, Histogram, Line, Table, Text, View

ROWS = 8


def page(study: Study) -> list[View]:
    """Everything, in the order of the post."""
    views: list[View] = [_about(study), Grid(cards(study), columns=2, title="The post's claims, one by one")]
    views += [_next(study, name) for name in study.prompts]
    views += [study.graph.view(), _circuits(study)]
    for name in study.prompts:
        views += [_moved(study, number, name) for number in range(len(study.circuits))]
    return [*views, _alone(study), _texts(study), _dose(study), _provenance(study)]


def _about(study: Study) -> Text:
    p = study.provenance
    return Text(
        "Causal Graphs of GPT-2-Small's Residual Stream, taken again",
        [
            f"{p['model']} with {p['dictionaries']}. The graph is of “{''.join(study.prompts[MAIN])}”: each active feature is "
            "taken out by itself, exactly, and every feature of the next dictionary is read again at the last token. Its "
            f"strongest edges on paths make {len(study.circuits)} connected parts: the circuits. Seed {p['seed']}; "
            f"{p['seconds']:.0f} s on {p['threads']} thread(s).",
            "The post is of GPT-2-small with another set of dictionaries, from the embedding to the last layer. A claim that "
            "fails here failed on this model with these: it says nothing of that one.",
            "Change is in percentage points, as in the post; beside it, as its readers asked, as a share of the probability that "
            "the token had: -100 % is all of it.",
        ],
    )


def _next(study: Study, name: str) -> Table:
    before = study.before[name]
    top = before.topk(ROWS)
    seed = [f"{token!r} {p:.1%}" for token, p in SEED[name]] + [""] * ROWS
    rows = [
        [repr(study.tokens[i])[1:-1], float(p), seed[row]]
        for row, (p, i) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True))
    ]
    return Table(
        ["next token", "probability", "GPT-2-small, in the post"], rows, title=f"“{''.join(study.prompts[name])}”"
    )


def _circuits(study: Study) -> Table:
    rows = [[i + 1, id, ", ".join(map(str, of))] for i, one in enumerate(study.circuits) for id, of in one.items()]
    return Table(["circuit", "dictionary", "features"], rows, title="The connected parts of the graph")


def _moved(study: Study, number: int, name: str) -> View:
    """The post's two columns: what is likelier and less likely without the circuit; and the same of its control path."""
    before, cut = study.before[name], study.cuts[number, name]
    note = f"{cut.there} of its features are active here; p {rank(cut, before):.3g} beside random active features"
    title = f"“{''.join(study.prompts[name])[-40:]}” without circuit {number + 1}"
    return Grid(
        [
            _change(study, before, cut.after, title, note),
            _change(study, before, cut.placed, "without features 0, 1, ...", ""),
        ],
        columns=2,
    )


def _change(study: Study, before: Tensor, after: Tensor, title: str, note: str) -> Table:
    change = 100 * (after - before)
    up, down = change.argsort(descending=True)[:ROWS].tolist(), change.argsort()[:ROWS].tolist()
    share = 100 * (after / before - 1)

    def token(i: int) -> str:
        return repr(study.tokens[i])[1:-1]

    rows = [
        [token(i), float(change[i]), token(j), float(change[j]), float(share[j])] for i, j in zip(up, down, strict=True)
    ]
    columns = ["upweighted", "points", "downweighted", "points ", "% of it"]
    return Table(columns, rows, title=title, note=note)


def _alone(study: Study) -> Table:
    before = study.before[MAIN]
    top = int(before.argmax())
    rows = []
    for i, one in enumerate(study.only):
        likeliest = int(one.argmax())
        rows.append([i + 1, float(one[top]), float(one[top] / before[top]), repr(study.tokens[likeliest])[1:-1]])
    token = repr(study.tokens[top])
    return Table(
        ["circuit kept", f"P({token})", "share left", "says"], rows, title="Everything else that is active taken out"
    )


def _texts(study: Study) -> Histogram:
    values = {f"circuit {i + 1}": one for i, one in enumerate(study.kl)}
    return Histogram(values, bins=40, title="Random texts without it", x_title="KL of the next token", unit="nats")


def _dose(study: Study) -> Curve:
    label, x, y = study.dose
    return Curve(x.tolist(), [Line(label, y.tolist())], title="Other coefficients", x_title="coefficient of the source")


def _provenance(study: Study) -> Table:
    rows = [[name, x if isinstance(x, int | float | str) else str(x)] for name, x in study.provenance.items()]
    return Table(["what", "value"], rows, title="Provenance")
