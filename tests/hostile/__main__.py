"""`python -m hostile [--each 2000] [--requests 10000] [--seed S] [--only NAME ...] [--report FILE]`: fails where one does."""

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path

from hostile.hunt import Tried, hunt, table
from hostile.readers import READERS
from hostile.wire import WIRES

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> int:
    parse = argparse.ArgumentParser(prog="hostile")
    parse.add_argument("--each", type=int, default=2000)
    parse.add_argument("--seed", default=os.environ.get("RESIDSCOPE_SEED") or secrets.token_hex(4))
    parse.add_argument("--requests", type=int, default=10_000, help="of each wire")
    parse.add_argument("--only", nargs="*", default=[*READERS, *WIRES])
    parse.add_argument("--report", type=Path)
    given = parse.parse_args()
    found: list[Tried] = []
    with tempfile.TemporaryDirectory(prefix="hostile-") as cache:
        os.environ["RESIDSCOPE_CACHE"] = cache  # what is made of such files is nobody's
        for name in given.only:
            wire = WIRES.get(name)
            found.append(wire(given.requests, given.seed) if wire else hunt(name, given.each, given.seed))
            print(found[-1].line(), flush=True)
            for fault in found[-1].faults[:12]:
                print(f"    {fault}", flush=True)
            if given.report is not None:
                before = given.report.read_text() if given.report.exists() else ""
                given.report.write_text(table(found, before))
    return 1 if any(tried.faults for tried in found) else 0


if __name__ == "__main__":
    sys.exit(main())
