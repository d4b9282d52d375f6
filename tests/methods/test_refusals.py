"""Every method refuses in words what it cannot do: made up by the kinds of its fields, so that a new method is asked too."""

import inspect

import misuse
import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.manifest import own_methods
from residscope.model.prompts import require_set

METHODS = own_methods()
WITHOUT_A_MODEL = {"draw-prompts", "model-facts", "sae-load", "tuned-lens-load", "unembedding-rows"}
"""Methods that neither run the model nor read what all of its weights say."""


def called(id, given, model=None):
    """What a method answers; of one that goes by stages, all of them."""
    found = METHODS[id].function(model or misuse.model(), **given)
    return [*found] if inspect.isgenerator(found) else found


@pytest.mark.parametrize("id", METHODS)
def test_what_no_method_takes_is_refused_in_words(id):
    given = misuse.good(METHODS[id])
    called(id, given)  # so that what is refused below is what is wrong there
    for name, what, more in misuse.bad(METHODS[id]):
        with pytest.raises((errors.ResidscopeError, TypeError)) as caught:
            pytest.fail(f"{id} takes {what} for {name}: {called(id, {**given, **more})}")
        refused = caught.value
        if isinstance(refused, TypeError):  # the checker of annotations, which is there under pytest alone, was first
            assert "violates type hint" in str(refused), (name, what)
        else:
            assert " " in refused.failed, (name, what)
            assert refused.received or refused.allowed or refused.fix, (name, what, str(refused))


@pytest.mark.parametrize("id", sorted(METHODS.keys() - WITHOUT_A_MODEL))
def test_weights_that_are_no_numbers_are_refused_by_name(id):
    with pytest.raises(errors.NotFinite, match=r"layers\.2\.mlp\.down_proj\.weight"):
        called(id, misuse.good(METHODS[id]), misuse.not_finite())


def test_weights_are_looked_at_again_only_once_they_have_changed():
    hf = misuse.tiny_llama()
    model = Model(hf)
    model.run([[2, 3, 4]])
    with torch.no_grad():
        hf.lm_head.weight[5, 6] = torch.inf
    with pytest.raises(errors.NotFinite, match=r"lm_head\.weight is not finite"):
        model.run([[2, 3, 4]])
    with torch.no_grad():
        hf.lm_head.weight[5, 6] = 0.0
    assert model.run([[2, 3, 4]]).logits.isfinite().all()


LINEAR = {"compare-models", "direct-attribution", "self-repair"}
ALLOWED = {  # a site that a family lacks, and a method that reads it
    "phi": ("resid_mid.1", ["ablation-sweep", "activation-patching", "attribution-patching", "pca", "svd", "fit-probe", "look"]),
    "toy, attention only": ("mlp_post.1", ["ablation-sweep", "compare-ablations", "pca", "nmf", "harvest", "atlas", "tcav"]),
}  # fmt: skip


@pytest.mark.parametrize("family", ALLOWED)
def test_a_site_that_the_family_lacks_is_refused_with_the_reason(family):
    model = Model(FAMILIES[family].build(), misuse.worlds.tokenizer(), name=family)
    site, ids = ALLOWED[family]
    for id in ids:
        (one,) = (x for x in METHODS[id].arguments if x.field.kind == "site")
        given = {
            name: value for name, value in misuse.good(METHODS[id]).items() if name not in ("dictionary", "layers")
        }
        with pytest.raises(errors.AbsentSite, match=site.partition(".")[0]):
            called(id, {**given, one.name: [site] if one.field.several else site}, model)


@pytest.mark.parametrize(
    "id", [id for id, one in METHODS.items() if {"clean", "corrupted"} <= {x.name for x in one.arguments}]
)
def test_prompts_of_unequal_length_are_refused(id):
    with pytest.raises(errors.UnalignedPrompts) as refused:
        called(id, {**misuse.good(METHODS[id]), "corrupted": ["abc"]})
    assert "length" in str(refused.value) or "tokens" in str(refused.value)


@pytest.mark.parametrize(
    "id", [id for id, one in METHODS.items() if any(x.field.kind == "metric" for x in one.arguments)]
)
def test_a_metric_that_is_no_sum_is_refused_with_one_that_would_do_or_not_at_all(id):
    (one,) = (x for x in METHODS[id].arguments if x.field.kind == "metric")
    given = {**misuse.good(METHODS[id]), one.name: rs.log_prob("a")}
    if id in LINEAR:
        with pytest.raises(errors.NotLinear, match="logit"):
            called(id, given)
    elif METHODS[id].refuse is not None:
        METHODS[id].refuse(misuse.model(), **given)


def test_what_needs_a_linear_metric_says_which_would_do():
    for id in LINEAR:
        for metric in (rs.loss(), rs.kl(misuse.model().run("abcdef"))):
            with pytest.raises(errors.NotLinear, match="logit"):
                called(id, {**misuse.good(METHODS[id]), "metric": metric})


def test_what_is_no_set_of_labelled_prompts_is_refused_with_what_makes_one():
    for data in ([[2, 3, 4]], "abc"):
        with pytest.raises(errors.BadPrompt, match=r"labels.*PromptSet.*rs\.tasks"):
            require_set(data)
    with pytest.raises(errors.TooFewPrompts, match=r"0 prompts.*1 prompt or more"):
        require_set(rs.PromptSet(()))
    require_set(misuse.DATA)
