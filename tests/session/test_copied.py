"""Copied Python: of every method and every edit it runs as pasted, where nothing else is, and gives the same numbers."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

import residscope as rs
from loopback_chat import Chat, chat
from residscope.declare import EDITS
from residscope.directions import EncoderDictionary
from residscope.manifest import own_methods
from residscope.session import Session
from session import worlds
from session.asked import jobs, start

DRAWN = Random(3)
PROMPT = "ab cd ab ce"
LETTERS = "efghijkl"
ROWS = [
    (f"{''.join(DRAWN.choices(LETTERS, k=4))}{'ab'[i % 2]}{''.join(DRAWN.choices(LETTERS, k=3))}", "ab"[i % 2])
    for i in range(40)
]
SERVICE = "http://service.invalid/v1"  # stands for the one on the loopback
PEERS = Path(__file__).parent.parent / "sae" / "peers"
CSV = "text,corrupted,@IO,@S1,@S2,answer,wrong,kind\n" + "".join(
    f"{text},{text[:4]}{'ba'[kind == 'b']}{text[5:]},1:2,2:3,4:5,{text[1]},{text[2]},{kind}\n"
    for text, kind in ROWS
    if text[1] != text[2]
)
DATA = {"kind": "file", "name": "made.csv", "text": CSV}
NUMBERS = {
    "kind": "file",
    "name": "numbers.csv",
    "text": "text,@S2,number\n" + "".join(f"{text},4:5,{i % 7}\n" for i, (text, _) in enumerate(ROWS)),
}
REPEATED = {"kind": "file", "name": "repeated.csv", "text": "text,@IO,@S1,@S2,answer,wrong\n" + "".join(
    f"x{a}{b}y{b}z,1:2,2:3,4:5,{a},{b}\n" for a, b in ("ab", "ba", "cd", "dc")
)}  # fmt: skip
TEXT = {
    "kind": "typed",
    "name": "mine.txt",
    "text": "\n\n".join("".join(DRAWN.choices(LETTERS + " ", k=50)) for _ in range(60)),
}
LONG = {**TEXT, "name": "long.txt", "text": "\n\n".join("".join(DRAWN.choices("abcdef ", k=60)) for _ in range(90))}
LIVE = {"kind": "live"}
TWO = {"kind": "typed", "texts": ["abcd", "dcbaf"]}
ANSWERS = {"kind": "answers"}
ARROW = {"kind": "mix", "terms": [{"dictionary": "pca@resid_post.1", "index": 1, "weight": 1.0}]}
MIXED = {
    "kind": "mix",
    "terms": [
        {"dictionary": "pca@resid_post.1", "index": 0, "weight": 0.5},
        {"dictionary": "pca@resid_post.1", "index": 2, "weight": -2.0},
    ],
}
PAIR = {"kind": "logit_diff", "positive": "a", "negative": "b"}
DRAWN_PROMPTS = {"kind": "drawn", "text": TEXT, "n": 4, "length": 10, "seed": 3}
SIX, OTHERS = {**DRAWN_PROMPTS, "n": 6}, {**DRAWN_PROMPTS, "text": LONG, "n": 6}
PROBE = {"data": DATA, "position": "S2", "label": "kind"}

CALLS: dict[str, list[dict[str, Any]]] = {
    "ablation-sweep": [
        {"prompts": LIVE, "metric": LIVE},
        {
            "prompts": {"kind": "typed", "texts": ["abc", "def"]},
            "metric": PAIR,
            "site": "mlp_out",
            "relative": True,
            "background": "live",
        },
        {
            "prompts": {"kind": "typed", "texts": ["abc"], "bos": True},
            "metric": {"kind": "loss"},
            "to": "mean",
            "over": DRAWN_PROMPTS,
        },
        {"prompts": DATA, "metric": ANSWERS, "layers": [1, 2]},
    ],
    "activation-patching": [
        {"clean": LIVE, "corrupted": "xb cd xb ce", "metric": LIVE},
        {
            "clean": "abcd",
            "corrupted": "abce",
            "metric": {"kind": "log_prob", "token": "a"},
            "site": "z",
            "mode": "noise",
            "layers": [0, 2],
        },
    ],
    "attribution-patching": [
        {"clean": LIVE, "corrupted": "xb cd xb ce", "metric": LIVE, "sample": 3},
        {
            "clean": "abcd",
            "corrupted": "abce",
            "metric": LIVE,
            "site": "q",
            "qk_fix": True,
            "grad_drop": True,
            "sample": 2,
        },
        {
            "clean": "abcd",
            "corrupted": "abce",
            "metric": {"kind": "log_prob", "token": "a"},
            "site": "z",
            "mode": "noise",
            "layers": [0, 2],
            "normalize": True,
            "sample": 4,
            "seed": 2,
            "background": "live",
        },
    ],
    "gradient-attribution": [
        {"prompts": LIVE, "metric": LIVE, "sample": 3},
        {
            "prompts": {"kind": "typed", "texts": ["abcd", "dcba"]},
            "metric": {"kind": "log_prob", "token": "a"},
            "of": "neurons",
            "layers": [0, 2],
            "positions": [0, -1],
            "sample": 4,
            "seed": 2,
            "background": "live",
        },
        {"prompts": DATA, "metric": ANSWERS, "of": "mlps", "positions": ["S2"], "sample": 3},
    ],
    "tcav": [
        {
            "concept_prompts": SIX,
            "other_prompts": OTHERS,
            "prompts": LIVE,
            "metric": LIVE,
            "site": "resid_pre.1",
            "draws": 10,
        },
        {
            "concept_prompts": SIX,
            "other_prompts": OTHERS,
            "prompts": TWO,
            "metric": {"kind": "log_prob", "token": "a"},
            "site": "z.1",
            "head": 2,
            "moved": "all",
            "draws": 11,
            "seed": 2,
            "background": "live",
        },
    ],
    "integrated-gradients": [
        {"prompt": LIVE, "metric": LIVE, "baseline": "mean", "over": DRAWN_PROMPTS, "steps": 4, "tolerance": 1.0},
        {
            "prompt": "abcd",
            "metric": {"kind": "log_prob", "token": "a"},
            "of": "neurons",
            "baseline": "prompt",
            "over": "abce",
            "layers": [0, 2],
            "positions": [0, -1],
            "steps": 4,
            "most": 100,
            "background": "live",
        },
    ],
    "saliency": [{"prompt": LIVE, "metric": LIVE}, {"prompt": "abcd", "metric": PAIR, "background": "live"}],
    "causal-tracing": [
        {"prompts": LIVE, "subject": [1], "metric": LIVE, "draws": 2},
        {
            "prompts": {"kind": "typed", "texts": ["abcd", "dcba"]},
            "subject": [0, -1],
            "metric": {"kind": "log_prob", "token": "a"},
            "site": "mlp_out",
            "window": 2,
            "layers": [1, 2],
            "draws": 3,
            "seed": 2,
            "background": "live",
        },
        {"prompts": DATA, "subject": "S2", "metric": ANSWERS, "positions": ["S2"], "draws": 2},
    ],
    "compare-ablations": [
        {"prompts": "abcd", "metric": PAIR, "over": DRAWN_PROMPTS, "draws": 2},
        {
            "prompts": {"kind": "typed", "texts": ["abcd", "dcba"]},
            "metric": {"kind": "log_prob", "token": "a"},
            "over": DRAWN_PROMPTS,
            "site": "mlp_out",
            "by": "position",
            "positions": [1, 2],
            "draws": 3,
            "seed": 2,
            "background": "live",
        },
    ],
    "compare-models": [
        {"other": "tuned", "prompt": LIVE},
        {"other": "tuned", "prompt": "abcd", "metric": PAIR, "background": "live"},
    ],
    "continuations": [
        {"prompt": LIVE, "edits": "live", "max_new_tokens": 5, "stop": "z", "at": "new"},
        {
            "prompt": "abcd",
            "edits": [{"kind": "ablate", "site": "z.1", "head": 2}],
            "n": 2,
            "max_new_tokens": 4,
            "temperature": 0.7,
            "top_k": 9,
            "top_p": 0.9,
            "seed": 3,
        },
    ],
    "copying-scores": [{}, {"layers": [1, 2]}],
    "composition": [
        {"random": 20},
        {"writers": ["embed", "result.1"], "readers": ["k.2", "mlp_in"], "random": 30, "seed": 4},
    ],
    "direct-path": [{"tokens": ["a", "b"]}, {"tokens": ["c"], "k": 2, "text": TEXT, "read": 500}],
    "positions": [{"prompts": DRAWN_PROMPTS}, {"prompts": "abcdefg", "tokens": 6, "draws": 1, "seed": 2}],
    "skip-trigrams": [
        {"layer": 1, "head": 2, "sources": ["a", "b"], "k": 3},
        {"layer": 0, "head": 1, "sources": ["a"], "destinations": ["c", "d"], "outs": ["e", "f"]},
    ],
    "weight-directions": [
        {"layer": 1, "matrix": "OV", "head": 2, "n": 3, "k": 3},
        {"layer": 0, "n": 2, "k": 4},
    ],
    "factored": [{"layer": 1, "head": 2, "k": 3}, {"layer": 0, "head": 3, "circuit": "QK", "k": 0}],
    "das": [{"data": DATA, "probe": "kind at S2, resid_pre.2", "steps": 2}],
    "direct-attribution": [
        {"prompts": LIVE, "metric": LIVE},
        {"prompts": DATA, "metric": ANSWERS, "by": "component", "position": "S2", "background": "live"},
        {"prompts": "abcd", "metric": PAIR, "by": "neuron", "position": "each"},
        {"prompts": "abcd", "metric": PAIR, "by": "source"},
        {"prompts": "abcd", "metric": PAIR, "remove": "mean", "over": TWO, "largest": 2},
        {"prompts": "abcd", "metric": PAIR, "by": "feature", "dictionary": "sae@resid_pre.1"},
    ],
    "dose-response": [
        {"direction": ARROW, "prompts": DRAWN_PROMPTS, "random": 19},
        {"direction": MIXED, "prompts": LIVE, "metric": PAIR, "random": 19},
    ],
    "counterfactuals": [
        {"prompt": LIVE, "metric": LIVE, "n": 5},
        {"prompt": {"kind": "companion"}, "metric": {"kind": "log_prob", "token": "a"}},
    ],
    "draw-prompts": [{"text": TEXT, "n": 5, "length": 8, "seed": 2}, {"text": LONG, "n": 5, "length": 8}],
    "sae-load": [
        {"source": f"{PEERS}/saelens-jumprelu", "check": False},
        {"source": f"{PEERS}/saelens5-standard", "site": "resid_post.1", "check": False},
    ],
    "fit-check": [{"dictionary": "sae@resid_pre.1", "corpus": LONG, "tokens": 300}],
    "evidence": [{"direction": ARROW, "corpus": TEXT, "tokens": 1000, "prompts": 4, "length": 8, "random": 19}],
    "fit-probe": [{**PROBE, "site": "resid_pre.2"}],
    "ridge-probe": [{"data": NUMBERS, "site": "resid_pre.2", "position": "S2", "label": "number"}],
    "flips-over-c": [{**PROBE, "sites": ["resid_pre.2"]}],
    "signal-split": [
        {"data": REPEATED, "heads": ["1.0", "1.2"], "movers": ["2.1"], "prompts": 4, "draws": 2, "seed": 1}
    ],
    "head-roles": [{"data": DATA, "each": 1, "prompts": 4}],
    "head-scores": [
        {"n": 3, "length": 6, "seed": 2},
        {"prompts": DRAWN_PROMPTS, "kinds": "induction, anti-induction", "draws": 3},
    ],
    "induction-heads": [{"n": 3, "length": 5}],
    "induction-mechanism": [{"layer": 2, "head": 1, "n": 3, "length": 7, "draws": 2}],
    "intervene": [
        {"data": DATA, "probes": ["kind at S2, resid_pre.2", "Shelved"]},
        {
            "data": {"kind": "probe", "probe": "kind at S2, resid_pre.2"},
            "probes": ["kind at S2, resid_pre.2"],
            "edits": [{"kind": "lrqp", "probe": "kind at S2, resid_pre.2", "to": "other", "log_alpha": 3.0}],
        },
    ],
    "token-losses": [{"prompt": LIVE}, {"prompt": "abcd", "edit": "live"}],
    "model-facts": [{}],
    "basis-meter": [
        {"prompts": LIVE, "draws": 2},
        {"prompts": DRAWN_PROMPTS, "sites": ["q", "mlp_pre"], "draws": 2, "seed": 1},
    ],
    "norm-effects": [{"prompt": LIVE}, {"prompt": "abcd", "axes": 2}],
    "logit-lens": [
        {"prompt": LIVE},
        {"prompt": "abcd", "site": "resid_mid", "token": "b", "k": 2, "background": "live"},
        {"prompt": "abcd", "lens": "Translators"},
    ],
    "next-token-baselines": [
        {"prompt": LIVE, "text": TEXT},
        {"prompt": "abcd", "text": LONG, "tokens": 900, "reach": 2},
    ],
    "tuned-lens": [{"corpus": LONG, "tokens": 1000, "steps": 2, "seed": 3}],
    "tuned-lens-load": [{"source": str(Path(__file__).parent.parent / "methods" / "peers" / "tuned-lens")}],
    "path-patching": [
        {"clean": LIVE, "corrupted": "xb cd xb ce", "metric": LIVE},
        {
            "clean": "abcd",
            "corrupted": "abce",
            "metric": {"kind": "log_prob", "token": "a"},
            "receivers": ["2.1", "3.0"],
            "read": "v",
            "normalize": True,
            "mode": "denoise",
        },
        {"clean": "abcd", "corrupted": "abce", "metric": PAIR, "site": "mlp_out", "direct": True, "background": "live"},
    ],
    "edge-patching": [
        {"clean": LIVE, "corrupted": "xb cd xb ce", "metric": LIVE, "receivers": [1]},
        {
            "clean": "abcd",
            "corrupted": "abce",
            "metric": {"kind": "log_prob", "token": "a"},
            "senders": [0, 1],
            "receivers": [2],
            "read": "v",
            "nodes": "heads",
            "mode": "denoise",
            "normalize": True,
            "background": "live",
        },
    ],
    "edge-attribution": [
        {"clean": LIVE, "corrupted": "xb cd xb ce", "metric": LIVE, "receivers": [1], "sample": 2},
        {
            "clean": "abcd",
            "corrupted": "abce",
            "metric": {"kind": "log_prob", "token": "a"},
            "steps": 2,
            "senders": [0, 1],
            "receivers": [2],
            "read": "all",
            "nodes": "heads",
            "mode": "denoise",
            "sample": 0,
            "background": "live",
        },
    ],
    "self-repair": [
        {"prompts": LIVE, "heads": ["2.1"], "metric": LIVE},
        {
            "prompts": DATA,
            "heads": ["1.0", "1.2"],
            "metric": ANSWERS,
            "position": "S2",
            "to": "mean",
            "over": DRAWN_PROMPTS,
        },
    ],
    "layer-swap": [{"other": "tuned", "prompts": {"kind": "typed", "texts": ["abc", "def"]}, "metric": PAIR}],
    "look": [{**PROBE, "sites": ["resid_pre"], "layers": [1, 2]}],
    "mean-difference": [{"corpora": {"first": TEXT, "second": LONG}, "site": "resid_post.1", "tokens": 1000}],
    "downstream": [
        {
            "train": {"kind": "probe", "probe": "kind at S2, resid_pre.2", "part": "training"},
            "data": {"kind": "probe", "probe": "kind at S2, resid_pre.2"},
            "edit": [{"kind": "lrqp", "probe": "kind at S2, resid_pre.2", "to": "other"}],
            "label": "kind",
            "readers": ["2.1"],
            "movers": ["3.0", "3.2"],
        }
    ],
    "task-average": [{"data": DATA}, {"data": DATA, "of": "lens"}, {"data": DATA, "of": "patch", "site": "z"}],
    "task-check": [{"data": DATA}, {"data": DATA, "by": "kind"}],
    "mediation": [
        {
            "data": DATA,
            "edit": [{"kind": "scale", "site": "resid_pre.1", "factor": 0.5}],
            "groups": ["2.1", "3.0"],
            "draws": 1,
        }
    ],
    "atlas": [
        {"corpus": TEXT, "dictionary": "sae@resid_pre.1", "tokens": 1000, "k": 2},
        {"corpus": TEXT, "site": "mlp_post.1", "tokens": 1000, "k": 2},
    ],
    "name-features": [
        {
            "atlas": "Atlas",
            "features": [1, 2, 3],
            "dictionary": "sae@resid_pre.1",
            "endpoint": {"url": SERVICE, "model": "by-rule"},
            "held_out": 5,
        }
    ],
    "attribute-scores": [
        {"prompt": LIVE, "layer": 2, "head": 1, "key": 1},
        {"prompt": "abcd", "layer": 1, "head": 3, "query": 2, "by": "component", "background": "live"},
        {"prompt": LIVE, "layer": 1, "head": 0, "key": 1, "dictionary": "sae@resid_pre.1"},
    ],
    "causal-graphs": [
        {
            "prompts": {"kind": "typed", "texts": ["abcd", "dcbaf"]},
            "dictionaries": ["sae@resid_pre.1", "pca@resid_post.1"],
            "edges": 30,
        },
        {
            "prompts": {"kind": "typed", "texts": ["abcd", "dcbaf"]},
            "dictionaries": ["sae@resid_pre.1", "pca@resid_post.1"],
            "scale": 2.0,
            "errors": False,
        },
    ],
    "causal-graph": [
        {
            "prompt": LIVE,
            "dictionaries": ["sae@resid_pre.1", "pca@resid_post.1"],
            "tokens": 2,
            "method": "integrated",
            "exact_sample": 5,
            "seed": 2,
        },
        {"prompt": LIVE, "dictionaries": ["sae@resid_pre.1", "pca@resid_post.1"], "tokens": 2},
        {
            "prompt": LIVE,
            "dictionaries": ["sae@resid_pre.1", "pca@resid_post.1"],
            "ablate": "each",
            "background": "live",
        },
    ],
    "validate-graph": [
        {
            "graph": "Drawn",
            "dictionaries": ["sae@resid_pre.1", "pca@resid_post.1"],
            "texts": TEXT,
            "random_texts": 6,
            "contexts": {"kind": "typed", "texts": ["cabbage", "park ring"]},
            "controls": 3,
            "circuits": 2,
        }
    ],
    "harvest": [{"corpus": TEXT, "sites": ["resid_post.1"], "examples": 3, "quantiles": True, "tokens": 1000}],
    "nmf": [{"corpus": TEXT, "site": "mlp_out.1", "n": 2, "clip": True, "tokens": 1000}],
    "null-directions": [{"direction": ARROW, "corpus": TEXT, "n": 19, "tokens": 1000}],
    "pca": [
        {"corpus": TEXT, "site": "resid_post.1", "n": 3, "tokens": 1000},
        {"corpus": LONG, "site": "z.1", "head": 1, "n": 2, "standardise": True, "tokens": 1000},
    ],
    "pca-stream": [{"corpus": TEXT, "n": 2, "tokens": 1000}],
    "probe-map": [{**PROBE, "site": "resid_pre.2"}, {**PROBE, "site": "resid_pre.1", "here_only": True, "seed": 2}],
    "probe-sweep": [{"data": DATA, "label": "kind", "positions": ["S2", "END"], "sites": ["resid_pre"]}],
    "removal-cost": [{"direction": ARROW, "prompts": DRAWN_PROMPTS, "random": 19}],
    "sae-evaluate": [{"dictionary": "pca@resid_post.1", "corpus": TEXT, "tokens": 1000}],
    "sae-train": [
        {"corpus": TEXT, "sites": ["resid_post.1"], "features": 16, "k": 3, "tokens": 1000},
        {
            "corpus": TEXT,
            "sites": ["mlp_in.1"],
            "written": ["mlp_out.1"],
            "skip": True,
            "kind": "topk",
            "features": 16,
            "k": 3,
            "tokens": 1000,
            "seed": 1,
        },
    ],
    "stability": [{"direction": ARROW, "corpus": TEXT, "resamples": 2, "tokens": 1000}],
    "svd": [{"corpus": TEXT, "site": "resid_post.2", "n": 2, "tokens": 1000}],
    "svd-stream": [{"corpus": TEXT, "n": 2, "tokens": 1000}],
    "top-examples": [{"direction": {"kind": "token", "token": "a"}, "corpus": TEXT, "k": 3, "tokens": 1000}],
    "unembedding-rows": [{"tokens": ["a", "b"]}],
    "weight-difference": [{"other": "tuned"}],
}

STACKS: dict[str, list[dict[str, Any]]] = {
    "ablate": [
        {"site": "z.1", "head": 2},
        {"site": "mlp_out.2", "to": "mean", "over": DRAWN_PROMPTS, "pos": 3},
        {"site": "resid_pre.2", "to": "resample", "over": {"kind": "typed", "texts": ["abcdefghijk"]}, "seed": 4},
    ],
    "isolate": [{"site": "z.1", "head": [0, 2]}],
    "scale": [{"site": "mlp_out.2", "factor": 0.25, "pos": [1, -1]}],
    "freeze": [{"site": "pattern.3"}, {"site": "norms"}],
    "noise": [{"site": "embed", "sigma": 0.5, "seed": 7}],
    "steer": [
        {"site": "resid_post.1", "direction": ARROW, "strength": 3.0, "unit": "sd"},
        {"site": "resid_post.1", "direction": MIXED, "strength": -2.0},
        {"site": "resid_post.3", "direction": PAIR, "strength": 1.0},
        {"site": "resid_pre.2", "direction": {"kind": "saved", "name": "Found elsewhere"}, "strength": 1.0},
    ],
    "clamp": [{"site": "resid_post.1", "direction": ARROW, "value": 2.0}],
    "project_out": [{"site": "resid_post.1", "direction": [ARROW, MIXED]}],
    "feature": [
        {"dictionary": "pca@resid_post.1", "index": 1, "scale": 0.0},
        {"dictionary": "pca@resid_post.1#2", "index": 0, "value": 2.0},
    ],
    "overlay": [
        {
            "weight": "model.layers.1.self_attn.o_proj",
            "low_rank": {
                "read": {"kind": "token", "token": "a"},
                "write": {"kind": "token", "token": "b"},
                "strength": 0.5,
            },
        }
    ],
    "patch": [
        {"site": "mlp_out.3", "source": {"kind": "model", "model": "tuned"}, "pos": [-1]},
        {"site": "resid_pre.2", "source": "xb cd xb ce"},
        {"site": "resid_pre.2", "source": {"kind": "companion"}, "align": "tokens"},
        {"site": "resid_pre.2", "source": "xb cd xb ce", "align": [[1, 2], [3, 4]]},
        {"site": "z.2", "source": {"kind": "run", "run": "r2"}, "head": 1},
        {
            "site": "z.2",
            "source": {
                "kind": "prompt",
                "text": "xb cd xb ce",
                "edits": [{"kind": "scale", "site": "mlp_out.0", "factor": 3.0}],
            },
        },
    ],
    "path": [{"sender": "z.1", "sender_head": 1, "receiver": "q.3", "source": "xb cd xb ce"}],
}


def differing(a: Any, b: Any, at: str = "result", *, rtol: float = 0.0) -> list[str]:
    """Where two values are not alike, provenance aside: tensors by their entries, NaN like NaN."""
    if type(a) is not type(b):
        return [f"{at}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, torch.Tensor | np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        inexact = x.dtype.kind in "fc" and x.shape == y.shape
        same = np.allclose(x, y, rtol, rtol, equal_nan=True) if inexact else np.array_equal(x, y)
        return [] if same else [f"{at}: {a} and {b}"]
    if is_dataclass(a):
        names = [f.name for f in fields(a) if f.name != "provenance"]
        return [
            where
            for name in names
            for where in differing(getattr(a, name), getattr(b, name), f"{at}.{name}", rtol=rtol)
        ]
    if isinstance(a, Mapping):
        keys = [] if [*a] == [*b] else [f"{at}: {[*a]} and {[*b]}"]
        return keys or [where for key in a for where in differing(a[key], b[key], f"{at}[{key!r}]", rtol=rtol)]
    if isinstance(a, tuple | list):
        if len(a) != len(b):
            return [f"{at}: {len(a)} and {len(b)}"]
        return [
            where
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for where in differing(x, y, f"{at}[{i}]", rtol=rtol)
        ]
    if isinstance(a, float) and rtol and math.isclose(a, b, rel_tol=rtol, abs_tol=rtol):
        return []
    return [] if a == b or (a != a and b != b) else [f"{at}: {a!r} and {b!r}"]


def of_a_name(where: str) -> bool:
    """Whether two differ in what they call a thing alone: a text that was typed has no name until it is a file, and a
    component that the page shows says whose it is."""
    names = ("'PC 1 of resid_post.1' and 'PC 1'", "'texts' and 'long.txt'", "'mine.txt' and 'texts'")
    return any(where.endswith(f"{field}: {pair}") for field in (".direction", ".name") for pair in names)


@pytest.fixture(scope="module")
def shelved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A session with one of each thing that arguments may name, and the folder that its files were exported to."""
    patch = pytest.MonkeyPatch()
    patch.setattr("residscope.world.loaded.shipped", lambda model: worlds.components(model))
    patch.setattr("residscope.world.others.load", named)
    folder = tmp_path_factory.mktemp("pasted")
    with worlds.session() as session:
        session.intent("set_prompt", {"text": "xb cd xb ce"})
        assert session.wait(60)
        session.intent("set_prompt", {"text": PROMPT})
        session.intent("set_companion", {"text": "park ring cd"})
        session.intent("set_edits", {"edits": [{"kind": "scale", "site": "mlp_out.1", "factor": 0.5}]})
        start(session, "probe-map", **PROBE, site="resid_pre.2")
        start(session, "fit-probe", name="Shelved", **PROBE, site="resid_pre.1")
        start(session, "pca", corpus=TEXT, site="resid_post.1", n=3, tokens=1000)
        assert session.wait(120)
        assert [job["phase"] for job in jobs(session).values()] == ["done"] * 3, jobs(session)
        vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
        rs.Direction(vector, vector, "resid_pre.2", name="made").save(folder / "made.safetensors")
        session.import_item((folder / "made.safetensors").read_bytes(), "Found elsewhere")
        session.import_item(encoder(), "Features")
        drawn = {"prompt": {"kind": "live"}, "dictionaries": ["sae@resid_pre.1", "pca@resid_post.1"], "tokens": 2}
        start(session, "causal-graph", name="Drawn", **drawn)
        start(session, "tuned-lens", name="Translators", corpus=LONG, tokens=1000, steps=2)
        assert session.wait(60)
        for name in (
            "Shelved", "Principal components of resid_post.1", "Found elsewhere", "Features", "Drawn", "Translators",
        ):  # fmt: skip
            file, data = session.reads.item_file(name, ".safetensors")
            (folder / file).write_bytes(data)
        for text in (DATA, NUMBERS, REPEATED, TEXT, LONG):
            (folder / str(text["name"])).write_text(str(text["text"]))
        start(session, "atlas", name="Atlas", corpus=LONG, dictionary="sae@resid_pre.1", tokens=2000, k=6)
        assert session.wait(60)
        file, data = session.reads.item_file("Atlas", ".safetensors")
        (folder / file).write_bytes(data)
        yield session, folder
    patch.undo()


