"""Every file of version 0.1 opens, with the numbers that `numbers.json` has of it; a damaged copy is refused by name.

`make.py` says how they were made, once, and where the numbers are from.
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import residscope as rs
from kept.told import HERE, NUMBERS, flipped
from residscope import directions, edits
from residscope.engine.model import Model
from residscope.errors import BadEdit, DamagedFile, ResidscopeError, WrongModel

N = len(NUMBERS["edits"]["unedited"])  # logits that are written down


@pytest.fixture(scope="module")
def model() -> Model:
    return rs.load(str(HERE / "model"))


def close(found: Tensor, wanted: Any, tolerance: float = 1e-4) -> None:
    """Equal to a part of the greatest."""
    there = torch.tensor(wanted, dtype=torch.float64)
    assert (found.double() - there).abs().max() <= tolerance * there.abs().max()


def last(recording: Any, row: int = 0) -> Tensor:
    return recording.logits[row, recording.lengths[row] - 1 - recording.offset, :N]


def test_the_model_is_the_one_they_were_made_with(model: Model) -> None:
    assert model.hash == NUMBERS["hash"]


# ── recordings ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_recording_opens_with_its_prompts_answers_edits_and_numbers(model: Model) -> None:
    told = NUMBERS["recording"]
    found = rs.load_recording(HERE / "recording.safetensors", model)
    assert [found.tokens[i, :n].tolist() for i, n in enumerate(found.lengths)] == told["rows"]
    assert [list(pair) for pair in found.batch.answers] == told["answers"]
    for row, logits in enumerate(told["logits"]):
        close(last(found, row), logits)
        close(found["resid_pre.2"][row, 1], told["resid_pre.2 at 1"][row])
        close(found["z.1"][row, 2].flatten(), told["z.1 at 2"][row])
        close(found["attn_out.2"][row, 3], told["attn_out.2 at 3"][row])  # not held: recomputed, under the edits
    close(found.readout, told["log_prob of 7"])
    difference = torch.tensor([found.logits[i, n - 1, a] - found.logits[i, n - 1, b]
                               for i, (n, (a, b)) in enumerate(zip(found.lengths, told["answers"], strict=True))])  # fmt: skip
    close(rs.logit_diff()(found), difference.tolist())
    assert [edit.kind for edit in found.edits] == ["scale", "steer", "freeze", "patch", "ablate"]


def test_a_window_opens_with_the_run_it_began_from(model: Model) -> None:
    told = NUMBERS["recording"]["window"]
    found = rs.load_recording(HERE / "window.safetensors", model)
    assert (found.window.start, found.offset) == (told["start"], told["pos"])
    for row, logits in enumerate(told["logits"]):
        close(last(found, row), logits)
    close(found.window.base["resid_pre.1"][0, 2], told["resid_pre.1 of its base"])


def test_a_recording_of_the_default_model_opens(smollm2: Model, model: Model) -> None:
    told = NUMBERS["smollm2"]
    assert smollm2.hash == told["hash"], "the default model's hash has changed: every recording of it is refused now"
    found = rs.load_recording(HERE / "smollm2.safetensors", smollm2).logits[0, -1]
    assert found.topk(5).indices.tolist() == told["recording"]["ids"]
    close(found.topk(5).values, told["recording"]["logits"])
    with pytest.raises(WrongModel, match=r"smollm2\.safetensors was recorded on other weights.*smollm2-135m"):
        rs.load_recording(HERE / "smollm2.safetensors", model)


# ── edits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def from_text() -> tuple[Any, ...]:
    return edits.from_json((HERE / "edits.json").read_text())


@pytest.mark.parametrize("opened", [lambda: edits.load(HERE / "edits.safetensors"), from_text], ids=["file", "JSON"])
def test_edits_of_every_kind_do_what_they_did(model: Model, opened: Callable[[], tuple[Any, ...]]) -> None:
    told = NUMBERS["edits"]
    assert [edit.kind for edit in opened()] == [each["kind"] for each in told["each"].values()]
    close(last(model.run([told["tokens"]])), told["unedited"])
    under = told["under a freeze"]
    loud = edits.scale(under["site"], under["factor"], pos=under["pos"])
    for edit, each in zip(opened(), told["each"].values(), strict=True):
        assert (edit.site, edit.label) == (each["site"], each["label"])
        stack = [loud, edit] if edit.kind == "freeze" else [edit]
        close(last(model.run([told["tokens"]], edits=stack)), each["logits"])


def test_edits_made_from_a_probe_do_what_they_did(model: Model) -> None:
    told = NUMBERS["probe"]
    found = edits.load(HERE / "probe-edits.safetensors")
    for edit, each in zip(found, told["edits"].values(), strict=True):
        assert (edit.kind, edit.label) == (each["kind"], each["label"])
        close(last(model.run([told["tokens"]], edits=[edit])), each["logits"])


def test_every_kind_of_edit_of_version_0_1_is_among_them() -> None:
    kept = {each["kind"] for part in (NUMBERS["edits"]["each"], NUMBERS["probe"]["edits"]) for each in part.values()}
    assert kept == {
        "ablate", "as_far", "clamp", "feature", "freeze", "isolate", "lrqp", "noise", "overlay", "patch", "path", "project_out",
        "resample", "scale", "set_concept", "steer",
    }  # fmt: skip


# ── probes, dictionaries, results ───────────────────────────────────────────────────────────────────────────────


def test_a_probe_opens_and_reads_as_it_did() -> None:
    told, probe = NUMBERS["probe"], rs.Probe.load(HERE / "probe.safetensors")
    p = probe.log_prob(torch.tensor([told["x"]], dtype=torch.float64))[0].exp()
    close(p, [1 - told["P(b)"], told["P(b)"]], 1e-6)
    assert [[*probe.classes], [*probe.interval], [*probe.counts]] == [told["classes"], told["interval"], told["counts"]]
    assert (probe.accuracy, probe.C, probe.site, probe.position) == (told["accuracy"], told["C"], "resid_pre.2", "KEY")
    close(probe.weights[0, :6], told["weights"])
    close(probe.mean[:6], told["mean"])
    assert probe.provenance["note"] == "kept for good"


def test_dictionaries_open_by_their_ids(model: Model) -> None:
    found = directions.read(HERE / "dictionaries.safetensors", model)
    assert list(found) == list(NUMBERS["dictionaries"])
    for id, told in NUMBERS["dictionaries"].items():
        d = found[id]
        assert (len(d), d.site, d.head, d.space) == (told["n"], told["site"], told["head"], told["space"])
        assert (d.names and [*d.names]) == told["names"]
        assert json.loads(json.dumps(dict(d.provenance))) == told["provenance"]
        ramp = torch.linspace(-1, 1, d.read.shape[1])
        for part, wanted in (
            (d.read, told["read @ ramp"]),
            (d.write, told["write @ ramp"]),
            (d.mean, [told["mean @ ramp"]]),
        ):
            close(part @ ramp, wanted)
        for part, wanted in ((d.sd, told["sd"]), (d.variance, told["variance"])):
            assert (part is None) == (wanted is None)
            if wanted is not None:
                close(part, wanted)
    (half,) = directions.read(HERE / "dictionaries-half.safetensors", model).values()
    close(half.read[0, :4], NUMBERS["dictionaries"]["pca@resid_post.1"]["first"], 1e-3)


def test_results_open_with_their_labels_intervals_and_words() -> None:
    found = rs.Result.load(HERE / "result.safetensors")
    values = torch.tensor([[0.0, 1.5, -2.25], [math.nan, 0.5, 1e-3]], dtype=torch.float64)
    for mine, wanted in ((found.values, values), (found.low, values - 0.5), (found.high, values + 0.25)):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=0, equal_nan=True)
    assert (found.dims, found.name, found.exact) == (("layer", "pos"), "logit difference", "first order")
    assert found.coords["token"] == ("Then", " Mary", " John")
    assert found.select(layer=3, token=" Mary").values.tolist() == [1.5]
    assert found.provenance["prompts"] == ["ünïcode"]
    assert found.provenance["nested"] == {"a": [1, None, True]}
    counts = rs.Result.load(HERE / "counts.safetensors")
    assert (counts.values.tolist(), counts.coords["x y"], counts.exact) == ([1, 2, 3], ("a", "b", 3), True)


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────

OPENERS: dict[str, Callable[[Path, Model], Any]] = {
    "recording.safetensors": rs.load_recording,
    "window.safetensors": rs.load_recording,
    "probe.safetensors": lambda path, _: rs.Probe.load(path),
    "dictionaries.safetensors": directions.read,
    "dictionaries-half.safetensors": directions.read,
    "result.safetensors": lambda path, _: rs.Result.load(path),
    "edits.safetensors": lambda path, _: edits.load(path),
    "probe-edits.safetensors": lambda path, _: edits.load(path),
}  # fmt: skip


@pytest.mark.parametrize("name", OPENERS)
def test_a_damaged_copy_is_refused_by_its_name(model: Model, tmp_path: Path, name: str) -> None:
    data, opened = (HERE / name).read_bytes(), OPENERS[name]
    # nothing seals the JSON of a file of edits in version 0.1: their tensors alone are checked
    start = 8 + int.from_bytes(data[:8], "little") if "edits" in name else 0
    drawn = torch.randint(start, len(data), (12,), generator=torch.Generator().manual_seed(len(data))).tolist()
    copies = {"half": data[: len(data) // 2], "empty": b"", "one byte short": data[:-1]}
    for at in drawn:
        copies[f"bit {at}"] = flipped(data, at)
    for what, copy in copies.items():
        path = tmp_path / f"{what} of {name}"
        path.write_bytes(copy)
        with pytest.raises(ResidscopeError, match=re.escape(path.name)) as refused:
            opened(path, model)
        assert isinstance(refused.value, DamagedFile | BadEdit), what
    whole = tmp_path / name
    whole.write_bytes(data)
    opened(whole, model)


@pytest.mark.parametrize("word", ["resid_pre.2", "centred", '\\"factor', '\\"sigma', '\\"$tensor', "ablate"])
def test_a_word_changed_in_a_file_of_edits_is_refused_by_its_name(tmp_path: Path, word: str) -> None:
    data = (HERE / "edits.safetensors").read_bytes()
    assert word.encode() in data
    path = tmp_path / "changed.safetensors"
    path.write_bytes(data.replace(word.encode(), word[:-1].encode() + b"~"))
    with pytest.raises(BadEdit, match=r"changed\.safetensors"):
        edits.load(path)


def test_edits_cut_short_are_refused_as_text() -> None:
    text = (HERE / "edits.json").read_text()
    for end in range(0, len(text), 997):
        with pytest.raises(BadEdit, match="edits are not JSON"):
            edits.from_json(text[:end])
