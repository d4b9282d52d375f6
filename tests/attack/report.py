"""A hunt as a page: what was tried, how near the numbers came, and what was found."""

from collections import Counter

from attack.hunt import Hunt

INTRODUCTION = """\
`make prove` draws stacks of 1 to 6 edits over all kinds and sites, on every family, and takes each through every way in: a run,
a lazy recomputation, a recording saved and loaded, JSON there and back, a window, a sweep as cell and in the background,
metrics, generation, `answer_diffs`, the page's session and a shared link. Each number is compared with that of a plain whole
forward of the stock model with ordinary hooks (`tests/attack`), which shares no code with the engine. This is its last output."""
ERRORS = """\
Errors are of the largest value, in float64; many stock families norm in float32 whatever the model's dtype, and the page and
`answer_diffs` give float32."""


def page(found: Hunt, version: str) -> str:
    """docs/proof.md."""
    attempts = sum(found.tried.values())
    doors = sorted({door for _, door in found.tried})
    per_door = Counter[str]()
    for (_, door), n in found.tried.items():
        per_door[door] += n
    lines = [
        "# Proof by attack",
        "",
        INTRODUCTION,
        "",
        f"- {version}",
        f"- seed `{found.seed}`: `RESIDSCOPE_SEED={found.seed} make prove` draws the same cases",
        f"- {attempts} attempts in {found.seconds / 60:.0f} minutes, {len(found.failures)} failures",
        "",
        "| way in | attempts | worst relative error |",
        "|---|---|---|",
        *(f"| {door} | {per_door[door]} | {found.worst.get(door, 0.0):.1e} |" for door in doors),
        "",
        ERRORS,
        "",
        "| family | " + " | ".join(doors) + " |",
        "|---|" + "---|" * len(doors),
    ]
    lines += [
        f"| {family} | " + " | ".join(str(found.tried[family, door]) for door in doors) + " |"
        for family in sorted({family for family, _ in found.tried})
    ]
    lines += [
        "",
        "| kind of edit | drawn |",
        "|---|---|",
        *(f"| {kind} | {n} |" for kind, n in sorted(found.kinds.items())),
        "",
        "Sites drawn: " + ", ".join(f"{site} {n}" for site, n in sorted(found.sites.items())) + ".",
    ]
    if found.unfit:
        lines += ["", "Left out: " + "; ".join(f"{why} ({n})" for why, n in sorted(found.unfit.items())) + "."]
    for failure in found.failures:
        lines += ["", "```text", str(failure), "```"]
    return "\n".join(lines) + "\n"
