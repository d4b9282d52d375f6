"""What the Features tab asks of a session: every number is the Python function's, and what cannot be answered says why."""

import io
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import residscope as rs
from residscope import errors, features
from residscope.directions import EncoderDictionary
from residscope.features.names import FeatureName, FeatureNames
from residscope.json_values import finite
from residscope.session import Session
from residscope.session.read import feature_effects
from residscope.views import to_html
from session import worlds
from session.asked import start
from session.test_queries import TEXT

PLACE, PROMPT = "resid_post.1", "the 12 paragraph"


@pytest.fixture(scope="module")
def sae() -> EncoderDictionary:
    model, draw = worlds.model(), torch.Generator().manual_seed(4)
    write = torch.nn.functional.normalize(torch.randn(40, model.d_model, generator=draw), dim=1)
    zero = torch.zeros(model.d_model)
    told = {"neuronpedia_id": "tiny/1-res"}
    return EncoderDictionary(
        "sae", PLACE, write, write, mean=zero, bias=torch.zeros(40), base=zero, activation="topk", k=4, provenance=told
    )


@pytest.fixture(scope="module")
def live(sae: EncoderDictionary) -> Any:
    """A session with the dictionary, two atlases of it and one of neurons, made by jobs."""
    patch = pytest.MonkeyPatch()
    patch.setattr("residscope.world.loaded.shipped", lambda model: worlds.components(model))
    with worlds.session() as session:
        session.intent("set_prompt", {"text": PROMPT})
        session.keep("dictionary", sae)
        assert session.wait(60)
        (id,) = [id for id, d in session.state.model.dictionaries.items() if d.hash == sae.hash]
        start(session, "atlas", name="one", corpus=TEXT, dictionary=id, tokens=1000, k=3)
        start(session, "atlas", name="two", corpus=TEXT, dictionary=id, tokens=2000, k=3)
        start(session, "atlas", name="neurons", corpus=TEXT, site="mlp_post.1", tokens=1000, k=3)
        assert session.wait(120)
        yield session
    patch.undo()


@pytest.fixture
def atlas(live: Session) -> features.Atlas:
    found: features.Atlas = live.items["one"]
    return found


@pytest.fixture
def model() -> rs.Model:
    return worlds.model()


def test_all_pages_are_written_by_a_job_and_fetched_by_its_name(
    live: Session, atlas: features.Atlas, sae: EncoderDictionary, model: rs.Model
) -> None:
    cost = live.query("features_cost", {"atlas": "one"})
    assert cost["pages"] == 40
    assert cost["seconds"] > 0 < cost["bytes"]
    before = [*live.items]
    job = live.intent("export_features", {"atlas": "one"})["job"]
    assert live.wait(120)
    told = next(one for one in live.snapshot()[1]["jobs"] if one["id"] == job)
    assert (told["phase"], told["note"]) == ("done", "The file is ready.")
    name, data = live.file(job, ".zip")
    assert name == "features-one.zip"
    assert [*live.items] == before
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert len(packed.namelist()) == 41
        page = packed.read("features-one/7.html").decode()
    made = features.page(model, atlas, 7, sae, effects=False)
    assert page == to_html(made.view(), title=made.address)
    for refused in ("j999", "one"):
        with pytest.raises(errors.NotFound):
            live.file(refused, ".zip")
    with pytest.raises(errors.NotFound):
        live.intent("export_features", {"atlas": "nothing"})


