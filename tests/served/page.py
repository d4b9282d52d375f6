"""The page of what looking finds: a row for each causal type; those refused, and those that are no decoders, with the reason."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

ATTENTION = ("q", "k", "v", "scores", "pattern", "z", "result")
NEURONS = ("mlp_pre", "mlp_gate", "mlp_post")
RESIDUAL = ("resid_pre", "resid_post")
OFTEN = (
    "q_scale", "k_scale", "attn_post_scale", "mlp_post_scale", "pos_embed", "mlp_gate", "router", "attn_scale", "mlp_scale",
)  # fmt: skip
PEERS = "TransformerLens has adapters by hand for 146 types, few of them verified; interp-engine for some 50."

Rows = Sequence[Mapping[str, Any]]


def read(path: Path) -> dict[str, Any]:
    """The rows of a file, each with what is absent by site; of a variant that says nothing of it, as in the type's first."""
    told: dict[str, Any] = json.loads(path.read_text())
    first: dict[str, dict[str, str]] = {}
    for row in told["rows"]:
        by_reason = row.get("absent")
        absent = None if by_reason is None else {site: why for why, sites in by_reason.items() for site in sites}
        row["absent"] = absent if absent is not None else first.get(row["type"], {})
        first.setdefault(row["type"], row["absent"])
    return told


def page(rows: Rows, apart: Mapping[str, str], about: Mapping[str, str]) -> str:
    """The page as Markdown."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["type"], []).append(row)
    served = {kind: of for kind, of in kinds.items() if any(r["served"] for r in of)}
    refused = {kind: of for kind, of in kinds.items() if kind not in served}
    several = sum(sum(r["served"] for r in of) > 1 for of in served.values())
    built = {kind: of for kind, of in refused.items() if any(r.get("built") for r in of)}
    runs = [r for of in served.values() for r in of if r["served"]]
    broken = {r["type"] for r in runs if r["broken"]}
    worst = max((r["worst"] for r in runs), default=0.0)
    counts = (
        f"Of the {len(kinds) + len(apart)} causal types of transformers {about['transformers']}, {len(apart)} are no decoders "
        f"of text; of the other {len(kinds)}, {len(served)} are served by looking alone, {several} of them in two configurations "
        f"or more: a tiny random copy of each is looked at, its description certified in float32 ({len(runs)} certificates; the "
        f"worst error of any check {worst:.1e}, of 1e-04 allowed), and the runs of its first configuration held to the "
        "properties below. No hand-written description is used."
    )
    made = (
        f"Made by `make found` with torch {about['torch']}, seed {about['seed']}; the numbers are in "
        "[families-found.json](families-found.json). `residscope families try TYPE --variants` shows one type."
    )
    properties = (
        "Properties (in float64, to 1e-04), on each that is served: sweeps (with and without positions) = a plain run for each "
        "cell and prompt; an edit of the stream = a plain hook on the block; sites recomputed = captured; a batch of unequal "
        "prompts = each alone; windows = whole runs; paths to the final norm = a plain hook on it, paths between layers = the "
        "same in a sweep; generation, with and without edits = whole runs. "
        f"They hold on {len(served) - len(broken)} of {len(served)} types"
        + (f"; not on {', '.join(sorted(broken))}." if broken else ".")
    )
    legend = (
        "Sites that have no module to stand in (norms, gates, routers, position vectors that a type lacks) are not listed here. "
        "*whole*: later positions run together with those before them. *fed*: blocks are given more than the stream, and each "
        "cell of a sweep runs by itself. † is described by hand as well: the tests hold the two to be one."
    )
    lines = ["# Families found by looking", ""]
    for words in (counts, PEERS, made, properties, "## Served", legend):
        lines += [fill(words, 120, break_on_hyphens=False), ""]
    lines += [
        "| type | configurations | attention sites | neurons | worst error | of note |",
        "|---|---|---|---|---|---|",
        *(_row(kind, of) for kind, of in sorted(served.items())),
        "",
        "## Refused",
        "",
        "| type | why |",
        "|---|---|",
        *(f"| `{kind}` | {_cut(of[0]['why'])} |" for kind, of in sorted(built.items())),
        "",
    ]
    if unbuilt := {kind: of for kind, of in refused.items() if kind not in built}:
        lines += ["No tiny copy could be built:", "", "| type | why |", "|---|---|"]
        lines += [f"| `{kind}` | {_cut(of[0]['why'])} |" for kind, of in sorted(unbuilt.items())] + [""]
    lines += ["## No decoders of text", "", "| type | why |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{kind}` | {why} |" for kind, why in sorted(apart.items())), ""])


def _row(kind: str, of: Rows) -> str:
    there = [r for r in of if r["served"]]
    mark = " †" if there[0]["file"] else ""
    configurations = ", ".join(r["variant"] for r in there)
    notes = ["whole"] * any(r["whole"] for r in there) + ["fed"] * any(r["fed"] for r in there)
    notes += [f"{r['variant']} refused: {_cut(r['why'], 160)}" for r in of if not r["served"]]
    notes += [f"{r['variant']}: {name}: {_cut(why, 120)}" for r in there for name, why in r["broken"].items()]
    worst = max(r["worst"] for r in there)
    return (
        f"| `{kind}`{mark} | {configurations} | {_sites(there[0], ATTENTION)} | {_sites(there[0], NEURONS)} | {worst:.0e} | "
        f"{'; '.join(notes)} |"
    )


def _sites(row: Mapping[str, Any], names: Iterable[str]) -> str:
    """Whether sites are there in every layer, in some, or why not."""
    absent = row["absent"]
    reasons = {absent[name] for name in names if name in absent and name not in OFTEN}
    if reasons:
        return _cut(" / ".join(sorted(reasons)), 200)
    at = ((site.partition("."), why) for site, why in absent.items())
    layers = {layer: why for (name, dot, layer), why in at if dot and name in names and name not in OFTEN}
    if not layers:
        return "all layers"
    why = " / ".join(sorted({*layers.values()}))
    return f"but for layers {', '.join(sorted(layers, key=int))}: {_cut(why, 160)}"


def _cut(text: str, most: int = 300) -> str:
    text = " ".join(str(text).split()).replace("|", "/")
    return text if len(text) <= most else f"{text[:most]} ..."
