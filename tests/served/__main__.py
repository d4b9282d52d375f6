"""`python -m served [TYPE ...] [--seed S] [--report docs/families-found.md]`: every causal type and variant, in float32.

With types named, their rows take the place of those in `--rows FILE`; the page is written from all of them.
"""

import argparse
import json
import os
import secrets
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import by_hand
import torch

from residscope.engine.model import Model
from residscope.engine.tried import found, tried_of
from residscope.errors import NoTinyCopy, ResidscopeError
from residscope.model import tiny
from served.page import page, read
from served.properties import held


def row(kind: str, variant: str, config: Any, seed: str | None) -> dict[str, Any]:
    """One variant: what is served of it, the certificate's worst error, and, with a seed, which properties hold."""
    began = time.perf_counter()
    about = {"type": kind, "variant": variant, "file": kind in by_hand.families(), "class": tiny.causal_types()[kind]}
    try:
        hf = tiny.build(config, dtype=torch.float32)
        about["own dtype"] = str(next(hf.parameters()).dtype).removeprefix("torch.")
        model, certificate = found(hf, kind)
    except ResidscopeError as error:
        return about | {
            "served": False,
            "built": not isinstance(error, NoTinyCopy),
            "why": " ".join(str(error).split()),
        }
    answers = {} if seed is None else held(widened(model), f"{seed} {kind}")
    seconds = round(time.perf_counter() - began, 1)
    return about | tried_of(model, certificate, variant, seconds).to_dict() | {
        "properties": {name: worst for name, (worst, why) in answers.items() if why is None},
        "broken": {name: why for name, (_, why) in answers.items() if why is not None},
    }  # fmt: skip


def widened(model: Model) -> Model:
    """The same model in float64, so that what edits enlarge is no rounding; as it is where its own code will not have that."""
    try:
        with torch.no_grad():
            model.hf.double()(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
    except RuntimeError:
        model.hf.float()
    return Model(model.hf, name=model.name, family=model.family)


def written(told: dict[str, Any]) -> str:
    """The rows as JSON, a line for each; what is absent by its reason, and of a variant only where it is not as in the first."""
    lines, first = [], {}
    for row in told["rows"]:
        by_reason: dict[str, list[str]] = {}
        for site, why in row.get("absent", {}).items():
            by_reason.setdefault(why, []).append(site)
        same = first.setdefault(row["type"], by_reason) == by_reason and row["variant"] != "default"
        lines.append(
            json.dumps({k: v for k, v in row.items() if k != "absent"} | ({} if same else {"absent": by_reason}))
        )
    head = json.dumps({"about": told["about"], "apart": told["apart"]}, indent=1)[:-2]
    return f'{head},\n "rows": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def main() -> int:
    parse = argparse.ArgumentParser(prog="served")
    parse.add_argument("types", nargs="*")
    parse.add_argument("--seed", default=os.environ.get("RESIDSCOPE_SEED") or secrets.token_hex(4))
    parse.add_argument("--report", type=Path)
    parse.add_argument("--rows", type=Path, default=Path("docs/families-found.json"))
    given = parse.parse_args()
    warnings.filterwarnings("ignore")
    apart = tiny.not_decoders()
    kept = read(given.rows) if given.types and given.rows.exists() else {"rows": []}
    rows = [r for r in kept["rows"] if r["type"] not in given.types]
    for kind in given.types or sorted(tiny.causal_types().keys() - apart.keys()):
        for variant, config in tiny.variants(kind).items():
            made = row(kind, variant, config, given.seed if variant == "default" else None)
            rows.append(made)
            print(
                kind, variant, "served" if made["served"] else made["why"][:200], made.get("broken") or "", flush=True
            )
    rows.sort(key=lambda r: r["type"])
    about = {name: version(name) for name in ("torch", "transformers")} | {"seed": given.seed}
    text = page(rows, apart, about)
    if given.report is not None:
        given.rows.write_text(written({"about": about, "apart": apart, "rows": rows}))
        given.report.write_text(text)
    print(text.split("\n## ")[0])
    return 1 if any(r.get("broken") for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
