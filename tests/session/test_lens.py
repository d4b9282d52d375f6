"""The lens of a run that is held: the numbers of `rs.logit_lens`, in parts, with edits, and the lines that give them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

import residscope as rs
from residscope import edits
from residscope.errors import NotFound, ResidscopeError, UnknownPosition
from residscope.methods._lib.tuned import TunedLens
from residscope.session import Session
from session import worlds

TEXT = "abcdefg"
CUT = {"kind": "ablate", "site": "z.0", "head": 1, "to": "zero"}
LATE = {"kind": "ablate", "site": "final_norm", "pos": [2], "to": "zero"}
TENSORS = {"top", "probability", "entropy", "kl", "rank", "chance"}


@pytest.fixture(scope="module")
def one() -> Iterator[Session]:
    with worlds.session() as session:
        session.intent("set_prompt", {"text": TEXT})
        assert session.wait(60)
        yield session


def read(session: Session, which: str = "a", **args: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    file = session.query("lens_grid", {"run": session.snapshot()[1]["current"][which], **args})
    size = int.from_bytes(file[:8], "little")
    return load(file), json.loads(file[8 : 8 + size])["__metadata__"]


def same(tensors: dict[str, torch.Tensor], lens: Any, part: slice = slice(None)) -> None:
    assert tensors.keys() == TENSORS
    assert tensors["top"].equal(lens.top[:, part])
    assert tensors["rank"].equal(lens.rank[:, part])
    for name, wanted in (
        ("probability", lens.probability),
        ("entropy", lens.entropy),
        ("kl", lens.kl),
        ("chance", lens.chance.values),
    ):
        torch.testing.assert_close(tensors[name], wanted[:, part].float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("token", [None, "c"])
def test_it_is_the_lens_of_the_prompt(one: Session, token: str | None) -> None:
    lens = rs.logit_lens(worlds.model(), TEXT, token=token)
    tensors, words = read(one, **({} if token is None else {"token": token}))
    same(tensors, lens)
    texts = json.loads(words["texts"])
    assert texts == {str(id): lens.texts[id] for id in tensors["top"].unique().tolist()}


def test_parts_are_the_whole(one: Session) -> None:
    whole, _ = read(one)
    parts = [read(one, first=first, count=3) for first in (0, 3, 6)]
    assert [json.loads(words["first"]) for _, words in parts] == [0, 3, 6]
    for name, tensor in whole.items():
        torch.testing.assert_close(torch.cat([part[name] for part, _ in parts], 1), tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("said", "edit"),
    [
        (CUT, edits.ablate("z.0", head=1, to="zero")),
        (LATE, edits.ablate("final_norm", pos=[2], to="zero")),
    ],
)
def test_an_edited_run_is_read_by_the_models_own_lens(one: Session, said: dict[str, Any], edit: Any) -> None:
    one.intent("set_edits", {"edits": [said]})
    assert one.wait(60)
    tensors, _ = read(one, "b")
    same(tensors, rs.logit_lens(worlds.model(), TEXT, background=[edit]))
    assert not tensors["kl"].equal(read(one)[0]["kl"]), "the edit changes something"
    one.intent("set_edits", {"edits": []})
    assert one.wait(60)


def test_the_lines_of_python_give_the_cells(one: Session) -> None:
    one.intent("set_edits", {"edits": [CUT]})
    assert one.wait(60)
    a, b = read(one, token="c")[0], read(one, "b", token="c")[0]
    wanted = {
        ("base", "top"): a["probability"][..., 0], ("edit", "rank"): b["rank"], ("delta", "kl"): b["kl"] - a["kl"],
        ("edit", "chance"): b["chance"], ("base", "entropy"): a["entropy"],
    }  # fmt: skip
    for (mode, show), cells in wanted.items():
        code = one.intent("python", {"mode": mode, "lens": {"show": show, "token": "c"}})["code"]
        lines = [line for line in code.splitlines() if not line.startswith(("model =", "print("))]
        found: dict[str, Any] = {"model": worlds.model()}
        exec(compile("\n".join(lines), "<pasted>", "exec"), found)
        torch.testing.assert_close(found["cells"].to(cells), cells, atol=1e-5, rtol=1e-4)
    one.intent("set_edits", {"edits": []})
    assert one.wait(60)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"run": "none"}, NotFound),
        ({"first": 99}, UnknownPosition),
        ({"token": "no such token"}, ResidscopeError),
        ({"count": 0}, ResidscopeError),
    ],
)
def test_what_is_not_there_is_refused(one: Session, args: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        read(one, **args)


def test_it_is_read_through_a_tuned_lens_of_the_shelf(one: Session, tmp_path: Path) -> None:
    model = worlds.model()
    drawn = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(model.n_layers, model.d_model, model.d_model, generator=drawn)
    tuned = TunedLens(weight, 0.1 * torch.randn(model.n_layers, model.d_model, generator=drawn))
    tuned.save(tmp_path / "mine.safetensors")
    one.intent(
        "start", {"method": "tuned-lens-load", "args": {"source": str(tmp_path / "mine.safetensors")}, "name": "mine"}
    )
    assert one.wait(60)
    tensors, _ = read(one, through="mine")
    same(tensors, rs.logit_lens(model, TEXT, lens=tuned))
    assert not tensors["kl"].allclose(read(one)[0]["kl"], atol=1e-3), "the lens does something"
    lines = one.intent("python", {"lens": {"show": "kl", "through": "mine"}})["code"]
    assert "tuned = rs.load_item('mine.safetensors')" in lines
    assert "lens=tuned)" in lines
    with pytest.raises(NotFound, match="no report:tuned_lens of that name"):
        read(one, through="yours")
