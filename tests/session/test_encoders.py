"""An encoder of 24,576 features in a session: what the page is sent of it, its picture as Python, mixes with it, edits of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

import residscope as rs
from residscope import directions
from residscope.directions import EncoderDictionary
from residscope.errors import DirectionError, NotFound, UnknownLayer, UnknownPosition, ZeroDirection
from residscope.session import Session
from residscope.world.dictionaries import fitted_row
from session import worlds

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
    answer = load(live.reads.coef(live.state.baseline, dictionary="sae@mlp_in.1", indices=[7]))["coef"]
    recording = model.run(PROMPT, ["mlp_in"])
    assert len(answer) == model.n_layers
    for layer in range(model.n_layers):
        wanted = activations(made, recording["mlp_in", layer][0], 7)
        torch.testing.assert_close(answer[layer, :, 0], wanted, atol=1e-4, rtol=1e-4)


def test_a_linear_dictionary_answers_with_those_asked_for_too(featured: Any) -> None:
    session, _ = featured
    run = session.state.baseline
    for id in (PCA1, PCA3):
        every, some = (
            load(session.reads.coef(run, dictionary=id)),
            load(session.reads.coef(run, dictionary=id, indices=[1, 0])),
        )
        for name in ("coef", "offset"):
            torch.testing.assert_close(some[name], every[name][..., [1, 0]], equal_nan=True)


def test_the_strongest_at_a_cell_are_those_of_the_wire(featured: Any) -> None:
    session, sae = featured
    run = session.state.baseline
    top = session.query("strongest", {"run": run, "dictionary": SAE, "row": 2, "pos": 3, "k": 5})["top"]
    x = session.state.model.model.run(PROMPT, ["resid_post.1"])["resid_post.1"][0, 3]
    every = ((x.double() - sae.mean) @ sae.read.double().T + sae.bias).clamp(min=0)
    assert [one["index"] for one in top] == every.topk(5).indices.tolist()
    coefs = load(session.reads.coef(run, dictionary=SAE, indices=[one["index"] for one in top]))["coef"][2, 3]
    torch.testing.assert_close(torch.tensor([one["value"] for one in top]), coefs, atol=1e-5, rtol=1e-5)
    linear = session.query("strongest", {"run": run, "dictionary": PCA1, "row": 1, "pos": 2, "k": 2})["top"]
    whole = load(session.reads.coef(run, dictionary=PCA1))["coef"][1, 2]
    assert [one["index"] for one in linear] == whole.abs().topk(2).indices.tolist()


@pytest.mark.parametrize("indices", [None, [], [MANY], [-1], list(range(401))])
def test_coordinates_that_are_not_sent(featured: Any, indices: list[int] | None) -> None:
    session, _ = featured
    with pytest.raises(DirectionError):
        session.reads.coef(session.state.baseline, dictionary=SAE, indices=indices)


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
    assert session.reads.read(ref)
    pca = session.state.model.dictionary(PCA1)
    wanted = sae.read[20_000] + 2 * pca.read[1]
    found, _ = session.reads.resolve(ref)
    torch.testing.assert_close(found.read, wanted / wanted.norm(), atol=1e-5, rtol=1e-5)
    session.intent("add_edit", {"edit": {"kind": "feature", "dictionary": SAE, "index": [20_000], "value": 3.0}})
    assert session.wait(60)
    plain = session.state.model.model.run(PROMPT, ["resid_post.1", "resid_post.2"])
    old = activations(sae, plain["resid_post.1"][0], 20_000)
    moved = plain["resid_post.2"][0] + (3 - old)[:, None] * sae.write[20_000]
    edited = load(session.reads.coef(session.state.edited, dictionary=SAE, indices=[7]))["coef"][3, :, 0]
    torch.testing.assert_close(edited, activations(sae, moved, 7), atol=1e-3, rtol=1e-4)


def test_a_reference_by_hash_is_never_answered_by_another_of_its_id(featured: Any, tmp_path: Path) -> None:
    session, sae = featured
    model, run = session.state.model.model, session.state.baseline
    other = replace(sae, bias=sae.bias + 1)
    directions.save(tmp_path / "other.safetensors", other, model)
    pinned, absent = f"{SAE}~sha256:{sae.hash}", f"{SAE}~sha256:{other.hash[:16]}"
    ref = {"kind": "mix", "terms": [{"dictionary": absent, "index": 5, "weight": 1.0}]}
    with pytest.raises(NotFound, match=rf"another hash.*{other.hash[:16]}.*{sae.hash}"):
        session.reads.resolve(ref)
    with pytest.raises(NotFound, match=r"is not here.*none of that id"):
        session.reads.coef(run, dictionary=f"sae@resid_post.2~sha256:{other.hash}", indices=[1])
    with pytest.raises(NotFound):
        session.reads.coef(run, dictionary=f"{SAE}~sha256:", indices=[1])
    by_hash, by_id = (load(session.reads.coef(run, dictionary=id, indices=[5]))["coef"] for id in (pinned, SAE))
    assert torch.equal(by_hash, by_id)
    session.import_item((tmp_path / "other.safetensors").read_bytes(), "others")
    found, _ = session.reads.resolve(ref)
    assert found == session.reads.resolve({**ref, "terms": [{"dictionary": f"{SAE}#2", "index": 5, "weight": 1.0}]})[0]
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


def exported(session: Session, ref: dict[str, Any], folder: Path, **more: bool) -> torch.Tensor:
    """What the copied lines leave of the row that the encoder reads, run where nothing else has a name."""
    patch = pytest.MonkeyPatch()
    try:
        patch.chdir(folder)
        patch.setattr(rs, "load", lambda name, **options: session.state.model.model)
        patch.setattr("residscope.directions.shipped", worlds.components)
        for item in session.snapshot()[1]["items"]["items"]:
            file, data = session.reads.item_file(item["name"], ".safetensors")
            (folder / file).write_bytes(data)
        namespace: dict[str, Any] = {}
        exec(compile(session.intent("python", {"direction": ref, **more})["code"], "<pasted>", "exec"), namespace)
    finally:
        patch.undo()
    known = [session.state.model.dictionary(term["dictionary"]) for term in ref["terms"] if "dictionary" in term]
    encoder = next(one for one in known if isinstance(one, EncoderDictionary))
    found: torch.Tensor = namespace["cells"][fitted_row(encoder, session.state.model.model.sites)]
    return found.float()


def shown(session: Session, terms: list[dict[str, Any]], row: int, *, centred: bool = True) -> torch.Tensor:
    """The page's cells at a row: the weighted sum of what `coef` sends it, each index asked for alone."""
    total = torch.zeros(len(session.state.prompt.tokens))
    for term in terms:
        source = term.get("dictionary") or f"saved:{term['saved']}"
        found = load(session.reads.coef(session.state.baseline, dictionary=source, indices=[term.get("index", 0)]))
        total += term["weight"] * (found["coef"][row, :, 0] - (found["offset"][row, 0] if centred else 0.0))
    return total


