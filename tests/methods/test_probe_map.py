"""A probe and its map: fit_probe's own, each cell scikit-learn's, cut short it keeps what is there, and recordings save runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from test_probe import labelled

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.methods._lib.activations import Recordings
from residscope.methods._lib.intervals import wilson
from residscope.methods.probes.probe_map import mapped
from tiny_models import tiny_llama

ASK = {"site": "resid_pre.2", "position": "P", "label": "three"}


class Counted:
    """A model that counts its runs, and what each records."""

    def __init__(self, of):
        self._of, self.captured = of, []

    def run(self, prompts, capture=(), **more):
        self.captured.append([str(site) for site in capture])
        return self._of.run(prompts, capture, **more)

    @property
    def __class__(self):
        return Model

    def __getattr__(self, name):
        return getattr(self._of, name)


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_llama())


@pytest.fixture(scope="module")
def data():
    """Few tokens stand at P, so that their kind can be read."""
    drawn = labelled()
    rows = tuple((*row[:3], 2 + row[3] % 9, *row[4:]) for row in drawn.prompts)
    kinds = {"three": tuple(row[3] % 3 for row in rows), "parity": tuple(row[3] % 2 for row in rows)}
    return replace(drawn, prompts=rows, labels={**drawn.labels, **kinds})


@pytest.fixture(scope="module")
def found(llama, data):
    return rs.probe_map(llama, data, **ASK)


def test_the_probe_is_fit_probes_own(llama, data, found):
    own = rs.fit_probe(llama, data, **ASK)
    torch.testing.assert_close(found.probe.weights, own.weights, rtol=1e-5, atol=1e-8)
    assert (found.probe.accuracy, found.probe.C, found.probe.counts, found.probe.control) == (
        own.accuracy, own.C, own.counts, own.control,
    )  # fmt: skip


def test_each_cell_is_scikit_learns_with_that_C(llama, data, found):
    """Recorded prompt by prompt, without a batch; rows that stand first or are sinks are the fit's own business."""
    assert found.positions == ("P", "before", "first")
    assert found.sites == tuple(f"resid_pre.{layer}" for layer in range(llama.n_layers))
    held = set(found.held_out)
    train = [i for i in range(len(data)) if i not in held]
    labels = np.array(found.labels)
    for site in ("resid_pre.0", "resid_pre.3"):
        runs = [llama.run([[*row]], [site])[site][0] for row in data.prompts]
        for place in ("P", "before"):
            x = np.stack([run[at].double().numpy() for run, at in zip(runs, data.at(place), strict=True)])
            scaler = StandardScaler().fit(x[train])
            own = LogisticRegression(C=found.probe.C, tol=1e-8, max_iter=5000).fit(
                scaler.transform(x[train]), labels[train]
            )
            right = (own.predict(scaler.transform(x[[*held]])) == labels[[*held]]).sum()
            cell = {"site": site, "position": place}
            assert float(found.accuracy.select(**cell).values) == pytest.approx(right / len(held), abs=1.5 / len(held))


def test_its_intervals_are_wilsons_and_its_own_cell_is_the_probes(found):
    n = len(found.held_out)
    cell = found.accuracy.select(site="resid_pre.2", position="P")
    assert float(cell.values) == pytest.approx(found.probe.accuracy)
    assert (float(cell.low), float(cell.high)) == pytest.approx(wilson(round(float(cell.values) * n), n))


def test_where_every_token_is_the_first_there_is_no_number_and_the_map_is_done(found):
    assert found.unfitted == tuple((site, "first") for site in found.sites)
    assert found.accuracy.select(position="first").values.isnan().all()
    assert found.done
    assert found.blanks == len(found.sites)
    assert "first ones" in found.map().note


def test_a_probe_and_noise_beside_it(llama, data, found):
    """Before the first block the token says its own label; a label drawn at random is read nowhere."""
    assert float(found.accuracy.select(site="resid_pre.0", position="P").low) > 1 / 3
    assert float(found.accuracy.select(site="resid_pre.0", position="before").high) < 0.6
    noise = rs.probe_map(llama, data, **{**ASK, "label": "noise"}).accuracy
    assert float(noise.values.nan_to_num(0.5).max()) < 0.75


def test_the_points_are_the_first_two_singular_vectors_of_what_a_fit_may_use(llama, data, found):
    runs = [llama.run([[*row]], ["resid_pre.2"])["resid_pre.2"][0] for row in data.prompts]
    x = np.stack([run[at].double().numpy() for run, at in zip(runs, data.at("P"), strict=True)])
    centred = x - x.mean(0)
    u, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    theirs = np.abs(u[:, :2] * sizes[:2])
    np.testing.assert_allclose(np.abs(found.points.values.numpy()), theirs, atol=2e-4)
    assert found.shares == pytest.approx(tuple(sizes[:2] ** 2 / (sizes**2).sum()), abs=1e-5)
    np.testing.assert_allclose(found.log_prob.values.exp().sum(-1).numpy(), 1.0, atol=1e-9)


