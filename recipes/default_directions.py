"""The PCA directions that ship for the default model, from text that every machine has.

    python recipes/default_directions.py          some minutes on two cores; writes src/residscope/data/

Half of the characters are general English (the megabyte that ships), half Python's own documentation, by turns from the beginning
of each: what evidence holds out lies beyond three times as many tokens.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

import residscope as rs
from residscope.corpus.pca import pca_many
from residscope.corpus.text import english, python_docs
from residscope.directions import save

OUT = Path(__file__).parent.parent / "src/residscope/data/smollm2-135m.safetensors"
PIECE = 2_000
"""Of a text no more than so many characters: one long topic does not fill a fit."""


def mixed(characters: int) -> Iterator[str]:
    """About so many characters: the source that has given fewer speaks next."""
    sources, given = [english(), python_docs()], [0, 0]
    while sum(given) < characters:
        which = given.index(min(given))
        text = next(sources[which])[:PIECE]
        given[which] += len(text)
        yield text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--characters", type=int, default=240_000)
    parser.add_argument("--components", type=int, default=28)
    arguments = parser.parse_args()
    model = rs.load("smollm2-135m")
    found = pca_many(
        model, list(mixed(arguments.characters)), ["stream"], arguments.components, tokens=arguments.characters,
        progress=lambda _, done, total: print(f"\r{done} of at most {total} tokens", end="", flush=True),
    )  # fmt: skip
    for d in found.values():
        d.provenance["corpus"] = "python-docs and english"
    OUT.parent.mkdir(exist_ok=True)
    save(OUT, found, model, dtype=torch.float16)
    print(f"\n{OUT}: {OUT.stat().st_size / 1e6:.2f} MB, {next(iter(found.values())).provenance}")


if __name__ == "__main__":
    main()
