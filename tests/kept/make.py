"""Writes `v0_1/`: files, a library, a session's folder and links as version 0.1 made them. It was run once, and is not run again.

    git checkout COMMIT-THAT-ADDS-THIS-FILE
    PYTHONPATH=src:tests:tests/engine:tests/methods python -m kept.make
    cd web; node ../tests/kept/make_links.mjs

Later versions write other files, so its output would no longer be version 0.1's: it refuses where the folder is there. What it
writes down beside the files (`numbers.json`) is what plain transformers, the reference of `tests/attack` and plain algebra give;
today's code was only held to it.
"""

import json
import os
from importlib.metadata import version
from pathlib import Path

import residscope as rs
from kept import make_files, make_library, make_session, things

FOLDER = Path("v0_1")  # as seen from here, so that no file holds where a checkout lay


def main() -> None:
    os.chdir(Path(__file__).parent)
    FOLDER.mkdir()
    tokenizer = things.tokenizer()
    things.hf_model(len(tokenizer)).save_pretrained(FOLDER / "model")
    tokenizer.save_pretrained(FOLDER / "model")
    model = rs.load(str(FOLDER / "model"))
    numbers = {"made by": f"residscope {version('residscope')}", "hash": model.hash} | make_files.make(model, FOLDER)
    numbers["library"] = make_library.make(model, FOLDER)
    numbers["session"] = make_session.make(model, FOLDER)
    numbers["smollm2"] = make_session.smol(FOLDER)
    (FOLDER / "numbers.json").write_text(json.dumps(numbers, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
