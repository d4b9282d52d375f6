"""Readouts: values at named tokens, parts of like length, passes that end at a site, gradients; beside plain runs."""

from contextlib import nullcontext

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.engine.planner import ValuesAt
from tiny_models import VOCAB, hook_count, tiny_llama

EXACT = 4e-6
ROWS = [[5, 9, 33, 14, 21, 8, 40], [7, 30, 12, 11], [3, 18, 25, 6, 50], [11, 12, 13, 14, 15, 16, 17, 18, 19]]
NAMED = rs.PromptSet(
    ROWS, positions={"NAME": (2, 0, 4, 3), "END": (6, 3, 4, 8)}, answers=((5, 7), (9, 3), (20, 8), (4, 6))
)


class Sum:
    """A readout of one number a prompt, at one site."""

    def __init__(self, site):
        self.sites = (site,)

    def __call__(self, rec):
        return rec[self.sites[0]].double().flatten(1).clamp(-50, 50).sum(1)


# ── values at each prompt's own token ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mpt", "phi"])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_values_at_named_tokens_are_those_of_each_prompts_own_run(name, batch):
    model = Model(FAMILIES[name].build(), name=name)
    where = {"z.1": "NAME", "resid_post.2": "END", "pattern.1": "END", "embed": "NAME", "final_norm": [-1, -2, -1, 0]}
    at = ValuesAt(model, NAMED, where)
    cells = [
        [],
        [edits.scale("resid_pre.1", 1.5, pos=0)],
        [edits.ablate("z.1", head=2), edits.scale("embed", 0.5, pos=-1)],
    ]
    found = at.split(rs.sweep(model, NAMED, cells, at, batch=batch).run(False).values)
    for site, tokens in where.items():
        tokens = NAMED.at(tokens) if isinstance(tokens, str) else tokens
        for i, cell in enumerate(cells):
            for row, (ids, token) in enumerate(zip(ROWS, tokens, strict=True)):
                value = model.run([ids], [site], edits=cell)[site][0]
                value = value[:, token] if site.startswith("pattern") else value[token]
                got = found[site][i, row]
                torch.testing.assert_close(got[..., : value.shape[-1]], value, atol=EXACT, rtol=EXACT)
                assert not site.startswith("pattern") or not got[..., value.shape[-1] :].any()
    assert hook_count(model.hf) == 0


def test_values_at_places_that_are_not_there(llama):
    for where in ({"z.1": "NOWHERE"}, {"z.1": [0, 1]}, {"z.1": [0, 4, 0, 0]}, {"z.1": [0, -5, 0, 0]}):
        with pytest.raises(errors.UnknownPosition):
            ValuesAt(llama, NAMED, where)
    with pytest.raises(errors.UnknownSite):
        ValuesAt(llama, NAMED, {"y.1": "END"})


