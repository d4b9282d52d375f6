"""Random cases: a family, prompts of unequal length, and a stack of edits, each as plain data and as residscope has it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import torch
from families import FAMILIES
from torch import Tensor

from attack.reference import Reference
from attack.wiring import Wiring
from residscope import directions, edits
from residscope.engine.model import Model
from residscope.model.prompts import PromptSet
from residscope.model.sites import KINDS as SITES
from tiny_models import VOCAB

Rows = tuple[tuple[int, ...], ...]
SENDERS = ("embed", "pos_embed", "z", "attn_out", "mlp_out")
RECEIVERS = ("q", "k", "v", "mlp_in", "final_norm")
SQUARE = ("scores", "pattern")


@dataclass(frozen=True)
class Case:
    """What is run: prompts of one family, and edits as plain data."""

    family: str
    rows: Rows
    stack: tuple[Mapping[str, Any], ...]
    seed: str = ""
    marks: tuple[int, ...] = ()  # where each edit stood when it was drawn, so that leaving one out moves no other

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", self.marks or tuple(range(len(self.stack))))

    def without(self, number: int) -> "Case":
        def left(parts: Any) -> Any:
            return parts[:number] + parts[number + 1 :]

        return replace(self, stack=left(self.stack), marks=left(self.marks))

    def edits(self) -> list[Any]:
        return [as_edit(spec, world(self.family).model, self.rows) for spec in self.stack]

    def __str__(self) -> str:
        lines = [f"family {self.family!r}, rows {[list(row) for row in self.rows]}, drawn by {self.seed}"]
        return "\n".join([*lines, *(f"  {shown(spec)}" for spec in self.stack)])


@dataclass(frozen=True)
class World:
    """One tiny model, as Residscope has it and as the reference has a copy of it."""

    model: Model
    reference: Reference

    @property
    def wiring(self) -> Wiring:
        return self.reference.wiring


@cache
def world(family: str) -> World:
    hf = FAMILIES[family].build()
    reference = Reference(hf)
    return World(Model(hf, name=family), reference)


def draw(seed: str, family: str | None = None) -> Case:
    """The case of a seed."""
    rng = Random(seed)
    family = family or rng.choice(sorted(FAMILIES))
    lengths = [rng.randint(3, 8) for _ in range(rng.randint(1, 3))]
    rows = tuple(_tokens(rng, n) for n in lengths)
    drawing = Drawing(rng, world(family).wiring, rows)
    stack: list[Mapping[str, Any]] = []
    for _ in range(rng.randint(1, 6)):
        kind = stack[-1]["kind"] if stack and rng.random() < 0.2 else rng.choice(sorted(GENERATORS))
        for _ in range(20):
            spec = GENERATORS[kind](drawing)
            if spec is not None and drawing.admit(spec | {"kind": kind}):
                stack.append(
                    {
                        name: part
                        for name, part in (spec | {"kind": kind}).items()
                        if part is not None and part is not False
                    }
                )
                break
    return Case(family, rows, tuple(stack), seed)


def _tokens(rng: Random, n: int) -> tuple[int, ...]:
    return tuple(rng.randint(2, VOCAB - 1) for _ in range(n))


class Drawing:
    """What has been drawn of a case so far: two edits that hold one site to other runs' values would clash."""

    def __init__(self, rng: Random, wiring: Wiring, rows: Rows) -> None:
        self.rng, self.wiring, self.rows = rng, wiring, rows
        self.torch = torch.Generator().manual_seed(rng.randrange(1 << 30))
        self._held: dict[str, str] = {}
        self._isolated: dict[str, Any] = {}
        self._drawn: list[str] = []

    def admit(self, spec: Mapping[str, Any]) -> bool:
        if spec["kind"] == "overlay":
            return True
        sites = self.wiring.expand(spec["site"])
        if spec["kind"] in ("freeze", "patch", "path", "resample"):
            clash = [s for s in sites if self._held.get(s, spec["kind"]) != spec["kind"] or spec["kind"] != "path"]
            if any(s in self._held for s in clash):
                return False
            self._held |= dict.fromkeys(sites, spec["kind"])
        if spec["kind"] == "isolate":
            to = spec["to"] if isinstance(spec["to"], str) and spec["to"] == "zero" else object()
            if any(self._isolated.get(s, to) != to for s in sites):
                return False
            self._isolated |= dict.fromkeys(sites, to)
        return True

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────

    def site(self, allowed: Callable[[str], bool] = lambda name: True, *, several: bool = False) -> str:
        met = [site for site in self._drawn if allowed(site.partition(".")[0]) and (several or "." in site)]
        if met and self.rng.random() < 0.3:
            return self.rng.choice(met)
        ends = [name for name in self.wiring.names if allowed(name) and not SITES[name].layered]
        names = [name for name in self.wiring.names if allowed(name)]
        name = self.rng.choice(ends if ends and self.rng.random() < 0.15 else names)
        if not SITES[name].layered or (several and self.rng.random() < 0.15):
            site = name
        else:
            site = f"{name}.{self.rng.randrange(self.wiring.n_layers)}"
        self._drawn.append(site)
        return site

    def places(self, site: str, *, pos: bool = True, index: bool = True) -> dict[str, Any]:
        """Heads, neurons and positions, or none."""
        axes, found = self.wiring.axes(site), dict[str, Any]()
        for word, axis in (("head", "head"), ("kv_head", "kv_head"), ("neuron", "d_mlp")):
            if index and axis in axes and self.rng.random() < 0.6:
                count = self.wiring.size(axis)
                found[word] = sorted(self.rng.sample(range(count), self.rng.randint(1, max(1, min(count - 1, 5)))))
        if pos and self.rng.random() < 0.55:
            found["pos"] = self.pos()
        return found

    def pos(self) -> list[int]:
        shortest = min(map(len, self.rows))
        pool = range(-shortest, shortest)
        return self.rng.sample(pool, self.rng.randint(1, 2))

    def numbers(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.torch, dtype=torch.float64)

    def width(self, site: str) -> int:
        return self.wiring.size(self.wiring.axes(site)[-1])

    def direction(self, site: str) -> dict[str, Any]:
        """A read and a write vector that overlap; one and the same for a plain vector."""
        d = self.width(site)
        read = self.numbers(d)
        vector = self.rng.random() < 0.3
        write = read if vector else read + 0.5 * self.numbers(d)
        space = "raw" if vector else self.rng.choice(["raw", "centred"])
        return {
            "read": read, "write": write, "vector": vector, "space": space,
            "offset": 0.0 if vector else self.rng.uniform(-1, 1), "scale": self.rng.uniform(0.3, 2),
        }  # fmt: skip

    def dictionary(self, site: str) -> dict[str, Any]:
        n, d = 4, self.width(site)
        read = self.numbers(n, d) / d**0.5
        return {"read": read, "write": read + 0.3 * self.numbers(n, d) / d**0.5, "mean": self.numbers(d)}

    def data(self, *, longer: bool) -> Rows:
        """Prompts of a data set; as long as the longest row, and longer, where resampling needs it."""
        longest = max(map(len, self.rows))
        low, high = (longest, longest + 2) if longer else (3, 8)
        return tuple(_tokens(self.rng, self.rng.randint(low, high)) for _ in range(self.rng.randint(2, 3)))

    def source(self, site: str, pos: list[int] | None) -> dict[str, Any]:
        """A source and an alignment that fits the rows."""
        rng, lengths = self.rng, [len(row) for row in self.rows]
        square = "key" in self.wiring.axes(site)
        one_sided = bool(pos) and len({p < 0 for p in pos}) == 1  # else -4 and 2 may be one position, from two
        if len(set(lengths)) > 1 and rng.random() < 0.15:  # as wide when padded, and yet each of another length
            others = rng.sample(lengths, len(lengths))
            fits = one_sided and all(-n <= p < n for p in pos or () for n in lengths)
            if fits or rng.random() < 0.3:
                return {"source": tuple(_tokens(rng, n) for n in others), "recorded": rng.random() < 0.5}
        same = square or rng.random() < 0.5
        if same:
            if len(set(lengths)) == 1 and rng.random() < 0.3:
                return {"source": (_tokens(rng, lengths[0]),)}
            found = {"source": tuple(_tokens(rng, n) for n in lengths), "recorded": rng.random() < 0.3}
            if found["recorded"] and rng.random() < 0.5:  # of an edited run, whose stream alone is held
                found["source_stack"] = (
                    {
                        "kind": "scale",
                        "site": f"mlp_out.{self.wiring.n_layers - 1}"
                        if "mlp_out" in self.wiring.names
                        else "attn_out.0",
                        "factor": 0.3,
                    },
                    {"kind": "scale", "site": "embed", "factor": 1.7},
                )
            return found
        longer = [_tokens(rng, max(3, n + rng.choice([-2, -1, 0, 1, 2]))) for n in lengths]
        if rng.random() < 0.3:
            longer = longer[:1]
        source = tuple(longer)
        if one_sided and all(-len(s) <= p < len(s) for p in pos or () for s in source) and rng.random() < 0.5:
            return {"source": source}
        align: Any = rng.choice(["prefix", "suffix", "pairs", "each", "names"])
        if align == "names" and len(source) == len(lengths):
            ends = [(n, len(s)) for n, s in zip(lengths, source, strict=True)]
            pairs = tuple({rng.randrange(n): rng.randrange(m), n - 1: m - 1} for n, m in ends)
            if len({len(row) for row in pairs}) == 1:
                return {"source": source, "align": pairs, "named": True, "recorded": rng.random() < 0.3}
            align = "prefix"
        elif align == "names":
            align = "suffix"
        if align == "pairs":
            align = {rng.randrange(min(lengths)): rng.randrange(min(map(len, source))) for _ in range(2)}
        elif align == "each":
            align = tuple({rng.randrange(n): rng.randrange(min(map(len, source)))} for n in lengths)
        return {"source": source, "align": align}