def test_it_comes_coarse_to_fine_and_the_last_is_the_whole(llama, data, found):
    steps = [*mapped(llama, data, **ASK)]
    known = [int((~step.accuracy.values.isnan()).sum()) for step in steps]
    assert known == sorted(known)
    assert known[0] == 0
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert len({id(step.probe) for step in steps}) == 1
    assert steps[-1] == found


def test_cut_short_it_keeps_the_probe_and_its_map_so_far(llama, data, found):
    def told(stage, done, total):
        stop.append(stage == "Mapping every layer" and done >= 1)

    stop = []
    with pytest.raises(errors.Cancelled) as cancelled:
        rs.probe_map(llama, data, **ASK, progress=told, cancel=lambda: bool(stop) and stop[-1])
    kept = cancelled.value.partial
    assert kept.probe == found.probe
    assert not kept.done


def test_its_own_place_alone(llama, data, found):
    one = rs.probe_map(llama, data, **ASK, here_only=True)
    assert (one.sites, one.positions, one.done) == (("resid_pre.2",), ("P",), True)
    assert one.probe == found.probe
    assert float(one.accuracy.values) == pytest.approx(found.probe.accuracy)


def test_recordings_are_used_for_the_same_prompts_alone(llama, data, found):
    counted, kept = Counted(llama), Recordings()
    assert rs.probe_map(counted, data, **ASK, recordings=kept) == found
    runs = len(counted.captured)
    again = rs.probe_map(counted, data, site="resid_pre.3", position="before", label="parity", recordings=kept)
    assert len(counted.captured) == runs
    assert again == rs.probe_map(llama, data, site="resid_pre.3", position="before", label="parity")
    other = replace(data, prompts=tuple((*row[:3], 40, *row[4:]) for row in data.prompts))
    assert rs.probe_map(counted, other, **ASK, recordings=kept) == rs.probe_map(llama, other, **ASK)
    assert len(counted.captured) > runs


def test_recordings_of_other_weights_are_not_used(data):
    model, kept = Model(tiny_llama()), Recordings()
    before = rs.probe_map(model, data, **ASK, recordings=kept)
    with torch.no_grad():
        model.hf.model.embed_tokens.weight.mul_(torch.linspace(0.5, 2.0, model.d_model))
    after = rs.probe_map(model, data, **ASK, recordings=kept)
    assert after != before
    assert after == rs.probe_map(model, data, **ASK)


def test_recordings_are_bounded(llama, data, found):
    least = Recordings(most=3 * len(data) * llama.d_model * 4)
    assert rs.probe_map(llama, data, **ASK, recordings=least) == found
    assert least.nbytes <= 3 * len(data) * llama.d_model * 4
    least.clear()
    assert least.nbytes == 0


def test_where_the_vectors_would_be_too_many_the_map_has_the_probes_own_position(llama, data, monkeypatch):
    monkeypatch.setattr("residscope.methods.probes.probe_map.MAP_BYTES", 3 * len(data) * llama.d_model * 4)
    assert rs.probe_map(llama, data, **ASK).positions == ("P",)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"label": "mood"}, errors.MissingLabel),
        ({"position": "S9"}, errors.UnknownPosition),
        ({"site": "resid_prey.1"}, errors.UnknownSite),
        ({"site": "z.1"}, errors.UnknownHead),
        ({"position": "first"}, errors.TooFewPrompts),
    ],
)
def test_refusals(llama, data, more, error):
    with pytest.raises(error):
        rs.probe_map(llama, data, **{**ASK, **more})


def test_its_pictures_say_what_it_holds(data, found):
    """Each number of the pictures from the report's own parts, by hand."""
    labels, held = found.labels, [*found.held_out]
    chance = max(sum(labels[i] == name for i in held) for name in found.probe.classes) / len(held)
    heat = found.map()
    assert heat.values[0][2] == pytest.approx(
        float(found.accuracy.select(site="resid_pre.2", position="P").values) - chance
    )
    assert [*heat.marks] == [(0, 2)]
    assert found.shown == found.probe.classes
    for k, name in enumerate(found.shown):
        scores = found.log_prob.values[held]
        rest = torch.cat([scores[:, :k], scores[:, k + 1 :]], 1).max(1).values
        assert (scores[:, k] - rest).abs().max() <= found.reach
        assert math.isfinite(found.reach)
        assert sum(series["n"] for series in found.margins(name).to_dict()["series"]) == len(held)
    assert len(found.cloud().to_dict()["x"]) == len(data)
