"""The files of version 0.1 that the library writes, with numbers that plain transformers and plain algebra give."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import residscope as rs
from attack.cases import as_edit
from attack.reference import Reference
from kept import things
from residscope import directions, edits
from residscope.engine.model import Model
from residscope.methods._lib.controls import as_far
from residscope.methods.probes.das import Das
from residscope.probes.lrqp import random_control

CLOSE = 1e-4  # of the greatest logit: float32 against the reference's float64
SHOWN = 24  # logits of a prompt's end that are written down
RUN = [
    {"kind": "scale", "site": "mlp_out.0", "factor": 1.5},
    {"kind": "steer", "site": "resid_pre.1", "direction": things.direction(3), "strength": 4.0, "unit": "norm", "pos": [1]},
    {"kind": "freeze", "site": "norms"},
    {"kind": "patch", "site": "attn_out.2", "source": [things.MORE[1][:6]], "align": {1: 2, 3: 3}},
    {"kind": "ablate", "site": "z.1", "to": "mean", "over": things.MORE, "head": [1]},
]  # fmt: skip
LATE = [{"kind": "ablate", "site": "z.2", "head": [1], "to": "zero"}]


def ends(values: Any, key: str = "logits") -> list[list[float]]:
    """The first logits of each prompt's end."""
    return [rounded(value[key][0, -1, :SHOWN]) for value in values]


def rounded(x: Tensor) -> list[Any]:
    return [float(f"{number:.9g}") for number in x.double().flatten().tolist()]


def check(found: Tensor, wanted: list[Any], what: str) -> None:
    there = torch.tensor(wanted, dtype=torch.float64)
    gap = float((found.double() - there).abs().max() / there.abs().max())
    print(f"{what}: {gap:.1e} of {float(there.abs().max()):.3g}")
    assert gap < CLOSE, f"{what}: today's code is {gap} of them from the reference"


def make(model: Model, folder: Path) -> dict[str, Any]:
    reference = Reference(copy.deepcopy(model.hf).double())
    return {
        "recording": recordings(model, reference, folder),
        "edits": stacks(model, reference, folder),
        "probe": probes(model, reference, folder),
        "dictionaries": dictionaries(model, folder),
        "direction": bare_direction(folder),
        "result": result(folder),
    }


def recordings(model: Model, reference: Reference, folder: Path) -> dict[str, Any]:
    rows = things.ROWS
    prompts = rs.PromptSet(tuple(map(tuple, rows)), answers=((10, 60), (11, 61), (12, 62)))
    stack = [as_edit(spec, model, rows) for spec in RUN]
    run = model.run(prompts, ["resid_pre", "z.1", "pattern.2"], edits=stack, readout=rs.log_prob(7))
    values = reference.runs(rows, RUN)
    at = [len(row) - 1 for row in rows]
    found = torch.stack([run.logits[i, p, :SHOWN] for i, p in enumerate(at)])
    check(found, ends(values), "the recording")
    rs.save_recording(run, folder / "recording.safetensors")
    base = model.run(rows, edits=stack[:1])
    once = model.run(rows, window=rs.Window(base, start=1, pos=2), edits=[as_edit(LATE[0], model, rows)])
    late = reference.runs(rows, [RUN[0], *LATE])
    check(torch.stack([once.logits[i, p - 2, :SHOWN] for i, p in enumerate(at)]), ends(late), "the window")
    rs.save_recording(once, folder / "window.safetensors")
    log_probs = [float(v["logits"][0, -1].log_softmax(-1)[7]) for v in values]
    return {
        "rows": rows,
        "answers": [[10, 60], [11, 61], [12, 62]],
        "logits": ends(values),
        "log_prob of 7": log_probs,
        "resid_pre.2 at 1": [rounded(v["resid_pre.2"][0, 1]) for v in values],
        "z.1 at 2": [rounded(v["z.1"][0, 2]) for v in values],
        "attn_out.2 at 3": [rounded(v["attn_out.2"][0, 3]) for v in values],
        "window": {
            "start": 1,
            "pos": 2,
            "logits": ends(late),
            "resid_pre.1 of its base": rounded(late[0]["resid_pre.1"][0, 2]),
        },
    }