def _scale_like(name: str) -> bool:
    return name.endswith("_scale")


# ── one generator a kind ────────────────────────────────────────────────────────────────────────────────────────


def _ablate(d: Drawing) -> dict[str, Any]:
    to = d.rng.choice(["zero", "mean", "tensor", "tensor"])
    allowed = {
        "zero": lambda name: not _scale_like(name),
        "mean": lambda name: name not in (*SQUARE, "logits"),
        "tensor": lambda name: True,
    }[to]
    site = d.site(allowed, several=to == "zero")
    where = d.places(site)
    if to == "mean":
        by = "position" if d.rng.random() < 0.3 else None
        data = {"over": d.data(longer=by is not None), "recorded": d.rng.random() < 0.3}
        return {"site": site, "to": "mean", "by": by, **data, **where}
    if to == "zero":
        return {"site": site, "to": "zero", **where}
    axes = d.wiring.axes(site)
    if "key" in axes:  # one number, or one for each head
        value = d.numbers(*d.rng.choice([[1], [1, d.wiring.size("head"), 1, 1]])).abs()
        return {"site": site, "to": value, **where}
    own = [d.wiring.size(axis) for axis in axes[2:]]
    shapes = [[own[-1]], own, [1, 1, *own], [len(d.rows), 1, *own]]
    value = d.numbers(*d.rng.choice(shapes))
    return {"site": site, "to": value.abs() + 0.3 if _scale_like(site.partition(".")[0]) else value, **where}


