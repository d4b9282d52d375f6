"""`python -m attack --minutes 20 [--seed S] [--report docs/proof.md]`: the long hunt. Fails where it finds something."""

import argparse
import os
import secrets
import sys
from importlib.metadata import version
from pathlib import Path

from attack.hunt import DOORS, hunt
from attack.report import page


def main() -> int:
    parse = argparse.ArgumentParser(prog="attack")
    parse.add_argument("--minutes", type=float, default=20.0)
    parse.add_argument("--seed", default=os.environ.get("RESIDSCOPE_SEED") or secrets.token_hex(4))
    parse.add_argument("--doors", type=int, help="how many a case goes through; all, unless said")
    parse.add_argument("--skip", nargs="*", default=(), choices=sorted(DOORS))
    parse.add_argument("--report", type=Path)
    given = parse.parse_args()
    for door in given.skip:
        DOORS.pop(door)
    print(f"seed {given.seed}", flush=True)
    found = hunt(given.seed, seconds=60 * given.minutes, doors=given.doors, tell=lambda text: print(text, flush=True))
    text = page(found, ", ".join(f"{name} {version(name)}" for name in ("residscope", "torch", "transformers")))
    if given.report is not None:
        given.report.write_text(text)
    print(text)
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