def stacks(model: Model, reference: Reference, folder: Path) -> dict[str, Any]:
    one, made, numbers = [things.ONE], [], {}
    plain = ends(reference.runs(one, []))[0]
    for name, spec in things.SPECS.items():
        under = [things.UNDER_FREEZE] if spec["kind"] == "freeze" else []
        edit = as_edit(spec, model, one)
        edit = edit.prepare(model) if "over" in spec else edit
        wanted = ends(reference.runs(one, [*under, spec]))[0]
        stack = [*(as_edit(part, model, one) for part in under), edit]
        check(model.run(one, edits=stack).logits[0, -1, :SHOWN], wanted, name)
        alone = ends(reference.runs(one, under))[0] if under else plain
        assert max(abs(a - b) for a, b in zip(alone, wanted, strict=True)) > 1e-3, f"{name} changes nothing"
        numbers[name] = {"kind": spec["kind"], "site": edit.site, "label": edit.label, "logits": wanted}
        made.append(edit)
    edits.save(folder / "edits.safetensors", made)
    (folder / "edits.json").write_text(edits.to_json(made))
    return {"tokens": things.ONE, "unedited": plain, "under a freeze": {**things.UNDER_FREEZE}, "each": numbers}


# ── probes, and the edits made from them ────────────────────────────────────────────────────────────────────────


def probes(model: Model, reference: Reference, folder: Path) -> dict[str, Any]:
    data = rs.tasks.from_text(model, things.TABLE, name="made.csv")
    probe = rs.fit_probe(model, data, site="resid_pre.2", position="KEY", label="kind")
    probe = replace(probe, provenance={**probe.provenance, "note": "kept for good"})
    probe.save(folder / "probe.safetensors")
    pos = len(things.ONE) - 1
    x = reference.runs([things.ONE], [])[0]["resid_pre.2"][0, pos]
    a, c = probe.weights[1] - probe.weights[0], float(probe.bias[1] - probe.bias[0])
    unit, now = a / a.norm(), float(a @ x) + c
    sigma, delta = probe.covariance, probe.class_means[1] - probe.class_means[0]
    step = sigma @ a / (a @ sigma @ a)
    own, mean = probe.class_means[int(now > 0)], probe.mean
    u = things.vectors(1, 9)[0] / things.vectors(1, 9)[0].norm()
    inverse = torch.linalg.inv(sigma)
    wanted = "ba"[int(now > 0)]
    sign = 1.0 if wanted == "b" else -1.0
    there = probe.class_means[int(wanted == "b")]
    lrqp = rs.lrqp(probe, to=wanted, alpha=30.0, pos=[pos])
    moved = x + step * sign * max(0.0, math.log(30.0) - sign * now)
    length = float((moved - x) @ inverse @ (moved - x)) ** 0.5
    control, far = random_control(lrqp, probe, seed=1), as_far(lrqp, probe, seed=2)
    assert control.instead is not None
    cases = {
        "lrqp": (lrqp, moved),
        "lrqp, neutral": (rs.lrqp(probe, to="neutral", pos=[pos]), x + step * (float(a @ mean) + c - now)),
        "lrqp, as far at random": (control, x + length * control.instead),
        "mean difference": (rs.concepts.mean_difference(probe, to=wanted, pos=[pos]), x + there - own),
        "project out": (rs.concepts.project_out(probe, pos=[pos]), x - ((x - mean) @ unit) * unit),
        "project out, to a class": (
            rs.concepts.project_out(probe, to=wanted, pos=[pos]),
            x - ((x - mean) @ unit) * unit + ((there - mean) @ unit) * unit,
        ),
        "constant dose": (rs.concepts.constant_dose(probe, to=wanted, dose=3.0, pos=[pos]), x + 3.0 * sign * unit),
        "leace": (
            rs.concepts.leace(probe, pos=[pos]),
            x - delta * float(delta @ inverse @ (x - mean)) / float(delta @ inverse @ delta),
        ),
        "das": (Das(u, (), probe).edit(wanted, pos=[pos]), x + u * float(there @ u - u @ x)),
        "as far": (far, x + length * far.direction),
    }  # fmt: skip
    numbers, plain = {}, ends(reference.runs([things.ONE], []))[0]
    for name, (edit, to) in cases.items():
        written = {"kind": "ablate", "site": "resid_pre.2", "pos": [pos], "to": to}
        logits = ends(reference.runs([things.ONE], [written]))[0]
        check(model.run([things.ONE], edits=[edit]).logits[0, -1, :SHOWN], logits, name)
        assert max(abs(p - q) for p, q in zip(plain, logits, strict=True)) > 1e-2, f"{name} changes nothing"
        numbers[name] = {"kind": edit.kind, "label": edit.label, "logits": logits}
    edits.save(folder / "probe-edits.safetensors", [edit for edit, _ in cases.values()])
    probability = 1 / (1 + math.exp(-now))
    return {
        "tokens": things.ONE, "x": rounded(x), "P(b)": probability, "classes": [*probe.classes], "accuracy": probe.accuracy,
        "interval": [*probe.interval], "counts": [*probe.counts], "C": probe.C, "weights": rounded(probe.weights[0, :6]),
        "mean": rounded(probe.mean[:6]), "edits": numbers,
    }  # fmt: skip