FEATURE = {"dictionary": SAE, "index": 20_000, "weight": 1.0}


@pytest.mark.parametrize(
    "terms",
    [
        [FEATURE],
        [{**FEATURE, "weight": -1.0}],
        [{**FEATURE, "weight": 0.5}, {"dictionary": SAE, "index": 3, "weight": -0.25}],
        [{**FEATURE, "weight": 0.5}, {"dictionary": PCA1, "index": 1, "weight": 1.0}],
        [{"dictionary": PCA3, "index": 0, "weight": 2.0}, {**FEATURE, "weight": -0.3}],
    ],
)
def test_copied_python_of_a_picture_gives_the_screen_s_numbers(featured: Any, tmp_path: Path, terms: Any) -> None:
    session, _ = featured
    found = exported(session, {"kind": "mix", "terms": terms}, tmp_path)
    row = 2  # resid_post.1, where the encoder reads
    torch.testing.assert_close(found, shown(session, terms, row), atol=1e-4, rtol=1e-5)
    assert found.any()
    raw = exported(session, {"kind": "mix", "terms": terms}, tmp_path, raw=True)
    torch.testing.assert_close(raw, shown(session, terms, row, centred=False), atol=1e-4, rtol=1e-5)


def test_copied_python_of_a_direction_shown_raw_subtracts_nothing(featured: Any) -> None:
    session, _ = featured
    pca = {"kind": "pca", "site": "resid_post.1", "weights": {"1": 1.0}}
    for raw in (True, False):
        code = session.intent("python", {"direction": pca, "raw": raw})["code"]
        assert (" - direction.project(" in code) != raw
    logits = {"kind": "logit_diff", "positive": "a", "negative": "b"}
    assert "space=" not in session.intent("python", {"direction": logits, "raw": True})["code"]


