"""The sparse autoencoders and transcoders that ship for the default model, all from one pass over text that every machine has.

    python recipes/dictionaries.py FOLDER --minutes 240        trains; start it again to go on where it was stopped
    python recipes/dictionaries.py FOLDER --finish             writes what there is by now, also while it trains or after a stop

Autoencoders of resid_post.8 to resid_post.13 and skip transcoders of the layers 9 to 13 (mlp_in to mlp_out), BatchTopK kept
as JumpReLU, 2,304 features, 32 active at a token. Text: the built-in English (229 thousand tokens) and Python's documentation
(295 thousand), and what the model itself writes, for which a quarter of the minutes go before the training begins. One text in
twenty is held out, by a hash of its words.

FOLDER holds sampled.jsonl, plan.json (the budget in tokens, by the speed of a first trial), the checkpoint (under 2 GB, every
five minutes) and curves.json. At the end, or with --finish, src/residscope/data/dictionaries/smollm2-135m.safetensors is
written (vectors in 8 bits with a scale for each row, at most 32 MB), and each dictionary of it is measured on the held-out text
(FOLDER/evaluation.json).
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import torch

import residscope as rs
from residscope.corpus.reading import Reader
from residscope.corpus.text import english, python_docs
from residscope.sae import quantised
from residscope.sae.training.session import Sitting
from residscope.sae.training.train import plans_of, run

OUT = Path(__file__).parent.parent / "src/residscope/data/dictionaries/smollm2-135m.safetensors"
STREAM, LAYERS = range(8, 14), range(9, 14)
SITES = [*(f"resid_post.{layer}" for layer in STREAM), *((f"mlp_in.{layer}", f"mlp_out.{layer}") for layer in LAYERS)]
FEATURES, K, BATCH = 2304, 32, 512
PIECE = 2_000  # characters of a text
ONCE, NEW = 64, 126  # rows that the model writes at a time, and tokens of each
SAMPLED = 0.25  # of the minutes
TRIAL = 8  # steps that the speed is measured of
MOST = 32_000_000  # bytes of the file


class Text(list[str]):
    """Texts, with a name for the provenance."""

    name = "english, python-docs and text sampled from the model"


def is_held_out(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % 20 == 0


def pieces(texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        for first in range(0, len(text), PIECE):
            yield text[first : first + PIECE]


def corpus(folder: Path, *, held_out: bool) -> list[str]:
    """The built-in texts and those that were sampled, by turns."""
    own = [json.loads(line)["text"] for line in (folder / "sampled.jsonl").read_text().splitlines()]
    turns = zip_longest(pieces(english()), pieces(python_docs()), own)
    return [text for turn in turns for text in turn if text and is_held_out(text) == held_out]


def sample(model: rs.Model, folder: Path, minutes: float) -> None:
    """Text that the model writes after its separator, temperature 1, appended to sampled.jsonl until the minutes are over."""
    file, began = folder / "sampled.jsonl", time.monotonic()
    start = [int(model.tokenizer.eos_token_id)]
    written = len(file.read_text().splitlines()) if file.exists() else 0
    while time.monotonic() - began < 60 * minutes:
        made = model.generate([start] * ONCE, max_new_tokens=NEW, temperature=1.0, seed=written, stop=())
        texts = [row.text for row in made.rows]
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        written += len(texts)
        print(f"sampled {written} texts of {NEW} tokens, {(time.monotonic() - began) / 60:.1f} min", flush=True)
    file.touch()


def sitting(model: rs.Model, folder: Path, budget: int, *, keep: bool = True) -> Sitting:
    plans = [
        plan for site in SITES for plan in plans_of([site], features=FEATURES, k=K, skip=not isinstance(site, str))
    ]
    place = folder if keep else None
    return Sitting(
        model, Reader(model, corpus(folder, held_out=False)), plans, budget=budget, batch=BATCH, folder=place
    )


def planned(model: rs.Model, folder: Path, minutes: float) -> int:
    """The budget in tokens: written down at the first start, from how many a trial learned from a second."""
    file = folder / "plan.json"
    if not file.exists():
        print("measuring the speed", flush=True)
        trial, began = sitting(model, folder, TRIAL * BATCH, keep=False), time.monotonic()
        for _ in run(trial, progress=False):
            pass
        speed = TRIAL * BATCH / (time.monotonic() - began)
        budget = max(100 * BATCH, int(60 * minutes * speed))
        file.write_text(json.dumps({"budget": budget, "tokens/s": speed, "minutes": minutes}))
    budget = int(json.loads(file.read_text())["budget"])
    print(f"{budget:,} tokens to learn from", flush=True)
    return budget


def finish(model: rs.Model, folder: Path, one: Sitting, tokens: int) -> None:
    """Write the file, read it again, and measure every dictionary of it on the held-out text."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    made = {f"{d.name}@{d.site}": d for d in one.dictionaries().values()}
    quantised.write(OUT, made, model)
    size = OUT.stat().st_size
    assert size <= MOST, f"{size:,} bytes"
    print(f"{OUT}: {size:,} bytes")
    text, figures = corpus(folder, held_out=True), {}
    for id, dictionary in quantised.read(OUT, model).items():
        found = rs.sae.evaluate(model, dictionary, text, tokens=tokens, skip=0, progress=False)
        figures[id] = {name: found[name] for name in found.measured.coords["measure"]}
        shown = ("FVU", "L0", "dead", "change of loss", "CE recovered (mean)")
        print(f"{id:28}", ", ".join(f"{name} {found[name]:.3f}" for name in shown), flush=True)
        (folder / "evaluation.json").write_text(json.dumps(figures, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=240.0, help="of sampling and training together, about")
    parser.add_argument("--finish", action="store_true", help="write what the checkpoint has")
    parser.add_argument("--evaluate", type=int, default=30_000, help="held-out tokens that each is measured on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = given.folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    model = rs.load("smollm2-135m")
    if not given.finish and not (folder / "plan.json").exists():
        sample(model, folder, SAMPLED * given.minutes)
    one = sitting(model, folder, planned(model, folder, (1 - SAMPLED) * given.minutes))
    if given.finish:
        assert one.restored(), f"there is no checkpoint in {folder} yet"
    else:
        began = time.monotonic()
        for number, _ in enumerate(run(one, progress=False)):
            now = one.training()
            fvu = ", ".join(f"{x:.3f}" for x in now.fvu[:, -1].tolist())
            print(f"{int(now.tokens[-1]):,} tokens, {(time.monotonic() - began) / 60:.1f} min, FVU {fvu}", flush=True)
            if number % 10 == 0:
                curves = {name: getattr(now, name).tolist() for name in ("tokens", "fvu", "l0", "dead")}
                (folder / "curves.json").write_text(json.dumps({"names": now.names, **curves}))
    finish(model, folder, one, given.evaluate)


if __name__ == "__main__":
    main()
