"""`python -m reliability [--minutes 30] [--seed S] [--only PART ...] [--report PAGE]`: fails where it finds a fault."""

import argparse
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from reliability import FAULT, kills, load

PARTS: dict[str, Callable[[float, str], str]] = {"load": load.part, "kills": kills.part}
"""Each tries something for some minutes, by a seed, and tells it as a section."""
HEAD = """\
# What holds under load and faults

Written by `PYTHONPATH=tests python -m reliability --report docs/reliability.md` (`make prove`); a short draw of each part is
among the tests. The seed of this one: `{seed}`.
"""


def main() -> int:
    parse = argparse.ArgumentParser(prog="reliability")
    parse.add_argument("--minutes", type=float, default=30.0, help="for each part")
    parse.add_argument("--seed", default=os.environ.get("RESIDSCOPE_SEED") or secrets.token_hex(4))
    parse.add_argument("--only", nargs="*", default=[*PARTS], choices=[*PARTS])
    parse.add_argument("--report", type=Path)
    given = parse.parse_args()
    page = HEAD.format(seed=given.seed)
    for name in given.only:
        section = PARTS[name](given.minutes, given.seed)
        print(section, flush=True)
        page += f"\n{section}"
    if given.report is not None:
        given.report.write_text(page)
    return 1 if FAULT in page else 0


if __name__ == "__main__":
    sys.exit(main())