def test_copied_python_of_one_alone_is_in_its_own_units_however_little_it_weighs(featured: Any, tmp_path: Path) -> None:
    session, _ = featured
    found = exported(session, {"kind": "mix", "terms": [{**FEATURE, "weight": 0.2}]}, tmp_path)
    torch.testing.assert_close(found, shown(session, [FEATURE], 2), atol=1e-4, rtol=1e-5)


def test_a_picture_beside_raw_directions_subtracts_nothing_and_reads_saved_ones_at_their_own_zero(
    featured: Any, tmp_path: Path
) -> None:
    session, sae = featured
    vector = torch.randn(len(sae.mean), generator=torch.Generator().manual_seed(8))
    for name, space, offset in (("plain", "raw", 0.0), ("own", "centred", 1.5)):
        made = rs.Direction(vector, vector, "resid_post.1", name=name, space=space, offset=offset)
        made.save(tmp_path / f"{name}.safetensors")
        session.import_direction((tmp_path / f"{name}.safetensors").read_bytes())
    own = [FEATURE, {"saved": "own", "weight": 0.5}]
    found = exported(session, {"kind": "mix", "terms": own}, tmp_path)
    torch.testing.assert_close(found, shown(session, own, 2), atol=1e-4, rtol=1e-5)
    raw = [FEATURE, {"saved": "plain", "weight": 0.5}, {"dictionary": PCA1, "index": 1, "weight": 1.0}]
    found = exported(session, {"kind": "mix", "terms": raw}, tmp_path)
    torch.testing.assert_close(found, shown(session, raw, 2, centred=False), atol=1e-4, rtol=1e-5)


def test_a_picture_whose_reads_cancel_is_still_one_and_no_direction(featured: Any, tmp_path: Path) -> None:
    session, sae = featured
    twin = replace(sae, read=sae.read.clone().index_copy_(0, torch.tensor([1]), sae.read[:1]))
    directions.save(tmp_path / "twin.safetensors", twin, session.state.model.model)
    session.import_item((tmp_path / "twin.safetensors").read_bytes(), "twin")
    terms = [{"dictionary": f"{SAE}#2", "index": i, "weight": w} for i, w in ((0, 1.0), (1, -1.0))]
    with pytest.raises(ZeroDirection):
        session.reads.read({"kind": "mix", "terms": terms})
    found = exported(session, {"kind": "mix", "terms": terms}, tmp_path)
    torch.testing.assert_close(found, shown(session, terms, 2), atol=1e-4, rtol=1e-5)


def test_a_picture_of_what_is_not_there_is_refused_when_it_is_copied(featured: Any) -> None:
    session, _ = featured
    for term in ({**FEATURE, "index": MANY}, {**FEATURE, "dictionary": f"{SAE}~sha256:{'0' * 64}"}):
        with pytest.raises((DirectionError, NotFound)):
            session.intent("python", {"direction": {"kind": "mix", "terms": [term]}})


