"""What the hunt found, each brought down to the least that fails: a door, and cases (some doors read by a draw of their own)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attack.cases import Case

ONE = ((22, 16, 51, 7, 30),)
TWO = ((95, 31, 5, 6), (37, 33, 93, 36, 30, 80, 75, 64))
OTHER = ((89, 58, 86, 44, 9, 54, 63, 15), (66, 23, 88, 11))  # as wide as TWO, and each row of another length
LATE = {"kind": "scale", "site": "final_scale", "factor": 1.3}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def overlay(path: str, d_in: int, d_out: int) -> Mapping[str, Any]:
    return {"kind": "overlay", "site": path, "A": numbers(d_in, 1) * 0.3, "B": numbers(1, d_out, seed=1) * 0.3}


def dictionary(d: int) -> Mapping[str, Any]:
    return {"read": numbers(4, d), "write": numbers(4, d) + 0.3 * numbers(4, d, seed=1), "mean": numbers(d, seed=2)}


def path(sender: str, receiver: str, source: Any, **where: Any) -> Mapping[str, Any]:
    return {"kind": "path", "site": receiver, "sender": sender, "source": source, **where}


def patch(site: str, source: Any, **where: Any) -> Mapping[str, Any]:
    return {"kind": "patch", "site": site, "source": source, **where}


def ablate(site: str, to: Any = "zero", **where: Any) -> Mapping[str, Any]:
    return {"kind": "ablate", "site": site, "to": to, **where}


def isolate(site: str, *heads: int, **where: Any) -> Mapping[str, Any]:
    return {"kind": "isolate", "site": site, "to": "zero", "head": list(heads), **where}


def noise(site: str, **where: Any) -> Mapping[str, Any]:
    return {"kind": "noise", "site": site, "sigma": 0.3, "seed": 6, **where}


def cases(family: str, rows: Any, *stack: Mapping[str, Any], draws: int = 6) -> list[Case]:
    return [Case(family, rows, stack, f"found-{i}") for i in range(draws)]


NAMED = patch("mlp_gate.2", OTHER, pos=[2, -3])
FOUND: dict[str, tuple[str, list[Case]]] = {
    # lengths, not widths, say whether a source is as long
    "rows as wide, named from their ends": ("run", cases("qwen3", TWO, NAMED, draws=1)),
    "rows as wide, nothing named": ("run", cases("qwen3", TWO, patch("mlp_gate.2", OTHER), draws=1)),
    "a path from rows as wide": ("run", cases("gptj", TWO, path("z.2", "final_norm", OTHER, pos=[-3, -1]), draws=1)),
    "a generation's rows, run by length": (
        "generate",
        cases(
            "phi",
            ((22, 10, 23, 36, 78, 57), (72, 25, 70, 76)),
            patch("mlp_in.0", ((41, 42, 60, 51), (23, 79, 78)), pos=[-2, -1]),
        ),
    ),
    "a strand as long as its source, in a longer batch": (
        "cell",
        cases(
            "llama",
            ((70, 50, 69), (69, 92, 20, 75, 69, 40)),
            patch("mlp_out.1", ((2, 54, 8), (89, 85, 5, 41)), pos=[2, -3]),
        ),
    ),
    # a loaded recording's edits mean what the run's did
    "isolates, loaded": ("saved", cases("llama", ONE, isolate("z.1", 0, 2), isolate("z.1", 3))),
    "paths, loaded": (
        "saved",
        cases(
            "cohere",
            ONE,
            path("embed", "final_norm", ((1, 2, 3, 4, 5),)),
            path("attn_out.0", "final_norm", ((9, 8, 7, 6, 5),)),
        ),
    ),
    # what the ends of the model do to the logits
    "an unembedding overlaid in the background": (
        "background",
        cases("llama", ONE, overlay("lm_head", 32, 97), noise("v.2")),
    ),
    "an unembedding overlaid, beside the last divisor": (
        "background",
        cases("qwen2", ONE, overlay("lm_head", 32, 97), LATE),
    ),
    "logits edited in the background": (
        "background",
        cases("llama", ONE, {"kind": "scale", "site": "logits", "factor": 0.5}, noise("v.2"), draws=12),
    ),
    "logits edited beside the last divisor": (
        "cell",
        cases("llama", ONE, {"kind": "scale", "site": "logits", "factor": 0.5}, LATE, draws=12),
    ),
    "answers behind the last divisor": ("answers", cases("llama", ONE, LATE, draws=2)),
    "answers behind the last norm": ("answers", cases("llama", ONE, noise("final_norm"), draws=2)),
    "answers behind the logits": ("answers", cases("llama", ONE, noise("logits"), draws=2)),
    "answers behind another unembedding": ("answers", cases("llama", ONE, overlay("lm_head", 32, 97), draws=2)),
    "answers, all norms frozen": (
        "answers",
        cases("mpt", ONE, noise("attn_out.2"), {"kind": "freeze", "site": "norms"}, draws=2),
    ),
    "answers, a weight below the first edit": (
        "answers",
        cases("qwen3", ONE, overlay("model.layers.1.self_attn.o_proj", 48, 32), noise("mlp_out.2"), draws=2),
    ),
    "answers, prompts not in order of length": ("answers", cases("llama", TWO[::-1], noise("attn_out.1"), draws=2)),
    "answers, sources not in order of length": (
        "answers",
        cases("llama", TWO[::-1], patch("attn_in.1", OTHER), draws=2),
    ),
    "the page's reading behind the last divisor": ("session", cases("gpt2", ONE, LATE, draws=2)),
    "the page's reading behind the last norm": (
        "session",
        cases("gpt2", ONE, {"kind": "scale", "site": "final_norm", "factor": 1.5}, draws=2),
    ),
    "the page's reading behind the logits": (
        "session",
        cases("gpt2", ONE, {"kind": "scale", "site": "logits", "factor": 1.5}, draws=2),
    ),
    # a path's reading in a sweep
    "a path beside another edit of its receiver": (
        "background",
        cases(
            "llama",
            ONE,
            {"kind": "feature", "site": "q.2", "dictionary": dictionary(8), "index": [3], "scale": 0.3},
            path("embed", "q.1", ((1, 2, 3, 4, 5),)),
        ),
    ),
    "a path from the embedding, recomputed": (
        "lazy",
        cases(
            "starcoder2",
            ((6, 12, 74, 10, 78, 19, 26),),
            path("embed", "mlp_in.2", ((34, 82, 90, 22, 81, 84),), align="prefix"),
            patch("embed", ((35, 40, 8, 47, 15, 7, 10, 42, 20),), pos=[-2]),
            draws=12,
        ),
    ),
    "rows that are not contiguous, before experts": (
        "background",
        cases(
            "mixtral",
            ((94, 29, 36, 84, 27), (24, 81, 2, 30, 31, 85)),
            {"kind": "freeze", "site": "mlp_in.2"},
            patch("attn_in.1", ((95, 14, 33, 46, 13), (51, 70, 45, 55, 7, 60)), pos=[-3, -4]),
        ),
    ),
    # a value with a row for each prompt
    "a value for each prompt, in a cell": (
        "cell",
        cases("gptj", TWO, ablate("mlp_in.1", numbers(2, 1, 32), pos=[-1])),
    ),
    "a value for each prompt, in the background": (
        "background",
        cases("llama", TWO, ablate("attn_in.2", numbers(2, 1, 32)), noise("v.1"), noise("v.2", pos=[-1])),
    ),
    "a value for each prompt, generating": (
        "generate",
        cases("llama", TWO, ablate("mlp_in.2", numbers(2, 1, 32), pos=[0, 3])),
    ),
    "a value for each prompt, answering": (
        "answers",
        cases("llama", TWO[::-1], ablate("mlp_in.2", numbers(2, 1, 32)), draws=2),
    ),
    # what a query cannot see stays unseen
    "scores opened, rows of unequal length": ("run", cases("llama", TWO, ablate("scores.1", pos=[1]), draws=1)),
    "scores opened, in one row": ("run", cases("gpt2", ONE, ablate("scores.1"), draws=1)),
    "scores turned over": ("run", cases("llama", TWO, {"kind": "scale", "site": "scores.1", "factor": -0.5}, draws=1)),
    "scores opened beyond a window whose own mask is float32 in a float64 model": (
        "run",
        cases("gpt_neo", [[39, 71, 94, 33, 77]], isolate("scores.1", 1, 2), draws=2),
    ),
    "scores of the other heads opened": ("run", cases("llama", TWO, isolate("scores.0", 1), draws=1)),
    "a pattern opened": ("run", cases("bloom", TWO, ablate("pattern.1", torch.tensor([0.2]).double()), draws=1)),
    "scores opened under a later cell": (
        "background",
        cases(
            "llama", ONE, ablate("scores.1", pos=[1]), {"kind": "scale", "site": "mlp_out.0", "factor": 1.5, "pos": [3]}
        ),
    ),
    "scores opened, generating": ("generate", cases("llama", ONE, ablate("scores.1", pos=[1]))),
    "scores opened in a sliding window": (
        "run",
        cases("mistral", ((37, 33, 93, 36, 30, 80, 75, 64),), ablate("scores.1"), draws=1),
    ),
    # the embedding of a window is the base's
    "a path from positions, recomputed": (
        "saved",
        cases(
            "toy, gelu",
            ONE,
            {"kind": "scale", "site": "pos_embed", "factor": 1.5},
            path("pos_embed", "k.2", ((9, 8, 7, 6, 5),), kv_head=[0]),
            draws=12,
        ),
    ),
    "a path from the embedding, in a sweep": (
        "background",
        cases(
            "llama", ONE, noise("embed", pos=[0]), path("embed", "v.2", ((9, 8, 7, 6),), align="prefix", kv_head=[0])
        ),
    ),
    "a path from the embedding, beside another table": (
        "lazy",
        cases(
            "mistral",
            ONE,
            overlay("model.embed_tokens", 97, 32),
            path("embed", "final_norm", ((9, 8, 7, 6, 5),)),
            draws=12,
        ),
    ),
}
