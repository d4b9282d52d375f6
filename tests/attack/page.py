"""The page's door: edits as the session's JSON, on one prompt, and a shared link's state there and back."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlencode

import torch
from safetensors.torch import load
from torch import Tensor

import residscope as rs
from attack.cases import SQUARE, Case, Drawing, World, world
from attack.doors import SINGLE, Seen, expected
from residscope.session import Session
from session.worlds import tokenizer

FAMILIES = ("gpt2", "llama", "granite", "olmo2", "stablelm, parallel")
SHOWN = ("label", "glyph", "delta", "inert", "error")


class PageDrawing(Drawing):
    """Directions that the page can name: tokens' logits and their differences."""

    def direction(self, site: str) -> dict[str, Any]:
        a, b = self.rng.sample(range(3, 90), 2)
        if self.rng.random() < 0.5:
            ref = {"kind": "token", "token": chr(a + 30)}
            read = logit_direction(self.wiring, a)
        else:
            ref = {"kind": "logit_diff", "positive": chr(a + 30), "negative": chr(b + 30)}
            read = logit_direction(self.wiring, a) - logit_direction(self.wiring, b)
        return {"read": read, "write": read, "vector": True, "space": "raw", "offset": 0.0, "scale": 1.0, "ref": ref}


def logit_direction(wiring: Any, token: int) -> Tensor:
    """The unembedding's column with the final norm's gain and the model's scale folded in, as the norm sees it."""
    final = wiring.module(wiring.family.final_norm)
    read = (final.weight + wiring.family.norm_gain_offset) * wiring.hf.lm_head.weight[token] * wiring.factors.logits
    return read - read.mean() if wiring.family.norm == "layer" else read


def _stream(name: str) -> bool:
    return name.startswith("resid") or name in ("embed", "attn_out", "mlp_out", "final_norm")


def _steer(d: PageDrawing) -> dict[str, Any]:
    site = d.site(_stream)
    return {
        "site": site,
        "direction": d.direction(site),
        "strength": d.rng.uniform(-2, 2),
        "unit": "norm",
        **d.places(site),
    }


def _project_out(d: PageDrawing) -> dict[str, Any]:
    site = d.site(_stream)
    return {"site": site, "directions": [d.direction(site)], **d.places(site)}


def _ablate(d: PageDrawing) -> dict[str, Any]:
    if d.rng.random() < 0.5:
        site = d.site(
            lambda name: not name.endswith("_scale"),
        )
        return {"site": site, "to": "zero", **d.places(site)}
    site = d.site(lambda name: name not in (*SQUARE, "logits"))
    return {"site": site, "to": "mean", "over": d.rows, **d.places(site)}


def _scale(d: PageDrawing) -> dict[str, Any]:
    site = d.site()
    return {"site": site, "factor": round(d.rng.uniform(0.3, 1.5), 3), **d.places(site)}


def _freeze(d: PageDrawing) -> dict[str, Any]:
    if d.rng.random() < 0.5:
        return {"site": d.rng.choice(["norms", "patterns"])}
    site = d.site()
    return {"site": site, **d.places(site)}


GENERATORS = {"ablate": _ablate, "scale": _scale, "steer": _steer, "project_out": _project_out, "freeze": _freeze}


def draw(seed: str) -> Case:
    rng = Random(f"{seed} page")
    family = rng.choice(FAMILIES)
    rows = (tuple(rng.randint(3, 90) for _ in range(rng.randint(3, 8))),)
    drawing, stack = PageDrawing(rng, world(family).wiring, rows), list[Mapping[str, Any]]()
    for _ in range(rng.randint(1, 5)):
        kind = rng.choice(sorted(GENERATORS))
        spec = GENERATORS[kind](drawing) | {"kind": kind}
        if drawing.admit(spec):
            stack.append(spec)
    return Case(family, rows, tuple(stack), seed)


