"""The ways in to an edited run: each takes a case and says, value by value, what the reference has and what came."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

import residscope as rs
from attack.cases import Case, World, world
from attack.meaning import HELD, Values, position_axis
from residscope import edits
from residscope.engine.windows import Window
from residscope.methods._lib.answers import answer_diffs
from residscope.model.prompts import PromptSet
from tiny_models import VOCAB

TOLERANCE = 4e-6  # float64, but many stock families norm or softmax in float32 whatever the model's dtype
SINGLE = 2e-5  # what a door gives as float32
MARGIN = 1e-4  # experts whose logits are nearer than this may be picked either way


@dataclass(frozen=True)
class Seen:
    """One value of a door: what it is of, what the reference has, what came."""

    what: str
    expected: Tensor
    got: Tensor
    tolerance: float = TOLERANCE

    @property
    def error(self) -> float:
        """The largest difference, by the largest value expected."""
        a, b = self.expected.double(), self.got.double()
        if a.shape != b.shape:
            return float("inf")
        error = (a - b).abs().max() / max(1e-2, float(a.abs().max()))
        return float(error) if torch.isfinite(error) else float("inf")

    @property
    def wrong(self) -> bool:
        return not self.error <= self.tolerance


Door = Callable[[Case, Random], Iterator[Seen]]


class Unfit(Exception):
    """The case cannot go through this door, or its value is not determined."""


# ── the reference, and values beside it ─────────────────────────────────────────────────────────────────────────


def expected(case: Case, **also: Any) -> list[Values]:
    """The reference's values of a case. Raises Unfit where experts are picked by next to nothing."""
    w = world(case.family)
    found = w.reference.runs(case.rows, case.stack, **also)
    if w.wiring.mixture:
        k = w.wiring.hf.config.num_experts_per_tok
        for values in found:
            for layer in range(w.wiring.n_layers):
                ordered = values[f"router.{layer}"].sort(-1, descending=True).values
                if float((ordered[..., k - 1] - ordered[..., k]).min()) < MARGIN:
                    raise Unfit("experts that tie")
    return found


def beside(w: World, site: str, values: Sequence[Values], got: Tensor, *, first: int = 0) -> Iterator[Seen]:
    """A site's value of each row, where there are tokens, from position `first` on."""
    site = w.wiring.canonical(site)
    axis = position_axis(w.wiring, site)
    for row, own in enumerate(values):
        a = own[site].narrow(axis, first, own[site].shape[axis] - first)
        b = got[row : row + 1].narrow(axis, 0, a.shape[axis]) if got.shape[axis] >= a.shape[axis] else got
        if "key" in w.wiring.axes(site):
            b = b[..., : a.shape[-1]]
        if site.startswith("scores"):
            a, b = comparable_scores(w, a.double(), b.double())
        yield Seen(f"{site} of row {row}", a, b)