def _resample(d: Drawing) -> dict[str, Any]:
    site = d.site(lambda name: name not in SQUARE, several=True)
    recorded = d.rng.random() < 0.3
    return {
        "site": site,
        "over": d.data(longer=True),
        "recorded": recorded,
        "seed": d.rng.randrange(9),
        **d.places(site),
    }


def _scale(d: Drawing) -> dict[str, Any]:
    site = d.site(several=True)
    name = site.partition(".")[0]
    low = 0.3 if _scale_like(name) else -1.5
    return {"site": site, "factor": round(d.rng.uniform(low, 1.5), 3), **d.places(site)}


def _steer(d: Drawing) -> dict[str, Any]:
    site = d.site(lambda name: name not in SQUARE and not _scale_like(name), several=True)
    direction = d.direction(site)
    unit = "norm" if direction["vector"] else d.rng.choice(["norm", "sd"])
    where = d.places(site)
    if len(where.get("head", ())) == 1 and not direction["vector"]:
        where["by_head"] = d.rng.random() < 0.5
    return {"site": site, "direction": direction, "strength": d.rng.uniform(-2, 2), "unit": unit, **where}


def _clamp(d: Drawing) -> dict[str, Any]:
    site = d.site(lambda name: name not in SQUARE and not _scale_like(name), several=True)
    direction = d.direction(site)
    space = None if direction["vector"] else d.rng.choice([None, "raw", "centred"])
    return {"site": site, "direction": direction, "value": d.rng.uniform(-2, 2), "space": space, **d.places(site)}


def _project_out(d: Drawing) -> dict[str, Any]:
    site = d.site(lambda name: name not in SQUARE and not _scale_like(name), several=True)
    many = d.rng.randint(1, min(3, d.width(site) - 1))
    return {"site": site, "directions": [d.direction(site) for _ in range(many)], **d.places(site)}


def _feature(d: Drawing) -> dict[str, Any]:
    site = d.site(lambda name: name not in SQUARE and not _scale_like(name))
    what = {"scale": d.rng.uniform(-1, 2)} if d.rng.random() < 0.5 else {"value": d.rng.uniform(-1, 1)}
    index = d.rng.sample(range(4), d.rng.randint(1, 2))
    return {"site": site, "dictionary": d.dictionary(site), "index": index, **what, **d.places(site)}


