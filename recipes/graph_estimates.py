"""How far estimated edges agree with exact ones on the default model with the dictionaries that ship: docs/graph-estimates.md.

python recipes/graph_estimates.py [--sample 200]
"""

import argparse
from time import perf_counter

import residscope as rs

PROMPTS = (
    "When John and Mary went to the store, John gave a bottle of milk to",
    "In a Lisp dialect, every expression begins with ( and ends with",
    "The Eiffel Tower is in the city of",
)
SAES = tuple(f"sae@resid_post.{layer}" for layer in range(8, 14))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=200)
    sample = parser.parse_args().sample
    model = rs.load("smollm2-135m")
    shipped = rs.sae.load("shipped", model)
    codes = [d for d in shipped.values() if d.write_site != d.read_site]
    next_ones = {"gradient": {}, "integrated": {}, "attribution": {"errors": True}}
    rows = [("SAEs, next layer", by, [shipped[id] for id in SAES], more) for by, more in next_ones.items()]
    rows += [
        (f"SAEs, later layers, by {by}", by, [shipped[id] for id in SAES], {"reach": "later"}) for by in ("gradient",)
    ]
    rows += [("transcoders, later", by, codes, {"reach": "later"}) for by in next_ones]
    print("| graph | by | seconds | edges | pearson | spearman | of the random half | held |")
    print("|---|---|---|---|---|---|---|---|")
    for name, by, made, more in rows:
        for prompt in PROMPTS:
            rs.causal_graph(model, prompt, made[:2], method=by, tokens=0, exact_sample=0)
            begun = perf_counter()
            rs.causal_graph(model, prompt, made, method=by, tokens=5, exact_sample=0, edges=20_000, **more)
            seconds = perf_counter() - begun
            graph = rs.causal_graph(model, prompt, made, method=by, tokens=0, exact_sample=sample, edges=20_000, **more)
            told = graph.provenance["sample"]
            held = told.get("patterns and norms held", {})
            pairs = ((told, "pearson"), (told, "spearman"), (told["random"], "spearman"), (held, "pearson"))
            found = ["" if of.get(key) is None else f"{of[key]:.2f}" for of, key in pairs]
            print(f"| {name} | {by} | {seconds:.1f} | {len(graph.weight):,} | {' | '.join(found)} |", flush=True)
    for prompt in PROMPTS:
        begun = perf_counter()
        exact = rs.causal_graph(model, prompt, [shipped[id] for id in SAES], tokens=5, edges=20_000)
        print(
            f"| SAEs, next layer | exact | {perf_counter() - begun:.1f} | {len(exact.weight):,} | | | | |", flush=True
        )


if __name__ == "__main__":
    main()