def comparable_scores(w: World, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Scores where something is seen; those of MPT less their largest, since its slopes count from the batch's end."""
    hidden = a < -1e30
    if w.wiring.family.name == "mpt":
        a, b = (x - x.masked_fill(hidden, -1e30).amax(-1, keepdim=True) for x in (a, b))
    return a.masked_fill(hidden, 0.0), b.masked_fill(hidden, 0.0)


def rows_of(case: Case) -> list[list[int]]:
    return [list(row) for row in case.rows]


def some(w: World, rng: Random, n: int) -> list[str]:
    every = w.wiring.every()
    return rng.sample(every, min(n, len(every)))


# ── the doors ───────────────────────────────────────────────────────────────────────────────────────────────────


def run(case: Case, rng: Random) -> Iterator[Seen]:
    """`model.run` with sites captured."""
    w, values = world(case.family), expected(case)
    sites = w.wiring.every() if rng.random() < 0.3 else [*some(w, rng, 6), "logits"]
    record = w.model.run(rows_of(case), sites, edits=case.edits())
    for site in sites:
        yield from beside(w, site, values, record[site])


def lazy(case: Case, rng: Random) -> Iterator[Seen]:
    """Sites that were not captured, recomputed when they are read."""
    w, values = world(case.family), expected(case)
    record = w.model.run(rows_of(case), _held(w, rng), edits=case.edits())
    for site in ["logits", *some(w, rng, 6)]:
        yield from beside(w, site, values, record[site])


def _held(w: World, rng: Random) -> Any:
    return rng.choice(
        [["resid_pre", "resid_post"], [f"resid_pre.{rng.randrange(w.wiring.n_layers)}"], some(w, rng, 2), []]
    )


def saved(case: Case, rng: Random) -> Iterator[Seen]:
    """A recording saved and loaded, then read."""
    w, values = world(case.family), expected(case)
    record = w.model.run(rows_of(case), _held(w, rng), edits=case.edits())
    again = _there_and_back(w, record)
    for site in ["logits", *some(w, rng, 6)]:
        yield from beside(w, site, values, again[site])


def _there_and_back(w: World, record: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        rs.save_recording(record, Path(folder) / "run.safetensors")
        return rs.load_recording(Path(folder) / "run.safetensors", w.model)


def written(case: Case, rng: Random) -> Iterator[Seen]:
    """The run's edits as JSON, or in a file, and back."""
    w, values = world(case.family), expected(case)
    record = w.model.run(rows_of(case), ["logits"], edits=case.edits())
    if rng.random() < 0.5:
        back = edits.from_json(edits.to_json(record.edits))
    else:
        with tempfile.TemporaryDirectory() as folder:
            edits.save(Path(folder) / "edits.safetensors", record.edits)
            back = edits.load(Path(folder) / "edits.safetensors")
    sites = ["logits", *some(w, rng, 4)]
    again = w.model.run(rows_of(case), sites, edits=back)
    for site in sites:
        yield from beside(w, site, values, again[site])


def window(case: Case, rng: Random) -> Iterator[Seen]:
    """A window of an unedited run, from the first layer and position that the edits can change."""
    w, values = world(case.family), expected(case)
    wiring = w.wiring
    layers, places = [], []
    for spec in case.stack:
        if spec["kind"] == "overlay":
            layers.append(_layer_of_module(w, spec["site"]))
            places.append(0)
            continue
        layers += [_first_layer(w, site) for site in wiring.expand(spec["site"])]
        pos = spec.get("pos", [0])
        places += [p + len(row) if p < 0 else p for p in pos for row in case.rows]
    start, first = rng.randint(0, min(layers)), rng.randint(0, min(places))
    base = w.model.run(rows_of(case), rng.choice([["resid_pre", "resid_post"], []]))
    sites = ["logits"] + [s for s in some(w, rng, 6) if s not in ("embed", "pos_embed") and _first_layer(w, s) > start]
    held = rng.choice([sites, ["logits"], [f"resid_post.{w.wiring.n_layers - 1}"]])
    record = w.model.run(rows_of(case), held, edits=case.edits(), window=Window(base, start, None, first))
    if rng.random() < 0.3:
        record = _there_and_back(w, record)
    for site in sites:
        if all(len(row) > first for row in case.rows):
            yield from beside(w, site, values, record[site], first=first)


def _first_layer(w: World, site: str) -> int:
    if site in ("embed", "pos_embed"):
        return 0
    return int(site.partition(".")[2]) if "." in site else w.wiring.n_layers


def _layer_of_module(w: World, path: str) -> int:
    blocks = w.wiring.family.blocks + "."
    if path.startswith(blocks):
        return int(path.removeprefix(blocks).partition(".")[0])
    return w.wiring.n_layers if path == w.wiring.family.unembed else 0


class AtEnd:
    """A readout of a site at each row's own end."""

    def __init__(self, w: World, site: str) -> None:
        self.sites, self.wiring = (site,), w.wiring

    def __call__(self, recording: Any) -> Tensor:
        value = recording[self.sites[0]].movedim(position_axis(self.wiring, self.sites[0]), 1)
        return torch.stack([value[row, recording.index(-1, row)] for row in range(len(value))])

    def of(self, values: Sequence[Values]) -> Tensor:
        site = self.wiring.canonical(self.sites[0])
        return torch.stack([own[site].select(position_axis(self.wiring, site), -1)[0] for own in values])


def _sweep(case: Case, rng: Random, background: int, cells: Sequence[Sequence[int]]) -> Iterator[Seen]:
    w, held = world(case.family), case.stack[:background]
    readout, of = a_readout(w, case, rng)
    made = case.edits()
    plan = rs.sweep(
        w.model, rows_of(case), [tuple(made[i] for i in cell) for cell in cells], readout, background=made[:background]
    )
    result = plan.run(progress=False)
    for number, cell in enumerate(cells):
        stack = (*held, *(case.stack[i] for i in cell))
        values = expected(Case(case.family, case.rows, stack))
        wanted = of(values)
        name = f"{readout.sites[0] if isinstance(readout, AtEnd) else type(readout).__name__} of cell {number}: {list(cell)}"
        got = torch.as_tensor(result.values)[number]
        yield Seen(name, wanted, got.reshape(wanted.shape))
    wanted = of(expected(Case(case.family, case.rows, held)))
    yield Seen("the baseline", wanted, plan.baseline().reshape(wanted.shape))


def cell(case: Case, rng: Random) -> Iterator[Seen]:
    """A sweep with the stack as one cell, and parts of it as others."""
    every = range(len(case.stack))
    parts = [tuple(i for i in every if _drawn(case, i, part) < 0.5) for part in ("a", "b")]
    yield from _sweep(case, rng, 0, [tuple(every), *[part for part in parts if part]])


def background(case: Case, rng: Random) -> Iterator[Seen]:
    """A sweep with the first edits in the background of all cells."""
    here = sum(_drawn(case, i, "background") < 0.5 for i in range(len(case.stack)))
    if not 0 < here < len(case.stack):
        here = len(case.stack) // 2
    if not here:
        raise Unfit("one edit")
    rest = range(here, len(case.stack))
    part = tuple(i for i in rest if _drawn(case, i, "a") < 0.5)
    yield from _sweep(case, rng, here, [tuple(rest), *([part] if part else [])])


def _drawn(case: Case, number: int, what: str) -> float:
    """A number of an edit's own, whichever others are left out."""
    return Random(f"{case.seed} {case.marks[number]} {what}").random()


def a_readout(w: World, case: Case, rng: Random) -> tuple[Any, Callable[[Sequence[Values]], Tensor]]:
    """A metric or a site, and the same of the reference's values."""
    which = rng.choice(["logit_diff", "log_prob", "kl", "loss", "site", "logits"])
    a, b = rng.randint(2, VOCAB - 1), rng.randint(2, VOCAB - 1)
    if which in ("site", "logits"):
        sites = [s for s in w.wiring.every() if "key" not in w.wiring.axes(s)]
        ends = [s for s in sites if "." not in s and s not in ("embed", "pos_embed")]
        readout = AtEnd(w, "logits" if which == "logits" else rng.choice(ends if rng.random() < 0.4 else sites))
        return readout, readout.of
    if which == "logit_diff":
        pos = -1 if rng.random() < 0.7 else rng.randint(0, min(map(len, case.rows)) - 1)
        return rs.logit_diff(a, b, pos=pos), lambda values: _at(values, pos)[:, a] - _at(values, pos)[:, b]
    if which == "log_prob":
        return rs.log_prob(a), lambda values: _at(values, -1).log_softmax(-1)[:, a]
    if which == "kl":
        base = w.model.run(rows_of(case), ["logits"])
        plain = [w.reference.unedited(row) for row in case.rows]

        def divergence(values: Sequence[Values]) -> Tensor:
            p, q = _at(plain, -1).log_softmax(-1), _at(values, -1).log_softmax(-1)
            return (p.exp() * (p - q)).sum(-1)

        return rs.kl(base), divergence
    return rs.loss(), lambda values: torch.stack([_loss(row, own) for row, own in zip(case.rows, values, strict=True)])


def _at(values: Sequence[Values], pos: int) -> Tensor:
    return torch.stack([own["logits"][0, pos] for own in values])


def _loss(row: Sequence[int], own: Values) -> Tensor:
    return torch.nn.functional.cross_entropy(own["logits"][0, :-1], torch.tensor(row[1:]))


def metrics(case: Case, rng: Random) -> Iterator[Seen]:
    """A metric, or a site's value, as the readout of a run, and of a recording of the stream alone."""
    w, values = world(case.family), expected(case)
    readout, of = a_readout(w, case, rng)
    wanted, record = of(values), w.model.run(rows_of(case), [], edits=case.edits(), readout=readout)
    yield Seen("as readout", wanted, record.readout.reshape(wanted.shape))
    later = readout(w.model.run(rows_of(case), edits=case.edits()))
    yield Seen("of the recording", wanted, later.reshape(wanted.shape))


def generate(case: Case, rng: Random) -> Iterator[Seen]:
    """Tokens one by one: each the likeliest of the reference's run on the prompt grown so far."""
    w, new = world(case.family), 3
    times = [_time(case, i) for i in range(len(case.stack))]
    joining = [i for i, spec in enumerate(case.stack) if spec["kind"] in ("isolate", "path")]
    if len(joining) > 1:  # which of them stands first is then the same at the prompt and after it
        once = "prompt" if "prompt" in {times[i] for i in joining} else "both"
        times = [once if i in joining else time for i, time in enumerate(times)]
    stack = tuple(spec | {"at": time} for spec, time in zip(case.stack, times, strict=True))
    same = len({*times}) == 1 and rng.random() < 0.5
    stream = w.model.generate(rows_of(case), case.edits(), new, at=times[0] if same else times, stop=())
    grown, prompts = rows_of(case), [len(row) for row in case.rows]
    came = [list(stream.rows[row].tokens) for row in range(len(grown))]
    for step in range(new):
        values = expected(Case(case.family, tuple(map(tuple, grown)), stack), prompts=prompts)
        for row, own in enumerate(values):
            log_probs, token = own["logits"][0, -1].log_softmax(-1), came[row][step]
            what = f"token {step} of row {row}, at {times}"
            yield Seen(f"{what}: its log_prob", log_probs[token.id], torch.tensor(token.log_prob))
            yield Seen(f"{what}: the likeliest", log_probs.max(), log_probs[token.id])
            grown[row].append(token.id)


def _time(case: Case, number: int) -> str:
    """Where in a generation an edit acts: an overlay everywhere, what holds other runs' values not at new tokens."""
    spec, drawn = case.stack[number], _drawn(case, number, "time")
    if spec["kind"] == "overlay":
        return "both"
    if spec.get("by") == "position" and spec.get("pos") is None:
        return "prompt"  # there is no mean at the positions of new tokens
    if spec["kind"] in HELD or spec.get("pos") is not None:
        return "both" if drawn < 0.6 else "prompt"
    return "both" if drawn < 0.5 else "prompt" if drawn < 0.75 else "new"


def answers(case: Case, rng: Random) -> Iterator[Seen]:
    """`answer_diffs` with the stack as a cell beside another."""
    w, values = world(case.family), expected(case)
    pairs = tuple((rng.randint(2, VOCAB - 1), rng.randint(2, VOCAB - 1)) for _ in case.rows)
    data = PromptSet(tuple(case.rows), answers=pairs)
    got = answer_diffs(w.model, data, [(), tuple(case.edits())])
    last = _at(values, -1)
    plain = _at([w.reference.unedited(row) for row in case.rows], -1)
    for name, logits, found in (("the stack", last, got[1]), ("no edits", plain, got[0])):
        wanted = torch.stack([own[a] - own[b] for own, (a, b) in zip(logits, pairs, strict=True)])
        yield Seen(name, wanted, found, max(SINGLE, SINGLE * float(logits.abs().max() / max(1e-2, wanted.abs().max()))))


DOORS: dict[str, Door] = {
    "run": run, "lazy": lazy, "saved": saved, "written": written, "window": window, "cell": cell, "background": background,
    "metrics": metrics, "generate": generate, "answers": answers,
}  # fmt: skip
