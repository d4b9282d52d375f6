"""A number opened into its sum: the terms add up to what the stock model says, and one that is no such sum is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from residscope.errors import NotAdditive, UnknownHead, UnknownLayer
from residscope.session import Session
from session import worlds

TEXT = "abcdefg"


@pytest.fixture(scope="module")
def one() -> Iterator[Session]:
    with worlds.session() as session:
        session.intent("set_prompt", {"text": TEXT})
        assert session.wait(60)
        yield session


def plain() -> Any:
    model = worlds.model()
    with torch.no_grad():
        return model.hf(torch.tensor([model.encode(TEXT)]), output_hidden_states=True)


def opened(session: Session, verb: str, which: str = "a", **args: Any) -> dict[str, Any]:
    found: dict[str, Any] = session.query(verb, {"run": session.snapshot()[1]["current"][which], **args})
    assert sum(term["value"] for term in found["terms"]) + found["rest"] == pytest.approx(found["total"], abs=1e-6)
    assert found["total"] == pytest.approx(found["own"], abs=1e-3)
    sizes = [abs(term["value"]) for term in found["terms"]]
    assert sizes == sorted(sizes, reverse=True)
    return found


def test_a_logit_difference_is_the_models(one: Session) -> None:
    logits = plain().logits[0]
    assert opened(one, "logit_sum", positive=5, negative=7)["own"] == pytest.approx(
        float(logits[-1, 5] - logits[-1, 7]), abs=1e-4
    )
    assert opened(one, "logit_sum", positive=5, pos=2)["own"] == pytest.approx(float(logits[2, 5]), abs=1e-4)


@pytest.mark.parametrize("row", [0, 1])
def test_a_cell_of_the_lens_is_the_sum_of_what_was_written_before_it(one: Session, row: int) -> None:
    model = worlds.model()
    x = plain().hidden_states[row][0, 3]
    with torch.no_grad():
        wanted = float(model.lens(x[None])[0, 5])
    found = opened(one, "logit_sum", positive=5, row=row, pos=3)
    assert found["own"] == pytest.approx(wanted, abs=1e-4)
    names = {term["name"] for term in found["terms"]}
    assert not {f"head {layer}.0" for layer in range(row, model.n_layers)} & names, "nothing of later layers"
    assert found["others"] or row or names == {"embed"}


def test_a_head_is_the_sum_over_what_it_attends_to(one: Session) -> None:
    found = opened(one, "head_sum", layer=1, head=0, positive=5, negative=7)
    assert {term["name"].split(" ")[0] for term in found["terms"]} == {"from", "the"}
    whole = opened(one, "logit_sum", positive=5, negative=7)
    part = next((term["value"] for term in whole["terms"] if term["name"] == "head 1.0"), None)
    assert part is None or part == pytest.approx(found["own"], abs=1e-6)


def test_a_score_is_the_sum_over_pairs(one: Session) -> None:
    rec = worlds.model().run(TEXT, capture=["scores.1"])
    found = opened(one, "score_sum", layer=1, head=1, query=4, key=2)
    assert found["own"] == pytest.approx(float(rec["scores.1"][0, 1, 4, 2]), abs=1e-5)
    assert found["unit"] == "score"


def test_what_is_not_there_is_refused(one: Session) -> None:
    with pytest.raises(UnknownLayer, match="no such row"):
        opened(one, "logit_sum", positive=5, row=99)
    with pytest.raises(UnknownHead):
        opened(one, "head_sum", layer=0, head=99, positive=5)
    one.intent(
        "set_edits", {"edits": [{"kind": "noise", "site": f"resid_pre.{worlds.model().n_layers - 1}", "sigma": 1.0}]}
    )
    assert one.wait(60)
    opened(one, "logit_sum", "b", positive=5)
    with pytest.raises(NotAdditive, match="an edit acts after the row"):
        opened(one, "logit_sum", "b", positive=5, row=0)
    one.intent("set_edits", {"edits": []})
