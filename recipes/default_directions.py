"""The PCA directions that ship for the default model, from text on every machine and text it writes itself.

    python recipes/default_directions.py          about ten minutes on two cores; writes src/residscope/data/

Half of the tokens are Python's own documentation, half are sampled from the model (temperature 1, seeded, from the openings
below), so that prose and dialogue are in it.
"""

import argparse
from itertools import chain
from pathlib import Path

import torch

import residscope as rs
from residscope.corpus.pca import pca_many
from residscope.corpus.text import python_docs
from residscope.directions import save
from residscope.model.sites import Site

OUT = Path(__file__).parent.parent / "src/residscope/data/smollm2-135m.safetensors"
OPENINGS = (
    "Once upon a time", "The history of", "In the morning, she", "He said that", "Scientists have found", "Dear",
    "The city of", "When Anna and Tom went to", "My favourite book is", "According to the report", "The recipe needs",
    "On the first day of", "In 1843, the", "There are three reasons why", "The patient was", "A small dog",
    "The company announced", "It was raining when", "Mathematics is", "Last summer we", "The old man looked at",
    "To install the program", "The war began", "Children learn", "What is the", "Music has always", "The river runs",
    "Her brother gave her", "The judge ruled that", "At the market", "Plants need", "The train to",
)  # fmt: skip


def sample(model: rs.Model, *, rounds: int, length: int) -> list[str]:
    """Texts the model writes by itself after each opening."""
    model.tokenizer.padding_side = "left"
    model.tokenizer.pad_token = model.tokenizer.pad_token or model.tokenizer.eos_token
    texts: list[str] = []
    for seed in range(rounds):
        torch.manual_seed(seed)
        given = model.tokenizer(list(OPENINGS), return_tensors="pt", padding=True)
        out = model.hf.generate(**given, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=length)
        texts += model.tokenizer.batch_decode(out, skip_special_tokens=True)
        print(f"sampled {len(texts)} texts", flush=True)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--components", type=int, default=28)
    arguments = parser.parse_args()
    model = rs.load("smollm2-135m")
    half = arguments.tokens // 2
    written = sample(model, rounds=max(1, half // (len(OPENINGS) * 120)), length=120)
    docs, size = [], 0
    for text in python_docs():
        docs.append(text[:2000])
        size += len(text[:2000])
        if size > 4 * half:
            break
    corpus = list(chain(written, docs))
    sites = ["resid_pre.0", *(str(Site("resid_post", layer)) for layer in range(model.n_layers))]
    found = pca_many(
        model, corpus, sites, arguments.components, tokens=arguments.tokens * 2,
        progress=lambda _, done, total: print(f"\r{done} tokens", end="", flush=True),
    )  # fmt: skip
    for d in found.values():
        d.provenance["corpus"] = "python-docs and text sampled from the model"
    OUT.parent.mkdir(exist_ok=True)
    save(OUT, found, model, dtype=torch.float16)
    print(f"\n{OUT}: {OUT.stat().st_size / 1e6:.2f} MB, {found[sites[0]].provenance}")


if __name__ == "__main__":
    main()