def _noise(d: Drawing) -> dict[str, Any]:
    site = d.site(several=True)
    sigma = 0.01 if _scale_like(site.partition(".")[0]) else 0.3
    return {"site": site, "sigma": sigma, "seed": d.rng.randrange(9), **d.places(site)}


def _freeze(d: Drawing) -> dict[str, Any]:
    if d.rng.random() < 0.3:
        return {"site": d.rng.choice(["norms", "patterns"])}
    site = d.site(several=True)
    return {"site": site, **d.places(site)}


def _patch(d: Drawing) -> dict[str, Any]:
    site = d.site(several=True)
    where = d.places(site)
    found = {"site": site, **d.source(site, where.get("pos")), **where}
    if (
        d.rng.random() < 0.3
        and "." in site
        and not _scale_like(site.partition(".")[0])
        and "key" not in d.wiring.axes(site)
    ):
        found |= {"dictionary": d.dictionary(site), "feature": d.rng.sample(range(4), 2)}
    return found


def _isolate(d: Drawing) -> dict[str, Any]:
    site = d.site(lambda name: name in ("q", "k", "v", "z", *SQUARE, "result"), several=True)
    word = "kv_head" if "kv_head" in d.wiring.axes(site) else "head"
    count = d.wiring.size(word)
    where: dict[str, Any] = {word: sorted(d.rng.sample(range(count), d.rng.randint(1, max(1, count - 1))))}
    if d.rng.random() < 0.3:
        where["pos"] = d.pos()
    if d.rng.random() < 0.25 and "." in site and "key" not in d.wiring.axes(site):
        by = "position" if d.rng.random() < 0.3 else None
        return {"site": site, "to": "mean", "by": by, "over": d.data(longer=by is not None), **where}
    return {"site": site, "to": "zero", **where}


def _path(d: Drawing) -> dict[str, Any] | None:
    names = set(d.wiring.names)
    read, written = d.rng.choice([r for r in RECEIVERS if r in names]), d.rng.choice([s for s in SENDERS if s in names])
    receiver = d.site(lambda name: name == read)
    sender = d.site(lambda name: name == written)
    if _when(sender, written=True) >= _when(receiver, "resid_mid" in names, n_layers=d.wiring.n_layers):
        return None
    heads = d.wiring.sizes.n_heads
    where = d.places(receiver)
    name = receiver.partition(".")[0]
    if name in ("k", "v"):
        where.pop("head", None)
    if sender.startswith("z.") and d.rng.random() < 0.8:
        where["sender_head"] = sorted(d.rng.sample(range(heads), d.rng.randint(1, 2)))
    return {"site": receiver, "sender": sender, **d.source(sender, where.get("pos")), **where}


def _when(site: str, mid: bool = True, *, written: bool = False, n_layers: int = 0) -> int:
    """Twice the layer, and one more for what comes after attention; a receiver reads all that is written before."""
    name, _, layer = site.partition(".")
    if not layer:
        return 2 * n_layers if not written else -1
    return 2 * int(layer) + (name == "mlp_out" if written else name == "mlp_in" and mid)


def _overlay(d: Drawing) -> dict[str, Any]:
    matrices = [
        n for n, m in d.wiring.hf.named_modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 2 and _whole(m)
    ]
    ends = [d.wiring.family.unembed, d.wiring.family.embed]
    path = d.rng.choice(ends) if d.rng.random() < 0.35 else d.rng.choice(matrices)
    module = d.wiring.module(path)
    first = isinstance(module, torch.nn.Embedding) or type(module).__name__ == "Conv1D"
    d_in, d_out = module.weight.shape if first else module.weight.shape[::-1]
    r = d.rng.randint(1, 2)
    return {"site": path, "A": d.numbers(d_in, r) * 0.3, "B": d.numbers(r, d_out) * 0.3}


def _whole(module: Any) -> bool:
    """A matrix of one product: not the gain of a norm with heads, nor a position table that a module indexes itself."""
    return (
        isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        or type(module).__name__ in ("Conv1D",)
        or "Router" in type(module).__name__
    )


GENERATORS: dict[str, Callable[[Drawing], dict[str, Any] | None]] = {
    "ablate": _ablate, "resample": _resample, "scale": _scale, "steer": _steer, "clamp": _clamp, "project_out": _project_out,
    "feature": _feature, "noise": _noise, "freeze": _freeze, "patch": _patch, "isolate": _isolate, "path": _path,
    "overlay": _overlay,
}  # fmt: skip