def test_a_name_that_holds_is_the_feature_s_name_and_one_that_does_not_is_told(
    live: Session, atlas: features.Atlas, sae: EncoderDictionary, model: rs.Model
) -> None:
    about = {"endpoint model": "by-rule"}
    held = FeatureName(3, "sae 3", "commas", 20, 0.9, (0.7, 0.97), 0.5, (0.4, 0.2, 0.6), True)
    lost = FeatureName(4, "sae 4", "verbs", 20, 0.5, (0.3, 0.7), 0.5, (0.0, -0.2, 0.2), False)
    for hash, name in ((sae.hash, "mine"), ("0" * 64, "of another")):
        live.keep(name, FeatureNames("sae", PLACE, hash, (held, lost), about))
    try:
        rows = {row["index"]: row["name"] for row in live.query("features", {"atlas": "one", "count": 200})["rows"]}
        assert (rows[3], rows[4]) == ("commas", None)
        assert live.query("feature", {"atlas": "one", "index": 3})["name"] == "commas"
        told = live.query("feature", {"atlas": "one", "index": 4})
        assert told["name"] is None
        assert told["proposed"] == {"name": "verbs", "said": lost.said, "better": False}
        assert live.query("feature", {"atlas": "neurons", "index": 3})["proposed"] is None
        assert live.query("feature", {"atlas": "one", "index": 5})["proposed"] is None
    finally:
        live.take_off("mine")
        live.take_off("of another")


def test_atlases_are_told_with_the_dictionary_that_they_are_of(live: Session, sae: EncoderDictionary) -> None:
    told = {one["name"]: one for one in live.query("atlases")["atlases"]}
    assert {*told} == {"neurons", "two", "one"}
    assert told["one"]["hash"] == told["two"]["hash"] == sae.hash
    assert live.state.model.dictionary(told["one"]["dictionary"]).hash == sae.hash
    assert told["neurons"]["dictionary"] is None
    assert [one["missing"] for one in told.values()] == [None] * 3
    assert told["one"]["count"] == 40
    assert told["one"]["address"] == f"sae/{worlds.model().name}/{PLACE}"


@pytest.mark.parametrize("order", ["highest", "density", "index"])
@pytest.mark.parametrize("descending", [True, False])
def test_a_list_is_in_order_and_in_pages(live: Session, atlas: features.Atlas, order: str, descending: bool) -> None:
    asked = {"atlas": "one", "order": order, "descending": descending}
    whole = live.query("features", {**asked, "count": 200})
    assert whole["total"] == len(whole["rows"]) == 40
    assert {row["index"] for row in whole["rows"]} == {*range(40)}
    values = [row[order] for row in whole["rows"]]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=descending)
    assert values[: len(known)] == known, "those without a value come last"
    part = live.query("features", {**asked, "first": 7, "count": 5})
    assert part["rows"] == whole["rows"][7:12]
    assert live.query("features", {**asked, "first": 100})["rows"] == []
    for row in whole["rows"][:5]:
        index = row["index"]
        assert row["address"] == atlas.address(index)
        assert row["highest"] == finite(float(atlas.highest[index]))
        top = atlas.top.of(index, worlds.model())
        assert row["token"] == (top[0].token if top else None)


def test_searches_find_what_the_functions_find(
    live: Session, atlas: features.Atlas, sae: EncoderDictionary, model: rs.Model
) -> None:
    def asked(**how: Any) -> list[tuple[int, float]]:
        found = live.query("features", {"atlas": "one", "count": 200, **how})
        assert found["total"] == len(found["rows"])
        return [(row["index"], row["value"]) for row in found["rows"]]

    def same(found: list[features.search.Found]) -> list[tuple[int, float]]:  # type: ignore[name-defined]
        return [(one.index, one.value) for one in found]

    index = int(atlas.highest.nan_to_num(0).argmax())
    token = atlas.top.of(index, model)[0].token
    assert asked(token=token) == same(features.on_token(model, atlas, token, 40))
    assert index in dict(asked(token=token))
    assert asked(text=PROMPT) == same(features.on_text(model, atlas, PROMPT, sae, 40))
    assert asked(like=index) == [one for one in same(features.similar(sae, sae[index], 40)) if one[0] != index]
    with pytest.raises(errors.BadArguments, match="one way at a time"):
        asked(token=token, like=3)
    with pytest.raises(errors.UnknownToken):
        asked(token="no one token")
    with pytest.raises(errors.DirectionError, match="0 to 39"):
        asked(like=40)
    with pytest.raises(errors.BadArguments, match="axis of its own"):
        live.query("features", {"atlas": "neurons", "like": 3})