# ── directions, results ─────────────────────────────────────────────────────────────────────────────────────────


def dictionaries(model: Model, folder: Path) -> dict[str, Any]:
    text = things.TEXT["text"].split("\n\n")
    made = [
        rs.pca(model, text, "resid_post.1", 3, tokens=1000),
        rs.pca(model, text, "z.1", 2, head=2, tokens=1000, standardise=True),
        rs.svd(model, text, "attn_out.1", 2, tokens=1000),
        rs.nmf(model, text, "mlp_post.2", 2, tokens=1000, clip=True),
        rs.mean_difference(model, {"one": text, "two": [t.upper() for t in text]}, "resid_pre.1", tokens=1000),
        rs.unembedding_rows(model, [" Mary", " John"]),
        rs.Dictionary(
            "by hand", "resid_mid.1", *things.vectors(8, 17).float().view(2, 4, things.D), things.vectors(1, 18)[0].float(),
            names=("a", "b", "ç", "d"), sd=torch.tensor([1.0, 2.0, 3.0, 4.0]), provenance={"made": ["by", {"hand": 1}]},
        ),
    ]  # fmt: skip
    directions.save(folder / "dictionaries.safetensors", made, model)
    directions.save(folder / "dictionaries-half.safetensors", made[:1], model, dtype=torch.float16)
    numbers = {}
    for id, d in directions.files.by_id(made).items():
        x = torch.linspace(-1, 1, d.read.shape[1])
        numbers[id] = {
            "n": len(d), "site": d.site, "head": d.head, "space": d.space, "names": d.names and [*d.names],
            "provenance": json.loads(json.dumps(dict(d.provenance))), "read @ ramp": rounded(d.read @ x),
            "write @ ramp": rounded(d.write @ x), "mean @ ramp": float(d.mean @ x), "first": rounded(d.read[0, :4]),
            "sd": None if d.sd is None else rounded(d.sd), "variance": None if d.variance is None else rounded(d.variance),
        }  # fmt: skip
    return numbers


def bare_direction(folder: Path) -> dict[str, Any]:
    """As another program writes it: no hash, no model."""
    read = torch.linspace(-1, 1, things.D)
    facts = {"name": "somebody's own", "site": "resid_pre.1", "offset": "0.25"}
    save_file({"read": read}, folder / "direction-of-another-program.safetensors", metadata=facts)
    return {"another program's": {**facts, "norm": float(read.norm())}}


def result(folder: Path) -> dict[str, Any]:
    values = torch.tensor([[0.0, 1.5, -2.25], [math.nan, 0.5, 1e-3]], dtype=torch.float64)
    rs.Result(
        values, ("layer", "pos"), coords={"layer": (3, 7), "pos": (0, 1, 2), "token": ("Then", " Mary", " John")},
        along={"token": "pos"}, name="logit difference", low=values - 0.5, high=values + 0.25, exact="first order",
        provenance={"method": "kept", "seed": 4, "prompts": ["ünïcode"], "nested": {"a": [1, None, True]}},
    ).save(folder / "result.safetensors")  # fmt: skip
    rs.Result(torch.tensor([1, 2, 3]), ("x y",), coords={"x y": ("a", "b", 3)}).save(folder / "counts.safetensors")
    return {}
