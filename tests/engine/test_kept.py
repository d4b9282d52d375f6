"""A description found by looking is kept by architecture: the second load looks at nothing, and is judged all the same."""

import time
from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope.engine.look import described, judge, kept
from residscope.engine.look import family as looking
from residscope.engine.model import Model
from residscope.model import tiny


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def looks(monkeypatch):
    """How often a model was looked at, and each forward of a whole model on the way."""
    counted = []

    def look(hf):
        counted.append(hf)
        return looking.look(hf)

    for module in (described, judge):
        monkeypatch.setattr(module, "look", look)
    return counted


def build(kind, seed=0, **changes):
    config = tiny.variants(kind)["default"]
    for name, value in changes.items():
        setattr(config, name, value)
    return tiny.build(config, seed=seed, dtype=torch.float32)


def forwards(hf, work):
    """How many forwards of the whole model some work takes."""
    count = []
    own = type(hf).forward

    def counted(self, *args, **kwargs):
        count.append(self)
        return own(self, *args, **kwargs)

    type(hf).forward = counted
    try:
        return work(), len(count)
    finally:
        type(hf).forward = own


def test_the_second_load_looks_at_nothing(looks, empty_cache):
    hf = build("glm4_moe_lite")
    began = time.perf_counter()
    first, many = forwards(hf, lambda: rs.load(hf))
    took = time.perf_counter() - began
    assert len(looks) == 1
    assert many > 5
    began = time.perf_counter()
    second, none = forwards(hf, lambda: rs.load(hf))
    assert len(looks) == 1
    assert none == 0
    assert second.certificate.cached
    assert time.perf_counter() - began < took / 2
    assert second.family == first.family
    assert repr(second.family) == repr(first.family)


def test_other_weights_of_one_architecture_are_judged_by_themselves(looks):
    rs.load(build("arcee"))
    other = rs.load(build("arcee", seed=1))
    assert len(looks) == 1
    assert not other.certificate.cached
    rs.load(build("arcee", rms_norm_eps=1e-3))
    rs.load(build("seed_oss"))
    assert len(looks) == 3


@pytest.mark.parametrize("wrong", [{"factors": {"residual": 0.5}}, {"norm_eps": 0.3}])
def test_a_kept_description_that_is_wrong_is_found_again(looks, wrong):
    hf = build("arcee")
    right = rs.load(hf).family
    kept.keep(hf, replace(right, **wrong))
    again = rs.load(build("arcee", seed=2))
    assert again.family == right
    assert len(looks) == 2
    assert kept.recall(hf) == right


def test_what_cannot_be_read_is_found_again(looks, empty_cache):
    hf = build("arcee")
    right = rs.load(hf).family
    (file,) = (empty_cache / "families").iterdir()
    for text in ("", "{}", "[1]", file.read_text().replace('"blocks"', '"rows"')):
        file.write_text(text)
        assert kept.recall(hf) is None
        assert Model(hf).family == right


def test_what_the_certificate_took_is_kept_for_those_weights_alone(looks, empty_cache):
    hf = build("arcee")
    family = looking.look(hf)
    kept.keep(hf, family)
    fewer = replace(family, absent={**family.absent, "q.1": "what was found of its heads fails a check"})
    kept.keep(hf, fewer, "0123456789abcdef-and-more")
    assert kept.recall(hf) == family
    assert kept.recall(hf, "0123456789abcdef-and-more") == fewer
    assert kept.recall(hf, "another") == family


def test_a_model_with_a_hook_is_looked_at_and_not_kept(looks, empty_cache):
    hf = build("arcee")
    hf.register_forward_hook(lambda module, args, output: None)
    assert kept.architecture(hf) is None
    Model(hf)
    assert len(looks) == 1
    assert not (empty_cache / "families").exists()


@pytest.mark.parametrize("kind", ["jamba", "granite", "mimo_v2_flash"])
def test_a_description_is_the_same_after_json(kind):
    family = looking.look(build(kind))
    again = kept.read(kept.written(family))
    assert again == family
    assert repr(again) == repr(family)
