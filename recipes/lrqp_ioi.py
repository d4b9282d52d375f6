"""Where SmolLM2-135M can be read, and rewritten, on IOI: the probe's accuracy and LRQP's flip rate layer by layer.

    python recipes/lrqp_ioi.py [--prompts 640] [--layers 9 12 15] [--site resid_mid]

Half of the prompts (with prefix sentences) fit the probes of ABBA or BABA at S2; the table is of the other half. Columns:
held-out accuracy at both sites and on shuffled labels; share of right answers that flip when LRQP sets the order to the other
one, and the mean shift of the logit difference; mean absolute shift when it is set to what it is (control); the same of an edit
of equal Mahalanobis length along a random direction (negative control).
"""

import argparse
import time

import torch

import residscope as rs
from residscope.methods._lib.answers import Flips, answer_diffs, flips
from residscope.methods.probes.probe_sweep import fit_probes
from residscope.probes.lrqp import random_control


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=640)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 3, 6, 9, 12, 14, 16, 18, 21, 24, 27])
    parser.add_argument("--site", default="resid_mid")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    began = time.perf_counter()
    model = rs.load(arguments.model)
    data = rs.tasks.ioi(model, arguments.prompts, seed=arguments.seed)
    train, test = data.split(0.5, seed=arguments.seed, by="order")
    sites = [f"{name}.{layer}" for name in dict.fromkeys([arguments.site, "resid_pre"]) for layer in arguments.layers]
    probes = fit_probes(model, train, sites=sites, positions=["S2"], label="order", held_out=test, seed=arguments.seed)
    print(f"{len(probes)} probes after {time.perf_counter() - began:.0f} s", flush=True)

    cells: list[list[rs.edits.BaseEdit]] = [[]]
    for layer in arguments.layers:
        probe = probes[f"{arguments.site}.{layer}", "S2"]
        other = rs.lrqp(probe, to="other")
        cells += [[rs.lrqp(probe, to="true")], [other], [random_control(other, probe, seed=layer)]]
    clean, *rest = answer_diffs(model, test, cells)
    right = int((clean > 0).sum())
    print(f"{len(test)} held-out prompts, {right} right ({right / len(test):.1%}), mean {clean.mean():.2f} logits")
    titles = (
        "layer",
        "resid_pre",
        arguments.site,
        "shuffled",
        "C",
        "flips",
        "shift",
        "control |shift|",
        "random flips",
        "|shift|",
    )
    print("| " + " | ".join(titles) + " |")
    for i, layer in enumerate(arguments.layers):
        probe, before = probes[f"{arguments.site}.{layer}", "S2"], probes[f"resid_pre.{layer}", "S2"]
        print("| " + " | ".join(row(layer, before, probe, clean, rest[3 * i : 3 * i + 3])) + " |", flush=True)
    print(f"{time.perf_counter() - began:.0f} s in all, {torch.get_num_threads()} threads")


def row(layer: int, before: rs.Probe, probe: rs.Probe, clean: torch.Tensor, cells: list[torch.Tensor]) -> list[str]:
    """A line of the table."""
    true, other, random = (flips(clean, edited) for edited in cells)
    return [
        str(layer), f"{before.accuracy:.1%}", f"{probe.accuracy:.1%}", f"{probe.control:.1%}", f"{probe.C:g}",
        share(other), f"{other.mean_shift:+.2f}", f"{true.mean_absolute_shift:.2f}",
        share(random), f"{random.mean_absolute_shift:.2f}",
    ]  # fmt: skip


def share(found: Flips) -> str:
    """A flip rate and its interval."""
    return f"{found.rate:.1%} ({found.interval[0]:.1%} to {found.interval[1]:.1%})"


if __name__ == "__main__":
    main()