@pytest.fixture(scope="module")
def service() -> Any:
    with chat() as running:
        yield running


def encoder() -> bytes:
    """A dictionary with an encoder, of the tiny model's width, as its file."""
    read = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    zero = torch.zeros(32)
    made = EncoderDictionary("sae", "resid_pre.1", read, read, mean=zero, bias=torch.zeros(24), base=zero)
    with TemporaryDirectory() as folder:
        made.save(Path(folder) / "sae.safetensors")
        return (Path(folder) / "sae.safetensors").read_bytes()


def named(name: str, **options: Any) -> Any:
    return worlds.tuned() if name == "tuned" else worlds.model()


def pasted(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the lines leave behind, run where nothing has a name yet."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(rs, "load", named)
    monkeypatch.setattr("residscope.directions.shipped", worlds.components)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "<pasted>", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(("method", "args"), [(id, args) for id, several in CALLS.items() for args in several])
def test_a_method_s_lines_give_what_the_job_gives(
    shelved: tuple[Session, Path], service: Chat, monkeypatch: Any, method: str, args: Any
) -> None:
    session, folder = shelved
    args = json.loads(json.dumps(args).replace(SERVICE, service.url))
    code = session.query("python", {"method": method, "args": args})["code"]
    job = start(session, method, **args)
    assert session.wait(120)
    told = jobs(session)[job]
    assert told["phase"] == "done", told["error"]
    items = [session._items.find(name) for name in told["items"]]
    one_call = own_methods()[method].parts is None  # else each part says how it alone is made
    assert all((kept.code == code) == one_call for kept in items)
    made = pasted(code, folder, monkeypatch)["result"]
    several = [*made.values()] if isinstance(made, Mapping) else [*made] if isinstance(made, tuple | list) else [made]
    assert [where for where in differing([kept.item for kept in items], several) if not of_a_name(where)] == []


@pytest.mark.parametrize(("kind", "edit"), [(id, edit) for id, several in STACKS.items() for edit in several])
def test_an_edit_s_lines_give_the_run_on_the_page(
    shelved: tuple[Session, Path], monkeypatch: Any, kind: str, edit: Any
) -> None:
    session, folder = shelved
    before = session.snapshot()[1]["edits"]
    session.intent("set_edits", {"edits": [{"kind": kind, **edit}]})
    assert session.wait(60)
    try:
        state = session.snapshot()[1]
        assert state["edits"][0]["error"] is None
        shown = next(run for run in state["runs"] if run["id"] == state["current"]["b"])
        namespace = pasted(session.intent("python")["code"], folder, monkeypatch)
        assert [text for text, *_ in namespace["edited"].top(len(shown["top"]))] == [t["text"] for t in shown["top"]]
        last = session.state.run(shown["id"]).last
        torch.testing.assert_close(namespace["edited"].logits[0, -1].float(), last.float(), rtol=1e-6, atol=1e-6)
        plain = namespace["baseline"].logits[0, -1].float()
        assert kind == "freeze" or not torch.allclose(
            plain, last.float(), atol=1e-6
        )  # the edit is not one that does nothing
    finally:
        session.intent("set_edits", {"edits": before})
        assert session.wait(60)


def test_no_method_and_no_edit_is_forgotten() -> None:
    assert CALLS.keys() == own_methods().keys()
    assert STACKS.keys() == {
        id for id, kind in EDITS.items() if kind.function.__module__.startswith("residscope.edits.")
    }


IOI = "When John and Mary went to the store, John gave a bottle of milk to"
REAL = [
    ("ablation-sweep", {"prompts": LIVE, "metric": LIVE, "site": "z", "layers": [22, 23], "background": "live"}),
    (
        "removal-cost",
        {
            "direction": {"kind": "pca", "site": "resid_post.23", "weights": {"7": 1.0}},
            "prompts": {"kind": "drawn", "text": {"kind": "builtin", "name": "python-docs"}, "n": 4, "length": 12},
            "random": 19,
        },
    ),
    ("unembedding-rows", {"tokens": [" Mary", " John"]}),
]


def test_on_the_real_model_three_methods_lines_run_in_a_process_of_their_own(
    smollm2: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("residscope.world.loaded.shipped", rs.directions.shipped)
    with worlds.session(smollm2, load=lambda name, **_: smollm2) as session:
        session.intent("load_model", {"name": "smollm2-135m"})
        session.intent("set_prompt", {"text": IOI})
        assert session.wait(120)
        session.intent("set_edits", {"edits": [{"kind": "ablate", "site": "z.20", "head": 1}]})
        assert session.wait(120)
        ids = [start(session, method, **args) for method, args in REAL]
        assert session.wait(300)
        told = jobs(session)
        assert [told[id]["phase"] for id in ids] == ["done"] * len(ids), told
        lines: list[str] = []
        for n, id in enumerate(ids):
            kept = session._items.find(told[id]["items"][0])
            lines += [kept.code, f"result.save('{n}.safetensors')", ""]
        command = [sys.executable, "-c", "\n".join(lines)]
        env = os.environ | {"PYTHONPATH": str(Path(rs.__file__).parents[1])}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        for n, id in enumerate(ids):
            item = session._items.find(told[id]["items"][0]).item
            again = rs.load_item(tmp_path / f"{n}.safetensors")
            found = [where for where in differing(item, again, rtol=1e-4) if ".direction:" not in where]
            assert found == []