def test_parts_of_like_length_give_the_numbers_of_one(llama):
    """Whatever the parts, also where an edit is tied to each prompt's own token."""
    source = llama.run([[t + 1 for t in row] for row in ROWS], ["resid_pre"])
    cells = [
        [edits.patch("resid_pre.2", source)],
        [edits.noise("z.1", 0.3, 4)],
        [edits.freeze("norms"), edits.scale("z.0", 2.0)],
    ]
    metric = rs.logit_diff()
    whole = rs.sweep(llama, NAMED, cells, metric).run(False).values
    for batch in (1, 2, 3, 9):
        parts = rs.sweep(llama, NAMED, cells, metric, batch=batch)
        torch.testing.assert_close(parts.run(False).values, whole, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(parts.base, parts.baseline(), atol=1e-9, rtol=1e-9)
        widths = {parts._part(i).base.batch.ids.shape[1] for i in range(len(parts._chunks))}
        assert len(widths) == min(-(-4 // batch), 4)
    told = torch.stack([metric(llama.run(NAMED, metric.sites, edits=cell)) for cell in cells])
    torch.testing.assert_close(whole, told, atol=1e-6, rtol=1e-6)


def test_answers_come_as_the_passes_end_each_once_and_the_base_first(llama):
    cells = [[], [edits.scale("z.1", 0.5)], [edits.scale("z.3", 1.0)], [edits.scale("embed", 2.0, pos=1)]]
    plan = rs.sweep(llama, NAMED, cells, rs.logit_diff(), batch=2)
    whole = plan.run(False).values
    told = torch.full_like(whole, float("nan"))
    seen = []
    for one in plan.each(False):
        if one.cell is None:
            torch.testing.assert_close(one.values, plan.base[list(one.prompts)])
        else:
            assert told[one.cell, list(one.prompts)].isnan().all()
            told[one.cell, list(one.prompts)] = one.values
        seen.append(one.cell)
    assert seen[0] is None
    assert seen.count(None) == 2
    assert torch.equal(told, whole)


# ── where a pass ends ───────────────────────────────────────────────────────────────────────────────────────────


def watched():
    """A model, and the names of the modules that have been called to their end."""
    hf, names = tiny_llama(), set()
    for name, module in hf.named_modules():
        module.register_forward_hook(lambda m, a, o, name=name: names.add(name))
    return Model(hf), names


@pytest.mark.parametrize(
    ("site", "last", "never"),
    [
        ("q.2", "self_attn.q_proj", "self_attn.o_proj"),
        ("pattern.2", "self_attn.v_proj", "self_attn.o_proj"),
        ("z.2", "self_attn.v_proj", "self_attn.o_proj"),
        ("attn_out.2", "self_attn.o_proj", "mlp.down_proj"),
        ("mlp_pre.2", "mlp.up_proj", "mlp.down_proj"),
        ("resid_pre.2", None, "input_layernorm"),
    ],
)
def test_a_pass_ends_at_the_last_site_that_is_read(site, last, never):
    model, called = watched()
    ids = torch.randint(2, VOCAB, (2, 7), generator=torch.Generator().manual_seed(5))
    called.clear()
    model.run(ids, [site])
    assert last is None or f"model.layers.2.{last}" in called
    assert not {f"model.layers.2.{never}", "model.layers.2", "model.layers.3"} & called
    readout = Sum(site)
    cells = [edits.scale("z.0", 0.5, pos=3), edits.scale("resid_pre.1", 2.0), edits.scale("q.2", 2.0)]
    plan = rs.sweep(model, ids, cells, readout)
    part = plan._part(0)
    called.clear()
    assert list(plan._rows(part, nullcontext))
    assert not {f"model.layers.2.{never}", "model.layers.2", "model.layers.3"} & called
    told = torch.stack([readout(model.run(ids, [site], edits=cell)) for cell in cells])
    torch.testing.assert_close(plan.run(False).values, told, atol=EXACT, rtol=EXACT)
    assert plan.cost.flops < rs.sweep(model, ids, cells, rs.log_prob(3)).cost.flops


@pytest.mark.parametrize("name", FAMILIES)
def test_each_site_by_itself_is_what_a_whole_run_has_there(name):
    """Ending at a site changes no number, on any family, at any site."""
    model = Model(FAMILIES[name].build(), name=name)
    every = [str(site) for n in model.sites.names for site in model.sites.expand(n)]
    whole = model.run(ROWS, every)
    for site in every:
        torch.testing.assert_close(model.run(ROWS, [site])[site], whole[site], atol=EXACT, rtol=EXACT)
    assert hook_count(model.hf) == 0


# ── gradients ───────────────────────────────────────────────────────────────────────────────────────────────────


class Sloped(Sum):
    gradients = ("q.2", "mlp_in")


def test_gradients_of_the_base_are_what_small_changes_do(llama):
    """Beside central differences, by whole runs; in parts as memory asks, under the background's edits."""
    background = [edits.scale("z.0", 0.7)]
    sites = ("q.2", "k.1", "v.3", "mlp_in.1", "resid_pre.2")
    for memory in (None, 40_000):
        plan = rs.sweep(llama, NAMED, [edits.scale("z.1", 0.5)], rs.logit_diff(), background, memory=memory)
        found = plan.gradients(sites)
        for i, site in enumerate(sites):
            value = llama.run(NAMED, [site], edits=background)[site]
            torch.testing.assert_close(found.values[llama.sites.canonical(site)], value, atol=1e-9, rtol=1e-9)
            step = 1e-2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(i)).double()
            for row, n in enumerate(llama.batch(NAMED).lengths):
                step[row, n:] = 0
            ends = [
                rs.logit_diff()(
                    llama.run(NAMED, ["logits"], edits=[*background, edits.patch(site, {site: value + sign * step})])
                )
                for sign in (1, -1)
            ]
            slope = (found[site] * step).flatten(1).sum(1)
            torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2, atol=3e-6, rtol=2e-2)
            torch.testing.assert_close(found.estimate(site, value + step), slope, atol=1e-12, rtol=1e-6)
            assert slope.abs().max() > 1e-4
    assert len(plan.with_graphs()) > 1


def test_a_readout_may_say_where_its_slope_is_asked_for(llama):
    plan = rs.sweep(llama, NAMED, [edits.scale("z.1", 0.5)], Sloped("resid_pre.3"))
    assert {str(site) for site in plan.gradients().slopes} == {"q.2", *(f"mlp_in.{i}" for i in range(4))}
    assert not plan.gradients(["mlp_in.3"])["mlp_in.3"].any()  # above what it reads
    with pytest.raises(errors.BadSweep, match="taken at sites"):
        rs.sweep(llama, NAMED, [edits.scale("z.1", 0.5)], rs.logit_diff()).gradients()
