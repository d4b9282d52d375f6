"""`python -m reliability.kills [--minutes M] [--seed S]`: kills at each step of each write, and of servers at work."""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from typing import Any

from reliability import FAULT
from reliability.storm import Storm, storm
from store.postgres import postgres

ALL = 1_000  # kinds of writes; there are fewer
STEPS = 2  # of each kind of write, a minute
SHOWN = 20


def part(minutes: float, seed: str) -> str:
    """Kills at steps of every kind of write, then a storm on each database for half of the minutes, as a section of a report."""
    with postgres(fsync=True) as running:
        storms = {
            name: storm(30 * minutes, f"{seed} {name}", url)
            for name, url in (("SQLite", ""), ("PostgreSQL", running.fresh()))
        }
    told = points(ALL, round(STEPS * minutes), seed)
    return "\n".join(["## Kills\n", *_of_points(told), "", *_of_storms(storms, minutes), ""])


def points(kinds: int, steps: int, seed: str) -> list[dict[str, Any]]:
    """What `reliability.points` finds, in a process of its own; the last is the planted fault."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder, postgres() as running:
        command = [sys.executable, "-m", "reliability.points", folder, str(running.port), str(kinds), str(steps), seed]
        done = subprocess.run(command, stdout=subprocess.PIPE, env=env, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _of_points(told: list[dict[str, Any]]) -> list[str]:
    *tried, planted = sorted(told, key=lambda one: one["kind"] == "planted fault")
    rows = [f"| {one['kind']} | {one['kills']} of {one['steps']} | {len(one['wrong'])} |" for one in tried]
    wrong = [f"{one['kind']}, {said}" for one in tried for said in one["wrong"]]
    missed = [] if planted["wrong"] else ["a planted fault, a file that is written in place, was not found"]
    return [
        "A process is killed (`kill -9`) in front of a step of a write: a call that changes a file, a statement or commit of a",
        "database; all steps, or so many drawn. The next process must find what was there before or what was written, whole and",
        "once, nothing half-made, and write the same again. A planted fault was found after",
        f"{len(planted['wrong'])} of {planted['kills']} kills.\n",
        "| write | kills of steps | wrong |", "|---|---|---|", *rows,
        f"| all | {sum(one['kills'] for one in tried)} | {len(wrong)} |", *_faults([*wrong, *missed]),
    ]  # fmt: skip


def _of_storms(storms: dict[str, Storm], minutes: float) -> list[str]:
    rows, wrong = [], []
    for name, told in storms.items():
        journal = told.journal
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(journal.acknowledged.items()))
        found = (journal.lost, journal.doubled, told.wrong)
        rows.append(f"| {name} | {told.kills} | {kinds} | {' | '.join(str(len(one)) for one in found)} |")
        wrong += [f"{name}, {said}" for one in found for said in one]
    return [
        f"Two servers on one data folder, three writers each, {minutes / 2:g} minutes on each database; either or both killed at",
        "random, while they start too. Each start is held against a journal of what was answered.\n",
        "| library | kills | acknowledged changes of | lost | doubled | half-made, refused |", "|---|---|---|---|---|---|",
        *rows, *_faults(wrong),
    ]  # fmt: skip


def _faults(said: list[str]) -> list[str]:
    return ["", *(f"- {FAULT} {one}" for one in said[:SHOWN])] if said else []


def main() -> int:
    parse = argparse.ArgumentParser(prog="reliability.kills")
    parse.add_argument("--minutes", type=float, default=10.0)
    parse.add_argument("--seed", default=os.environ.get("RESIDSCOPE_SEED") or secrets.token_hex(4))
    given = parse.parse_args()
    print(section := part(given.minutes, given.seed))
    return 1 if FAULT in section else 0


if __name__ == "__main__":
    sys.exit(main())
