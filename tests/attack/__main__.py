"""`python -m attack --minutes 20 [--seed S] [--report docs/proof.md]`: the long hunt."""

import argparse
import secrets
import sys

from attack.hunt import DOORS, hunt


def main() -> int:
    parse = argparse.ArgumentParser(prog="attack")
    parse.add_argument("--minutes", type=float, default=20.0)
    parse.add_argument("--seed", default=secrets.token_hex(4))
    parse.add_argument("--doors", type=int, default=None)
    parse.add_argument("--skip", nargs="*", default=())
    given = parse.parse_args()
    for door in given.skip:
        DOORS.pop(door)
    print(f"seed {given.seed}", flush=True)
    found = hunt(given.seed, seconds=60 * given.minutes, doors=given.doors, tell=lambda text: print(text, flush=True))
    print(f"{sum(found.tried.values())} attempts in {found.seconds:.0f} s, {len(found.failures)} failures")
    print("worst", {door: f"{error:.1e}" for door, error in sorted(found.worst.items())})
    print("unfit", dict(found.unfit))
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