# ── the same as residscope has it, and as people read it ────────────────────────────────────────────────────────


def as_edit(spec: Mapping[str, Any], model: Model, prompts: Rows) -> Any:
    """The edit of the public library; its data as prompts, or as a recording that holds the stream alone."""
    kind, site = spec["kind"], spec["site"]
    where = {word: spec[word] for word in ("head", "kv_head", "neuron", "pos") if word in spec}
    rows: dict[str, Any] = {word: [list(row) for row in spec[word]] for word in ("over", "source") if word in spec}
    align = spec.get("align")
    if spec.get("named"):  # the same positions by their names in two prompt sets
        rows["source"], align = _named(spec, prompts)
    if spec.get("recorded"):
        under = [as_edit(part, model, prompts) for part in spec.get("source_stack", ())]
        rows = {word: model.run(data, edits=under) for word, data in rows.items()}
    if spec.get("by_head"):
        where.pop("head")
    if kind == "overlay":
        return edits.overlay(site, (spec["A"], spec["B"]))
    if kind == "ablate":
        return edits.ablate(site, spec["to"], over=rows.get("over"), by=spec.get("by"), **where)
    if kind == "resample":
        return edits.ablate(site, "resample", over=rows["over"], seed=spec["seed"], **where)
    if kind == "isolate":
        return edits.isolate(site, to=spec["to"], over=rows.get("over"), by=spec.get("by"), **where)
    if kind == "freeze":
        return edits.freeze(site, **where)
    if kind == "scale":
        return edits.scale(site, spec["factor"], **where)
    if kind == "noise":
        return edits.noise(site, spec["sigma"], spec["seed"], **where)
    if kind == "steer":
        return edits.steer(
            site, _direction(spec["direction"], site, spec), spec["strength"], unit=spec["unit"], **where
        )
    if kind == "clamp":
        return edits.clamp(
            site, _direction(spec["direction"], site, spec), spec["value"], space=spec.get("space"), **where
        )
    if kind == "project_out":
        return edits.project_out(site, [_direction(d, site) for d in spec["directions"]], **where)
    if kind == "feature":
        what = {word: spec.get(word) for word in ("scale", "value")}
        return edits.feature(_dictionary(spec["dictionary"], site), spec["index"], **what, site=site, **where)
    if kind == "patch":
        also = (
            {"feature": spec["feature"], "dictionary": _dictionary(spec["dictionary"], site)}
            if "feature" in spec
            else {}
        )
        return edits.patch(site, rows["source"], align=align, **also, **where)
    return edits.path(spec["sender"], site, rows["source"], sender_head=spec.get("sender_head"), align=align, **where)


def _named(spec: Mapping[str, Any], prompts: Rows) -> tuple[Any, Any]:
    """A source as a prompt set, and an alignment by the names of its positions."""
    pairs = spec["align"]
    names = range(len(pairs[0]))
    here = PromptSet(prompts, positions={f"p{i}": tuple([*row][i] for row in pairs) for i in names})
    there = PromptSet(spec["source"], positions={f"p{i}": tuple([*row.values()][i] for row in pairs) for i in names})
    return there, (here, there)


def _direction(d: Mapping[str, Any], site: str, spec: Mapping[str, Any] | None = None) -> Any:
    if d["vector"]:
        return d["read"]
    return directions.Direction(
        d["read"], d["write"], _one(site), offset=d["offset"], scale=d["scale"], space=d["space"],
        head=spec["head"][0] if spec and spec.get("by_head") else None,
    )  # fmt: skip


def _dictionary(d: Mapping[str, Any], site: str) -> Any:
    return directions.Dictionary("random", _one(site), d["read"], d["write"], d["mean"])


def _one(site: str) -> str:
    return site if "." in site or not SITES[site].layered else f"{site}.0"


def shown(spec: Mapping[str, Any]) -> str:
    """An edit in one line, tensors by their shapes."""

    def plain(x: Any) -> Any:
        if isinstance(x, Tensor):
            return f"<{'x'.join(map(str, x.shape))}>"
        if isinstance(x, Mapping):
            return {name: plain(part) for name, part in x.items() if name not in ("read", "write", "mean")}
        if isinstance(x, float):
            return round(x, 3)
        return [plain(part) for part in x] if isinstance(x, Sequence) and not isinstance(x, str) else x

    rest = {name: plain(part) for name, part in spec.items() if name not in ("kind", "site")}
    return f"{spec['kind']} {spec['site']} " + " ".join(f"{name}={part}" for name, part in rest.items())