def as_wire(spec: Mapping[str, Any]) -> dict[str, Any]:
    """An edit as the page sends it."""
    found = {
        name: spec[name] for name in ("kind", "site", "head", "kv_head", "neuron", "pos") if spec.get(name) is not None
    }
    if spec["kind"] == "ablate":
        found["to"] = spec["to"]
    elif spec["kind"] == "scale":
        found["factor"] = spec["factor"]
    elif spec["kind"] == "steer":
        found |= {"direction": spec["direction"]["ref"], "strength": spec["strength"], "unit": "norm"}
    elif spec["kind"] == "project_out":
        found["direction"] = spec["directions"][0]["ref"]
    return found


@cache
def loaded(family: str) -> Any:
    return rs.load((world(family).model.hf, tokenizer()))


def session(case: Case, rng: Random) -> Iterator[Seen]:
    """The last logits, the stream, and the readings of it that the page shows; then the same from a shared link."""
    w = world(case.family)
    (values,) = expected(case)
    text = "".join(chr(token + 30) for token in case.rows[0])
    of = loaded(case.family)
    opened = Session(load=lambda name, **_: of)
    try:
        opened.load(of)
        assert opened.wait(60)
        opened.intent("set_prompt", {"text": text})
        opened.intent("set_edits", {"edits": [as_wire(spec) for spec in case.stack]})
        assert opened.wait(60)
        yield from _shown(w, case, opened, values, rng)
        link = _link(opened.snapshot()[1])
        opened.intent("set_edits", {"edits": []})
        opened.intent("set_prompt", {"text": "other"})
        assert opened.wait(60)
        shared = json.loads(parse_qs(link)["share"][0])
        opened.intent("set_prompt", {"text": shared["prompt"], "bos": shared["bos"]})
        opened.intent("set_edits", {"edits": shared["edits"]})
        assert opened.wait(60)
        run = opened.state.run(opened.state.edited)
        yield Seen("the last logits, from a link", values["logits"][0, -1], run.last, SINGLE)
    finally:
        opened.close()


def _shown(w: World, case: Case, opened: Session, values: Any, rng: Random) -> Iterator[Seen]:
    state = opened.state
    problems = dict(state.problems)
    assert not problems, f"edits refused on the page: {problems}"
    run = state.run(state.edited)
    assert run is not None, "there is no edited run"
    logits, n = values["logits"][0], w.wiring.n_layers
    yield Seen("the last logits", logits[-1], run.last, SINGLE)
    (base,) = [w.reference.unedited(row) for row in case.rows]
    yield Seen("the unedited last logits", base["logits"][0, -1], state.run(state.baseline).last, SINGLE)
    stream = load(opened.reads.stream(run.id))
    rows = torch.stack(
        [values["resid_pre.0"][0], *(values[w.wiring.canonical(f"resid_post.{i}")][0] for i in range(n))]
    )
    yield Seen("the stream's norms", rows.norm(dim=-1), stream["norm"], SINGLE)
    p = logits.softmax(-1)
    shown = stream["next_p"]
    yield Seen("the likeliest next tokens", p.topk(shown.shape[-1]).values, shown, SINGLE)
    a, b = rng.sample(range(3, 90), 2)
    value = load(opened.reads.logits(run.id, positive=a, negative=b))["value"]
    wanted = logits[:, a] - logits[:, b]
    loose = max(SINGLE, SINGLE * float(logits.abs().max() / wanted.abs().max().clamp_min(1e-2)))
    yield Seen(f"the logit difference {a} - {b} at the end of the stream", wanted, value[-1], loose)


def _link(wire: Mapping[str, Any]) -> str:
    """A shared link's query, as web/src/state/share.ts writes it."""
    edits = [{name: part for name, part in edit.items() if name not in SHOWN} for edit in wire["edits"]]
    shared = {
        "model": wire["model"]["name"], "hash": wire["model"]["hash"], "prompt": wire["prompt"]["text"],
        "bos": wire["prompt"]["bos"], "metric": None, "edits": edits, "probes": [],
    }  # fmt: skip
    return urlencode({"share": json.dumps(shared)})
