"""An encoder of 24,576 features in a session: what the page is sent of it, mixes with it, edits of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from residscope import directions
from residscope.directions import EncoderDictionary
from residscope.errors import DirectionError, NotFound, UnknownLayer, UnknownPosition
from residscope.session import Session

SAE, MANY, PROMPT = "sae@resid_post.1", 24_576, "hello there"
PCA1, PCA3 = "pca@resid_post.1", "pca@resid_post.3"


@pytest.fixture
def featured(live: Session, tmp_path: Path) -> tuple[Session, EncoderDictionary]:
    """A dictionary of 24,576 features that reads one site and writes another, taken in from its file."""
    model, draw = live.state.model.model, torch.Generator().manual_seed(5)
    read = torch.randn(MANY, model.d_model, generator=draw)
    parts = {"bias": torch.randn(MANY, generator=draw), "mean": torch.randn(model.d_model, generator=draw)}
    write, base = torch.randn(MANY, model.d_model, generator=draw), torch.randn(model.d_model, generator=draw)
    sae = EncoderDictionary("sae", "resid_post.1", read, write, base=base, written="resid_post.2", **parts)
    directions.save(tmp_path / "sae.safetensors", sae, model)
    live.intent("set_prompt", {"text": PROMPT})
    live.import_item((tmp_path / "sae.safetensors").read_bytes(), "features")
    assert live.wait()
    assert live.state.model.dictionary(SAE).hash == sae.hash
    return live, sae


def activations(sae: EncoderDictionary, x: torch.Tensor, i: int) -> torch.Tensor:
    return ((x.double() - sae.mean) @ sae.read[i].double() + sae.bias[i]).clamp(min=0).float()


def test_an_encoder_s_coordinates_are_its_activations_and_only_those_asked_for(featured: Any) -> None:
    session, sae = featured
    run, asked = session.state.baseline, [20_000, 3, MANY - 1]
    answer = load(session.query("coef", {"run": run, "dictionary": SAE, "indices": asked}))
    recording = session.state.model.model.run(PROMPT, ["resid_pre.0", "resid_post"])
    sites = ["resid_pre.0", *(f"resid_post.{i}" for i in range(session.state.model.model.n_layers))]
    assert answer["coef"].shape[-1] == len(asked)
    assert (answer["coef"] == 0).any()
    assert (answer["coef"] > 0).any()
    for row, site in enumerate(sites):
        for column, i in enumerate(asked):
            wanted = activations(sae, recording[site][0], i)
            torch.testing.assert_close(answer["coef"][row, :, column], wanted, atol=1e-4, rtol=1e-4)
    assert not answer["offset"].any()


def test_an_encoder_of_what_an_mlp_reads_is_read_there_and_not_of_the_stream(live: Session, tmp_path: Path) -> None:
    model, draw = live.state.model.model, torch.Generator().manual_seed(6)
    read, write = (torch.randn(50, model.d_model, generator=draw) for _ in range(2))
    parts = {
        "bias": torch.randn(50, generator=draw),
        "mean": torch.zeros(model.d_model),
        "base": torch.zeros(model.d_model),
    }
    made = EncoderDictionary("sae", "mlp_in.1", read, write, written="mlp_out.1", **parts)
    directions.save(tmp_path / "t.safetensors", made, model)
    live.intent("set_prompt", {"text": PROMPT})
    live.import_item((tmp_path / "t.safetensors").read_bytes(), "transcoder")
    assert live.wait()
    answer = load(live.coef(live.state.baseline, dictionary="sae@mlp_in.1", indices=[7]))["coef"]
    recording = model.run(PROMPT, ["mlp_in"])
    assert len(answer) == model.n_layers
    for layer in range(model.n_layers):
        wanted = activations(made, recording["mlp_in", layer][0], 7)
        torch.testing.assert_close(answer[layer, :, 0], wanted, atol=1e-4, rtol=1e-4)


def test_a_linear_dictionary_answers_with_those_asked_for_too(featured: Any) -> None:
    session, _ = featured
    run = session.state.baseline
    for id in (PCA1, PCA3):
        every, some = load(session.coef(run, dictionary=id)), load(session.coef(run, dictionary=id, indices=[1, 0]))
        for name in ("coef", "offset"):
            torch.testing.assert_close(some[name], every[name][..., [1, 0]], equal_nan=True)


def test_the_strongest_at_a_cell_are_those_of_the_wire(featured: Any) -> None:
    session, sae = featured
    run = session.state.baseline
    top = session.query("strongest", {"run": run, "dictionary": SAE, "row": 2, "pos": 3, "k": 5})["top"]
    x = session.state.model.model.run(PROMPT, ["resid_post.1"])["resid_post.1"][0, 3]
    every = ((x.double() - sae.mean) @ sae.read.double().T + sae.bias).clamp(min=0)
    assert [one["index"] for one in top] == every.topk(5).indices.tolist()
    coefs = load(session.coef(run, dictionary=SAE, indices=[one["index"] for one in top]))["coef"][2, 3]
    torch.testing.assert_close(torch.tensor([one["value"] for one in top]), coefs, atol=1e-5, rtol=1e-5)
    linear = session.query("strongest", {"run": run, "dictionary": PCA1, "row": 1, "pos": 2, "k": 2})["top"]
    whole = load(session.coef(run, dictionary=PCA1))["coef"][1, 2]
    assert [one["index"] for one in linear] == whole.abs().topk(2).indices.tolist()


@pytest.mark.parametrize("indices", [None, [], [MANY], [-1], list(range(401))])
def test_coordinates_that_are_not_sent(featured: Any, indices: list[int] | None) -> None:
    session, _ = featured
    with pytest.raises(DirectionError):
        session.coef(session.state.baseline, dictionary=SAE, indices=indices)


@pytest.mark.parametrize("cell", [{"row": 99}, {"pos": 99}, {"k": 0}, {"row": -1}])
def test_cells_that_are_not_there(featured: Any, cell: dict[str, int]) -> None:
    session, _ = featured
    with pytest.raises((DirectionError, UnknownLayer, UnknownPosition)):
        session.query(
            "strongest", {"run": session.state.baseline, "dictionary": SAE, "row": 1, "pos": 1, "k": 2} | cell
        )


def test_a_feature_is_mixed_and_edited(featured: Any) -> None:
    session, sae = featured
    terms = [{"dictionary": SAE, "index": 20_000, "weight": 1.0}, {"dictionary": PCA1, "index": 1, "weight": 2.0}]
    ref = {"kind": "mix", "terms": terms}
    assert session.read(ref)
    pca = session.state.model.dictionary(PCA1)
    wanted = sae.read[20_000] + 2 * pca.read[1]
    found, _ = session.resolve(ref)
    torch.testing.assert_close(found.read, wanted / wanted.norm(), atol=1e-5, rtol=1e-5)
    session.intent("add_edit", {"edit": {"kind": "feature", "dictionary": SAE, "index": [20_000], "value": 3.0}})
    assert session.wait(60)
    plain = session.state.model.model.run(PROMPT, ["resid_post.1", "resid_post.2"])
    old = activations(sae, plain["resid_post.1"][0], 20_000)
    moved = plain["resid_post.2"][0] + (3 - old)[:, None] * sae.write[20_000]
    edited = load(session.coef(session.state.edited, dictionary=SAE, indices=[7]))["coef"][3, :, 0]
    torch.testing.assert_close(edited, activations(sae, moved, 7), atol=1e-3, rtol=1e-4)


def test_a_reference_by_hash_is_never_answered_by_another_of_its_id(featured: Any, tmp_path: Path) -> None:
    session, sae = featured
    model, run = session.state.model.model, session.state.baseline
    other = replace(sae, bias=sae.bias + 1)
    directions.save(tmp_path / "other.safetensors", other, model)
    pinned, absent = f"{SAE}~sha256:{sae.hash}", f"{SAE}~sha256:{other.hash[:16]}"
    ref = {"kind": "mix", "terms": [{"dictionary": absent, "index": 5, "weight": 1.0}]}
    with pytest.raises(NotFound, match=rf"another hash.*{other.hash[:16]}.*{sae.hash}"):
        session.resolve(ref)
    with pytest.raises(NotFound, match=r"is not here.*none of that id"):
        session.coef(run, dictionary=f"sae@resid_post.2~sha256:{other.hash}", indices=[1])
    with pytest.raises(NotFound):
        session.coef(run, dictionary=f"{SAE}~sha256:", indices=[1])
    by_hash, by_id = (load(session.coef(run, dictionary=id, indices=[5]))["coef"] for id in (pinned, SAE))
    assert torch.equal(by_hash, by_id)
    session.import_item((tmp_path / "other.safetensors").read_bytes(), "others")
    found, _ = session.resolve(ref)
    assert found == session.resolve({**ref, "terms": [{"dictionary": f"{SAE}#2", "index": 5, "weight": 1.0}]})[0]
    assert found.offset == pytest.approx(float(other.read[5] @ other.mean - other.bias[5]), abs=1e-3)
    edit = {"kind": "feature", "dictionary": absent, "index": [5], "value": 3.0}
    session.intent("add_edit", {"edit": edit})
    assert session.wait(60)
    (shown,) = session.snapshot()[1]["edits"]
    assert shown["error"] is None
    (made,) = session.state.world().made(session.state.active)
    assert made.dictionary.hash == other.hash


def test_the_wire_says_the_hash(featured: Any) -> None:
    session, sae = featured
    row = session.snapshot()[1]["model"]["dictionaries"][-1]
    assert (row["id"], row["hash"], row["site"], row["write_site"]) == (SAE, sae.hash, "resid_post.1", "resid_post.2")
