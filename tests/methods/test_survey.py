"""A survey: each measure as it is taken alone; kept and taken up again; what fails is said; at the command line too."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

import residscope as rs
from residscope import errors
from residscope.cli.app import app
from residscope.engine.model import Model
from residscope.results import Result
from tiny_models import tiny_gpt2, tiny_llama

TOKENS = [[3, 14, 15, 9, 26, 5]]
MODELS = {"short": lambda: Model(tiny_llama(layers=2), None), "long": lambda: Model(tiny_gpt2(layers=3), None)}


def load(source: str) -> Model:
    if source not in MODELS:
        raise errors.ModelNotFound(f"there is no model {source}", received=source)
    return MODELS[source]()


def norms(model: Model, seed: int) -> Result:
    """The size of what each head writes: over layer and head, times 1 + seed."""
    found = model.run(TOKENS, ["z"])
    sizes = torch.stack([found[f"z.{layer}"][0].norm(dim=(0, 2)) for layer in range(model.n_layers)])
    return Result(sizes * (1 + seed), ("layer", "head"), name="size", unit="norm")


@pytest.mark.parametrize(("reduce", "by"), [("max", torch.amax), ("min", torch.amin), ("mean", torch.mean)])
def test_each_is_what_it_is_alone(reduce, by):
    found = rs.survey(norms, ["short", "long"], seeds=[0, 2], reduce=reduce, load=load)
    assert found.values.dims == ("model", "seed", "layer")
    for model in MODELS:
        alone = norms(load(model), 0)
        for seed in (0, 2):
            row = found.values.select(model=model, seed=seed).values
            assert row[: len(alone.values)].tolist() == pytest.approx(((1 + seed) * by(alone.values, 1)).tolist())
            assert row[len(alone.values) :].isnan().all()
    whole = rs.survey(norms, ["short", "long"], over=None, reduce=reduce, load=load)
    assert whole.values.values[:, 0].tolist() == pytest.approx(
        [float(getattr(norms(load(m), 0).values, reduce)()) for m in MODELS]
    )


def test_a_map_where_something_is_kept_apart_and_a_curve_where_not():
    assert rs.survey(norms, ["short", "long"], seeds=[0, 1], load=load).view().kind == "heat_map"
    curve = rs.survey(norms, ["short", "long"], seeds=[0, 1], over=None, load=load)
    line = curve.view().lines[0]
    assert line.y == pytest.approx([1.5 * low for low in line.low])
    assert [*line.high] == pytest.approx([2 * low for low in line.low])
    read = torch.tensor(rs.survey(lambda model, seed: model.d_model, ["short"], over=None, load=load).values.values)
    assert read.item() == load("short").d_model


def test_what_is_not_known_is_left_out_and_all_unknown_stays_so():
    nan = math.nan
    table = Result(torch.tensor([[1.0, nan], [nan, nan]]), ("layer", "head"))
    for reduce in ("max", "min", "mean"):
        row = rs.survey(lambda *_: table, ["short"], reduce=reduce, load=load).values.values[0, 0].tolist()
        assert row[0] == 1
        assert math.isnan(row[1])


def test_a_stopped_survey_goes_on(tmp_path):
    measured = []

    def told(model, seed):
        found = norms(model, seed)
        measured.append((model.n_layers, seed))
        return found

    def stop():
        return len(measured) >= 2

    with pytest.raises(errors.Cancelled) as stopped:
        rs.survey(told, ["short", "long"], seeds=[0, 1], name="size", folder=tmp_path, load=load, cancel=stop)
    partial = stopped.value.partial.values.values
    assert (~partial[:, :, 0].isnan()).tolist() == [[True, True], [False, False]]
    whole = rs.survey(told, ["short", "long"], seeds=[0, 1], name="size", folder=tmp_path, load=load)
    assert measured == [(2, 0), (2, 1), (3, 0), (3, 1)]
    again = rs.survey(
        told, ["short", "long"], seeds=[0, 1], name="size", folder=tmp_path, load=lambda source: pytest.fail(source)
    )
    assert torch.equal(again.values.values.nan_to_num(-1), whole.values.values.nan_to_num(-1))
    rs.survey(told, ["short"], name="size, otherwise", folder=tmp_path, load=load)
    assert len(measured) == 5


def test_a_folder_s_model_is_measured_again_where_its_files_changed(tmp_path):
    at = tmp_path / "model"
    at.mkdir()
    (at / "weights").write_text("one")
    count = []
    for content in ("one", "one", "another"):
        (at / "weights").write_text(content) if (at / "weights").read_text() != content else None
        rs.survey(
            lambda *_: count.append(1) or 1.0,
            [str(at)],
            over=None,
            name="n",
            folder=tmp_path / "kept",
            load=lambda _: load("short"),
        )
    assert len(count) == 2


def test_one_that_fails_is_said_and_the_others_are_there(tmp_path):
    found = rs.survey(norms, ["short", "lost", "long"], load=load)
    assert "no model lost" in found.failed["lost"]
    assert found.values.select(model="lost").values.isnan().all()
    assert not found.values.select(model="long").values.isnan().any()
    assert "no model lost" in str(found.view().to_dict())
    found.save(tmp_path / "survey.safetensors")
    assert rs.load_item(tmp_path / "survey.safetensors").failed == found.failed
    with pytest.raises(errors.ModelNotFound):
        rs.survey(norms, ["lost"], load=load)


@pytest.mark.parametrize("how", [
    {"models": []}, {"models": "short"}, {"models": ["short", "short"]}, {"seeds": []}, {"reduce": "sum"},
    {"folder": "somewhere"}, {"over": "pos"}, {"measure": lambda *_: "words"},
])  # fmt: skip
def test_refused_in_words(how):
    with pytest.raises(errors.BadArguments):
        rs.survey(**{"measure": norms, "models": ["short"], "load": load, **how})


def test_at_the_command_line(tmp_path):
    out, kept = tmp_path / "found.json", str(tmp_path / "kept")
    asked = [
        "survey",
        "head-scores",
        "smollm2-135m",
        "lost-model",
        "--kinds",
        "induction",
        "--n",
        "2",
        "--length",
        "8",
        "--seeds",
        "0,1",
    ]
    ran = CliRunner().invoke(app, [*asked, "--folder", kept, "--json", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "lost-model was not measured" in ran.output
    told = json.loads(out.read_text())
    at = [told["columns"].index(name) for name in ("model", "seed", "layer")]
    alone = rs.head_scores(rs.load("smollm2-135m"), kinds="induction", n=2, length=8, seed=1).scores
    best = alone.values.movedim(alone.dims.index("layer"), 0).flatten(1).amax(1)
    rows = {row[at[2]]: row[-1] for row in told["rows"] if (row[at[0]], row[at[1]]) == ("smollm2-135m", 1)}
    value = told["columns"].index("value") if "value" in told["columns"] else -1
    rows = {row[at[2]]: row[value] for row in told["rows"] if (row[at[0]], row[at[1]]) == ("smollm2-135m", 1)}
    assert [rows[layer] for layer in range(30)] == pytest.approx(best.tolist(), abs=1e-5)
    for refused in (
        ["survey", "head-scores"],
        ["survey", "logit-lens", "smollm2-135m", "x", "--seeds", "0"],
        [*asked, "--seeds", "a"],
    ):
        assert CliRunner().invoke(app, refused).exit_code != 0