def test_a_page_is_the_function_s(
    live: Session, atlas: features.Atlas, sae: EncoderDictionary, model: rs.Model
) -> None:
    index = int(atlas.density.argmax())
    told, made = (
        live.query("feature", {"atlas": "one", "index": index}),
        features.page(model, atlas, index, sae, effects=False),
    )
    assert told["address"] == made.address
    assert told["density"] == made.density
    assert told["highest"] == made.highest
    assert told["mean_active"] == made.mean_active
    assert told["examples"] == made.examples().to_dict()
    assert told["histogram"] == made.histogram().to_dict()
    assert [(one["index"], one["label"], one["value"]) for one in told["nearest"]] == [*made.nearest]
    assert [(one["index"], one["label"], one["value"]) for one in told["partners"]] == [*made.partners]
    assert told["neuronpedia"] == f"https://www.neuronpedia.org/tiny/1-res/{index}"
    assert told["unit"] == "activation"
    assert [(one["text"], one["value"]) for one in told["raised"]] == [(text, by) for _, text, by in made.tokens.top]
    assert [(one["text"], one["value"]) for one in told["lowered"]] == [
        (text, by) for _, text, by in made.tokens.bottom
    ]
    neuron = live.query("feature", {"atlas": "neurons", "index": 2})
    assert neuron["neuron"]
    assert neuron["address"] == f"neuron/{model.name}/1/2"
    assert neuron["neuronpedia"] is None
    with pytest.raises(errors.DirectionError, match="0 to 39"):
        live.query("feature", {"atlas": "one", "index": 40})


def test_effects_are_the_function_s(
    live: Session, atlas: features.Atlas, sae: EncoderDictionary, model: rs.Model
) -> None:
    index = int(atlas.density.argmax())
    for name, of, dictionary, number in (("one", atlas, sae, index), ("neurons", live.items["neurons"], None, 2)):
        told = live.query("feature_effects", {"atlas": name, "index": number})["examples"]
        made = features.page(model, of, number, dictionary).examples().to_dict()
        assert told["views"][0]["columns"] == [made["views"][0]["columns"][0], "helps next", "KL", "raises most"]
        for ours, theirs in zip(told["views"], made["views"], strict=True):
            for one, other in zip(ours["rows"], theirs["rows"], strict=True):
                assert one["cells"][1:3] == pytest.approx(other["cells"][1:3], abs=1e-5, nan_ok=True)


def test_a_feature_on_the_prompt_is_what_its_dictionary_gives(
    live: Session, atlas: features.Atlas, sae: EncoderDictionary, model: rs.Model
) -> None:
    run = live.state.baseline
    record = model.run(PROMPT, [PLACE])
    a = sae.encode(record[PLACE])[0]
    keep = torch.tensor([i > 0 for i in range(len(a))])
    index = int(a[1:].amax(0).argmax())
    view = live.query("feature_on", {"atlas": "one", "index": index, "run": run})["view"]
    assert "".join(view["tokens"]) == "".join(model.token_texts(record.tokens[0].tolist()))
    assert view["values"][0] is None, "the first token is left out"
    assert view["values"][1:] == pytest.approx(a[1:, index].tolist(), abs=1e-5)
    found = live.query("features_on", {"run": run, "atlases": ["one", "neurons", "nowhere"], "pos": -1, "k": 3})
    first, neurons, nowhere = found["atlases"]
    assert found["pos"] == len(a) - 1
    best = a[-1].topk(3)
    assert [one["index"] for one in first["at"]] == [
        i for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True) if v > 0
    ]
    highest = a[keep].amax(0)
    assert first["overall"][0]["index"] == int(highest.argmax())
    assert first["overall"][0]["share"] == pytest.approx(
        float(highest.max() / atlas.highest[highest.argmax()]), rel=1e-4
    )
    assert neurons["at"][0]["value"] == pytest.approx(
        float(model.run(PROMPT, ["mlp_post.1"])["mlp_post.1"][0, -1].max()), rel=1e-4
    )
    assert "nowhere" in nowhere["refused"]
    with pytest.raises(errors.UnknownPosition):
        live.query("features_on", {"run": run, "atlases": ["one"], "pos": 99})


