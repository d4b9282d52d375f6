"""What a readout is called: a metric by its tokens as the model has them, a readout of one's own by its label or its name."""

from functools import partial

import pytest
import torch

import residscope as rs
from residscope.engine.model import Model
from residscope.engine.naming import label_of, unit_of
from session import worlds
from tiny_models import tiny_llama


@pytest.fixture(scope="module")
def reader():
    return Model(tiny_llama(), worlds.tokenizer(), name="reader")


class MassOfNames:
    sites = ("logits",)

    def __call__(self, recording):
        return recording.logits[:, -1, 5]


class Told(MassOfNames):
    label, unit = "names' mass", "nats"


def kl_shift(recording):
    return recording.logits[:, -1, 5]


CASES = [
    (rs.logit_diff("a", "b"), "logit difference 'a' − 'b'", "logits"),
    (rs.logit_diff(("a", "c"), "b"), "logit difference mean of ('a', 'c') − 'b'", "logits"),
    (rs.logit_diff("a", "b", pos=3), "logit difference 'a' − 'b' at position 3", "logits"),
    (rs.logit_diff(), "logit difference right − wrong answer", "logits"),
    (rs.log_prob("a"), "log-probability of 'a'", "nats"),
    (rs.logit("a"), "logit of 'a'", "logits"),
    (rs.logit(("a", "b"), pos=2), "logit of mean of ('a', 'b') at position 2", "logits"),
    (rs.loss(), "loss", "nats"),
    (MassOfNames(), "mass of names", ""),
    (Told(), "names' mass", "nats"),
    (kl_shift, "kl shift", ""),
    (partial(kl_shift), "kl shift", ""),
    (lambda recording: recording, "readout", ""),
]


@pytest.mark.parametrize(("readout", "label", "unit"), CASES)
def test_a_readout_in_words(readout, label, unit):
    assert label_of(readout) == label
    assert unit_of(readout) == unit


def test_ids_are_shown_as_the_model_has_them(reader):
    a, b = reader.token_id("a"), reader.token_id("b")
    assert (
        label_of(rs.logit_diff(a, b), reader)
        == label_of(rs.logit_diff("a", "b"), reader)
        == "logit difference 'a' − 'b'"
    )
    assert rs.logit_diff(a, b).label == f"logit difference token {a} − token {b}"
    assert label_of(rs.log_prob(a), reader) == "log-probability of 'a'"
    assert label_of(rs.kl(reader.run("ab")), reader) == "KL from the reference run"


def test_what_is_swept_is_named_by_its_metric(reader):
    cells = [rs.edits.ablate("z.1", head=head) for head in range(2)]
    for readout, label, unit in [*CASES[:2], CASES[5], CASES[7]]:
        found = rs.sweep(reader, "abcab", cells, readout).run(False)
        assert (found.name, found.unit) == (label, unit)
    screened = rs.screened(rs.sweep(reader, "abcab", cells, CASES[0][0]), 1.0, by="gradient", progress=False)
    assert (screened.name, screened.unit) == ("logit difference 'a' − 'b'", "logits")


def test_methods_are_named_by_their_metric(reader):
    m = rs.logit_diff("a", "b")
    patched = rs.activation_patching(reader, "abcab", "bbcab", m, progress=False)
    assert (patched.name, patched.unit) == ("logit difference 'a' − 'b'", "logits")
    assert patched.view().title == patched.name
    whole = rs.activation_patching(reader, "abcab", "bbcab", m, progress=False, normalize=True)
    assert (whole.name, whole.unit) == ("share of the gap restored, logit difference 'a' − 'b'", "share")
    cut = rs.ablation_sweep(reader, "abcab", m, relative=True, progress=False)
    assert (cut.name, cut.unit) == ("change of logit difference 'a' − 'b'", "logits")
    direction = rs.Direction(torch.ones(32), torch.ones(32), "resid_post.1")
    dose = rs.dose_response(reader, direction, ["abcab"], metric=m, random=3)
    assert (dose.own.name, dose.own.unit, dose.of) == (
        "logit difference 'a' − 'b'",
        "logits",
        "logit difference 'a' − 'b'",
    )
    assert (dose.random_own.unit, dose.kl.unit, dose.random_kl.unit) == ("logits", "nats", "nats")