def test_products_of_single_features_are_those_of_their_encoder_rows(featured: Any) -> None:
    session, sae = featured
    answer = session.query("gram", {"of": [PCA1, f"{SAE}/20000", f"{SAE}/3", f"{PCA3}/1"]})
    pca1, pca3 = (session.state.model.dictionary(id) for id in (PCA1, PCA3))
    assert answer["of"] == [*([PCA1, i] for i in range(len(pca1))), [SAE, 20_000], [SAE, 3], [PCA3, 1]]
    rows = torch.cat([pca1.read, sae.read[[20_000, 3]], pca3.read[[1]]]).double()
    torch.testing.assert_close(torch.tensor(answer["gram"]).double(), rows @ rows.T, atol=1e-4, rtol=1e-5)
    assert len(session.query("gram", {"of": [f"{SAE}/{i}" for i in range(400)]})["of"]) == 400
    for wrong in ([SAE], [f"{SAE}/{MANY}"], [f"nothing@embed/{1}"]):
        with pytest.raises((DirectionError, NotFound)):
            session.query("gram", {"of": wrong})


def test_a_page_of_prompts_answers_with_the_features_asked_for(featured: Any) -> None:
    session, sae = featured
    page = session.query("prompts", {"own": [PROMPT]})["id"]
    ask = {"page": page, "row": 2, "dictionary": SAE}
    answer = load(session.query("prompts_coef", {**ask, "indices": [20_000, 7]}))
    x = session.state.model.model.run(PROMPT, ["resid_post.1"])["resid_post.1"][0]
    wanted = torch.stack([activations(sae, x, i) for i in (20_000, 7)], dim=-1)
    torch.testing.assert_close(answer["coef"], wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(DirectionError):
        session.query("prompts_coef", ask)


def test_what_components_say_is_asked_for_by_index_too(featured: Any) -> None:
    session, _ = featured
    every = session.query("dictionary", {"id": PCA1})["components"]
    assert session.query("dictionary", {"id": PCA1, "indices": [2, 0]})["components"] == [every[2], every[0]]
    (one,) = session.query("dictionary", {"id": SAE, "indices": [20_000]})["components"]
    assert (one["index"], one["label"], one["variance"]) == (20_000, "sae 20000", None)
    with pytest.raises(DirectionError):
        session.query("dictionary", {"id": SAE, "indices": [MANY]})


def test_an_encoder_s_direction_says_that_it_is_linear_and_keeps_the_hash(featured: Any, tmp_path: Path) -> None:
    session, sae = featured
    ref = {"kind": "mix", "terms": [FEATURE, {"dictionary": PCA1, "index": 1, "weight": 1.0}]}
    alone = {"kind": "mix", "terms": [FEATURE]}
    for one in (ref, alone):
        assert "Linear: read before the ReLU, and written by the decoder" in session.reads.read(one)["about"]
    assert (
        "before the" not in session.reads.read({"kind": "pca", "site": "resid_post.1", "weights": {"1": 1.0}})["about"]
    )
    direction, _ = session.reads.resolve(alone)
    assert direction.provenance["hash"] == sae.hash
    mixed, _ = session.reads.resolve(ref)
    assert mixed.provenance["mix"][0]["of"]["hash"] == sae.hash
    kept = session.adopt(direction, id="x1")
    told = session.reads.read(kept)["about"]
    assert told.startswith("From the library")
    assert "before the ReLU" in told
    assert session.reads.resolve(kept)[0].provenance["hash"] == sae.hash


def test_a_direction_of_an_encoder_and_a_component_keeps_the_bias_wherever_the_component_is_of(featured: Any) -> None:
    """read . x - offset is the weighted sum of what is read before the ReLU and the component's own coordinate."""
    session, sae = featured
    x = torch.randn(4, len(sae.mean), generator=torch.Generator().manual_seed(2)).double()
    for id in (PCA1, PCA3):
        pca = session.state.model.dictionary(id)
        ref = {"kind": "mix", "terms": [FEATURE, {"dictionary": id, "index": 1, "weight": 2.0}]}
        found, _ = session.reads.resolve(ref)
        before = (x - sae.mean) @ sae.read[20_000].double() + sae.bias[20_000]
        along = (x - pca.mean) @ pca.read[1].double()
        length = (sae.read[20_000] + 2 * pca.read[1]).double().norm()
        torch.testing.assert_close(found.project(x), (before + 2 * along) / length, atol=1e-4, rtol=1e-4)


def test_what_an_encoder_subtracts_is_no_data_set_mean_whatever_it_is_called(live: Session, tmp_path: Path) -> None:
    model = live.state.model.model
    eye, zero, mean = torch.eye(model.d_model), torch.zeros(model.d_model), torch.ones(model.d_model)
    named = EncoderDictionary("pca", "mlp_out.1", eye, eye, mean, zero, zero)
    directions.save(tmp_path / "named.safetensors", named, model)
    live.import_item((tmp_path / "named.safetensors").read_bytes(), "named")
    assert "pca@mlp_out.1" in live.state.model.dictionaries
    assert live.state.model.means.knower("mlp_out.1", None) is None


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize(
    ("site", "written"),
    [
        ("mlp_in.1", "mlp_out.1"),
        ("mlp_post.2", "mlp_out.2"),
        ("resid_mid.1", None),
        ("final_norm", None),
        ("embed", None),
    ],
)
def test_every_kind_of_encoder_is_read_at_its_place_and_copied(
    live: Session, tmp_path: Path, activation: str, site: str, written: str | None
) -> None:
    """Also of one that reads and writes vectors of two widths, which has no linear direction."""
    model, draw, n, chosen = live.state.model.model, torch.Generator().manual_seed(9), 500, [7, 450]
    sites = model.sites
    d_read, d_write = (sites.width(sites.parse(place)) for place in (site, written or site))
    read, write = (torch.randn(n, d, generator=draw) for d in (d_read, d_write))
    bias, threshold = torch.randn(n, generator=draw), torch.rand(n, generator=draw)
    more: dict[str, Any] = {"topk": {"k": 20}, "jumprelu": {"threshold": threshold}}.get(activation, {})
    parts = {"mean": torch.zeros(d_read), "base": torch.zeros(d_write), "bias": bias, "written": written}
    made = EncoderDictionary("sae", site, read, write, activation=activation, **parts, **more)
    directions.save(tmp_path / "made.safetensors", made, model)
    live.intent("set_prompt", {"text": PROMPT})
    live.import_item((tmp_path / "made.safetensors").read_bytes(), "made")
    assert live.wait()
    x = model.run(PROMPT, [site])[site][0].double()
    p = x @ read.double().T + bias.double()
    kept = {
        "relu": p > 0,
        "jumprelu": p > threshold,
        "topk": (p >= p.topk(20).values[:, -1:]) & (p > 0),
    }[activation]
    wanted = torch.where(kept, p, 0)[:, chosen].float()
    id = f"sae@{site}"
    assert live.snapshot()[1]["model"]["dictionaries"][-1]["activation"] == activation
    ref = {
        "kind": "mix",
        "terms": [{"dictionary": id, "index": i, "weight": w} for i, w in zip(chosen, (1.0, -0.5), strict=True)],
    }
    torch.testing.assert_close(exported(live, ref, tmp_path), wanted[:, 0] - 0.5 * wanted[:, 1], atol=1e-3, rtol=1e-4)
    answer = live.reads.coef(live.state.baseline, dictionary=id, indices=chosen)
    told = json.loads(answer[8 : 8 + int.from_bytes(answer[:8], "little")])["__metadata__"]
    at = int(told["fitted_row"])  # every encoder's own place is among its rows
    torch.testing.assert_close(load(answer)["coef"][at], wanted, atol=1e-3, rtol=1e-4)
    top = live.query("strongest", {"run": live.state.baseline, "dictionary": id, "row": at, "pos": 3, "k": 3})["top"]
    active = torch.where(kept, p, 0)[3]
    assert [one["index"] for one in top] == [i for i in active.topk(3).indices.tolist() if active[i] > 0]
    page = live.query("prompts", {"own": [PROMPT]})["id"]
    ask = {"page": page, "row": at, "dictionary": id, "indices": chosen}
    torch.testing.assert_close(load(live.query("prompts_coef", ask))["coef"], wanted, atol=1e-3, rtol=1e-4)