def test_edits_change_what_a_feature_is_on_an_edited_run(
    live: Session, sae: EncoderDictionary, model: rs.Model
) -> None:
    edit = {"kind": "scale", "site": "resid_post.0", "factor": 3.0}
    live.intent("set_edits", {"edits": [edit]})
    assert live.wait(60)
    try:
        view = live.query("feature_on", {"atlas": "one", "index": 5, "run": live.state.edited})["view"]
        record = model.run(PROMPT, [PLACE], edits=[rs.edits.scale("resid_post.0", 3.0)])
        assert view["values"][1:] == pytest.approx(sae.encode(record[PLACE])[0, 1:, 5].tolist(), abs=1e-4)
    finally:
        live.intent("set_edits", {"edits": []})
        assert live.wait(60)


def test_the_copied_python_gives_the_page(
    live: Session, sae: EncoderDictionary, tmp_path: Path, monkeypatch: Any
) -> None:
    code = live.query("feature", {"atlas": "one", "index": 7})["code"]
    assert "atlas = gather(model, " in code
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rs, "load", lambda *_, **__: worlds.model())
    sae.save(tmp_path / "dictionary.safetensors")
    (tmp_path / "t.txt").write_text(TEXT["text"])
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["page"].label == "sae 7"
    assert names["page"].highest == pytest.approx(
        live.query("feature", {"atlas": "one", "index": 7})["highest"], nan_ok=True
    )


def test_an_atlas_of_a_dictionary_that_is_not_loaded_says_so(live: Session, atlas: features.Atlas) -> None:

    name = live.keep("stray", replace(atlas, hash="0" * 64))
    try:
        (told,) = [one for one in live.query("atlases")["atlases"] if one["name"] == name]
        assert "is not loaded" in told["missing"]
        assert told["dictionary"] is None
        assert live.query("features", {"atlas": name})["rows"], "the list needs no dictionary"
        with pytest.raises(errors.NotFound, match=r"rs\.sae\.load"):
            live.query("feature", {"atlas": name, "index": 3})
        other = live.keep("alien", replace(atlas, provenance={**atlas.provenance, "hash": "1" * 64}))
        with pytest.raises(errors.WrongModel, match="another model"):
            live.query("feature", {"atlas": other, "index": 3})
        with pytest.raises(errors.NotFound, match="no atlas"):
            live.query("feature", {"atlas": "dictionary", "index": 3})
    finally:
        live.take_off(name)
        live.take_off("alien")


def test_the_newest_question_of_an_asker_is_the_one_that_is_measured(live: Session, monkeypatch: Any) -> None:
    """Another asker's goes on; whoever leaves is not measured for."""
    entered, leave = threading.Event(), threading.Event()
    whole, seen = feature_effects.effects, []

    def slow(*args: Any, cancel: Any, **more: Any) -> Any:
        seen.append(args[2])
        entered.set()
        assert leave.wait(30)
        if cancel():
            raise errors.Cancelled("stopped")
        return whole(*args, cancel=cancel, **more)

    monkeypatch.setattr(feature_effects, "effects", slow)
    answers: dict[str, Any] = {}

    def ask(name: str, index: int, asker: str) -> threading.Thread:
        def run() -> None:
            try:
                answers[name] = live.query("feature_effects", {"atlas": "two", "index": index, "asker": asker})
            except errors.ResidscopeError as error:
                answers[name] = error

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    first = ask("first", 1, "page")
    assert entered.wait(30)
    others = [ask("second", 2, "page"), ask("other", 3, "elsewhere"), ask("gone", 4, "leaver")]
    while "leaver" not in live.feature_effects._askers._asked:
        pass
    assert live.query("feature_effects_left", {"asker": "leaver"}) == {"left": False}
    leave.set()
    for thread in (first, *others):
        thread.join(30)
    assert isinstance(answers["first"], errors.Cancelled)
    assert isinstance(answers["gone"], errors.Cancelled)
    assert answers["second"]["index"] == 2
    assert answers["other"]["index"] == 3
    assert 4 not in seen
    seen.clear()
    live.query("feature_effects", {"atlas": "two", "index": 2, "asker": "page"})
    assert seen == [], "what was measured is kept"
