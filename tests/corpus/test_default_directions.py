"""The directions that ship were fitted on what evidence leaves out."""

import runpy
from pathlib import Path

import residscope as rs
from residscope.corpus.text import english, python_docs

RECIPE = Path(__file__).parents[2] / "recipes" / "default_directions.py"


def test_what_evidence_holds_out_of_either_text_was_not_fitted(smollm2):
    recipe = runpy.run_path(str(RECIPE))
    fitted = list(recipe["mixed"](240_000))  # as many characters as by default
    told = [d.provenance for d in rs.directions.shipped(smollm2).values()]
    assert {about["corpus"] for about in told} == {"python-docs and english"}
    tokens = min(about["tokens"] for about in told)
    size = sum(len(smollm2.encode(text, bos=False)) for text in fitted)
    assert 0.8 * size < tokens <= size, "less sinks, and what is behind a context"
    for source in (english, python_docs):
        whole = list(source())
        last = max(i for i, text in enumerate(whole) if text[: recipe["PIECE"]] in set(fitted))
        assert sum(len(smollm2.encode(text, bos=False)) for text in whole[: last + 1]) < 3 * tokens
        assert sum(len(text) for text in whole) / 5 > 3 * tokens + 5_000, "and there is text beyond"
