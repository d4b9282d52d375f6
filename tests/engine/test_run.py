"""Runs: the stock model's numbers, the stream's algebra, and nothing left behind."""

import threading

import pytest
import torch
from families import FAMILIES

from residscope import edits, errors
from residscope.engine import recording
from residscope.engine.forward import forward
from residscope.engine.model import Model
from residscope.engine.windows import Window
from residscope.model.sites import Site
from tiny_models import VOCAB, hook_count, tiny_gpt2, tiny_llama


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_logits_are_the_stock_models(tiny, ids):
    with torch.no_grad():
        stock = tiny.hf(ids).logits
    close(tiny.run(ids).logits, stock)
    close(tiny.run(ids, capture=tiny.sites.names).logits, stock)


def test_components_sum_to_the_stream(tiny, ids):
    rec = tiny.run(ids, capture=tiny.sites.names)
    total = rec["embed"] + (rec["pos_embed"] if "pos_embed" in tiny.sites.names else 0)
    for layer in range(tiny.n_layers):
        total = total + rec["attn_out", layer] + rec["mlp_out", layer]
        close(rec["resid_post", layer], total)


def test_heads_sum_to_the_attention_output(tiny, ids):
    rec = tiny.run(ids, capture=["result", "attn_raw"])
    for layer, parts in enumerate(tiny.layout.blocks):
        bias = getattr(parts.attn_proj, "bias", None)
        close(rec["result", layer].sum(2) + (0 if bias is None else bias.detach()), rec["attn_raw", layer])


def test_every_site_has_the_shape_the_table_says(tiny, ids):
    rec = tiny.run(ids, capture=tiny.sites.names)
    for site in rec.sites:
        for size, axis in zip(rec[site].shape, site.kind.axes, strict=True):
            expected = {"batch": 2, "pos": 11, "query": 11, "key": 11}.get(axis) or tiny.sites.size(site, axis)
            assert size == expected, (str(site), axis)


def test_a_site_not_captured_is_recomputed_with_the_runs_edits(tiny, ids):
    d = torch.randn(tiny.d_model, generator=torch.Generator().manual_seed(3)).double()
    stack = [
        edits.steer("resid_pre.1", d, 3.0),
        edits.ablate("z.2", head=1),
        edits.scale("mlp_out.0", 0.5),
        edits.freeze("pattern.3"),
    ]
    whole = tiny.run(ids, capture=tiny.sites.names, edits=stack)
    small = tiny.run(ids, edits=stack)
    assert len(small.sites) == tiny.n_layers + 1
    for site in whole.sites:
        close(small[site], whole[site])


def test_several_sites_are_recomputed_in_one_pass(tiny, ids, monkeypatch):
    cut = [edits.ablate("z.1", head=2)]
    rec, whole = tiny.run(ids, edits=cut), tiny.run(ids, ["z", "attn_out", "resid_pre"], edits=cut)
    passes = []
    monkeypatch.setattr(recording, "forward", lambda *args, **more: passes.append(0) or forward(*args, **more))
    found = rec.several(["z.2", "attn_out.1", Site("z", 3), "resid_post.0"])
    assert len(passes) == 1
    rec.several(["z.2", "attn_out.1"])
    assert len(passes) == 1
    assert [*map(str, found)] == ["z.2", "attn_out.1", "z.3", "resid_pre.1"]
    for site, value in found.items():
        close(value, whole[site])


def test_recomputing_is_refused_once_the_weights_have_changed(ids):
    model = Model(tiny_llama())
    rec = model.run(ids)
    with torch.no_grad():
        next(model.hf.parameters()).add_(0.1)
    assert rec["resid_pre.1"] is not None
    with pytest.raises(errors.WeightsChanged, match="run the prompt again"):
        rec["mlp_post.1"]


@pytest.mark.parametrize(("start", "pos"), [(0, 5), (2, 0), (2, 5), (3, 10), (4, 0), (4, 7)])
def test_a_window_gives_the_whole_runs_numbers(tiny, ids, start, pos):
    base = tiny.run(ids)
    whole = tiny.run(ids, capture=tiny.sites.names)
    run = tiny.run(ids, capture=["logits"], window=Window(base, start, None, pos))
    close(run.logits, whole.logits[:, pos:])
    if start < 4:
        close(run["z.3"], whole["z.3"][:, pos:])


def test_an_edit_in_a_window_gives_the_edited_runs_numbers(tiny, ids):
    base = tiny.run(ids)
    cut = [edits.ablate("z.2", head=[0, 3], pos=[6, 8])]
    close(
        tiny.run(ids, ["logits"], edits=cut, window=Window(base, 2, None, 6)).logits,
        tiny.run(ids, edits=cut).logits[:, 6:],
    )


def test_a_window_of_an_edited_run_builds_on_the_edited_keys(tiny, ids):
    first = [edits.ablate("k.1", kv_head=0), edits.scale("v.2", 2.0)]
    base = tiny.run(ids, edits=first)
    again = tiny.run(ids, ["logits"], edits=first, window=Window(base, 0, None, 4))
    close(again.logits, base.logits[:, 4:])


def test_the_forward_stops_at_the_last_site_needed(llama, ids):
    ran = []
    handles = [
        parts.block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, parts in enumerate(llama.layout.blocks)
    ]
    try:
        llama.run(ids, capture=["resid_pre.2", "pattern.1"])
        assert ran == [0, 1]
        ran.clear()
        llama.run(ids, capture=["embed"])
        assert ran == []
        base = llama.run(ids)
        ran.clear()
        llama.run(ids, capture=["mlp_out.2"], window=Window(base, 2))
        assert ran[-1] == 2
    finally:
        for handle in handles:
            handle.remove()


def test_batched_equals_single(tiny):
    rows = [[5, 6, 7, 8, 9], [10, 11, 12], [13] * 8]
    together = tiny.run(rows, capture=["logits"])
    for i, row in enumerate(rows):
        close(together.logits[i, : len(row)], tiny.run([row], capture=["logits"]).logits[0])
        ours, alone = together.top(3, row=i), tiny.run([row]).top(3)
        assert [x[:2] for x in ours] == [x[:2] for x in alone]
        assert [x[2] for x in ours] == pytest.approx([x[2] for x in alone])


class Broken(edits.Scale):
    kind = ""

    def change(self, value, at):
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("site", ["pattern.2", "resid_mid.1", "k.3", "result.0", "embed"])
def test_nothing_survives_a_run_that_raises(tiny, ids, site):
    tiny.hf.config._attn_implementation = "sdpa"
    with torch.no_grad():
        before = tiny.hf(ids).logits
    base = tiny.run(ids)
    for window in (None, Window(base, 0, None, 3)):
        with pytest.raises(RuntimeError, match="on purpose"):
            tiny.run(ids, edits=[Broken(site)], window=window)
    assert hook_count(tiny.hf) == 0
    assert tiny.hf.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.equal(tiny.hf(ids).logits, before)


def test_train_mode_is_restored(ids):
    hf = tiny_gpt2()
    hf.train()
    hf.transformer.h[1].eval()
    model = Model(hf)
    close(model.run(ids).logits, model.run(ids).logits)
    assert hf.training
    assert hf.transformer.h[0].attn.training
    assert not hf.transformer.h[1].mlp.training


def test_threads_with_different_edits_do_not_mix(tiny, ids):
    stacks = [[], [edits.ablate("z.1", head=0)], [edits.scale("pattern.2", 0.3)], [edits.ablate("resid_mid.1", pos=3)]]
    alone = [tiny.run(ids, edits=stack).logits for stack in stacks]
    with torch.no_grad():
        stock = tiny.hf(ids).logits
    failures = []

    def work(i):
        failures.extend(i for _ in range(8) if not torch.equal(tiny.run(ids, edits=stacks[i]).logits, alone[i]))

    def users_own_calls():
        for _ in range(16):
            with torch.no_grad():
                if not torch.allclose(tiny.hf(ids).logits, stock, atol=1e-12):
                    failures.append("stock")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)] + [threading.Thread(target=users_own_calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert hook_count(tiny.hf) == 0


def test_resid_post_and_the_next_resid_pre_are_one_site(llama, ids):
    rec = llama.run(ids)
    assert rec["resid_post.1"] is rec["resid_pre.2"]
    assert rec[Site("resid_post", 3)] is rec["resid_post", 3]
    assert rec["blocks.2.hook_resid_pre"] is rec["resid_pre.2"]


@pytest.mark.parametrize(
    ("prompt", "error"),
    [([], errors.EmptyPrompt), ([[]], errors.EmptyPrompt), (list(range(65)), errors.PromptTooLong),
     ([3, VOCAB], errors.UnknownToken), ([-1], errors.UnknownToken), ("text", errors.NoTokenizer)],
)  # fmt: skip
def test_prompts_that_cannot_run(llama, prompt, error):
    with pytest.raises(error):
        llama.run(prompt)


@pytest.mark.parametrize(
    ("site", "error", "words"),
    [("resid_per.3", errors.UnknownSite, "resid_pre"), ("resid_pre.4", errors.UnknownLayer, "resid_pre.0 to resid_pre.3"),
     ("logits.2", errors.UnknownLayer, "no layer"), ("pos_embed", errors.AbsentSite, "rotary"),
     ("router.1", errors.AbsentSite, "dense")],
)  # fmt: skip
def test_sites_that_are_not_there(llama, ids, site, error, words):
    with pytest.raises(error, match=words):
        llama.run(ids, capture=[site])


def test_a_window_refuses_what_it_does_not_hold(llama, ids):
    base = llama.run(ids)
    with pytest.raises(errors.UnknownLayer):
        Window(base, 9)
    with pytest.raises(errors.UnknownPosition):
        Window(base, 0, None, 11)
    with pytest.raises(errors.WrongModel):
        llama.run(ids + 1, window=Window(base, 2))
    late = llama.run(ids, ["resid_post.3"], window=Window(base, 2))
    with pytest.raises(errors.NotRecorded):
        late["resid_mid.0"]


def test_a_window_on_the_unedited_run_is_what_freeze_holds_to(llama, ids):
    """It then runs once; a base that was edited is not the unedited run, and is not taken for it."""
    cell = [edits.scale("resid_pre.1", 1.5, pos=4), edits.freeze("pattern.2")]
    whole = llama.run(ids, ["logits"], edits=cell).logits
    ran = []
    counter = llama.hf.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        for background, times in (([], 1), ([edits.scale("mlp_out.0", 3.0)], 2)):
            base = llama.run(ids, ["resid_pre", "k", "v", "pattern.2"], edits=background)
            ran.clear()
            logits = llama.run(ids, ["logits"], edits=cell, window=Window(base, 1, pos=4)).logits
            assert len(ran) == times
            assert torch.allclose(logits, whole[:, 4:], atol=1e-5) == (not background)
    finally:
        counter.remove()


def test_a_held_divisor_divides_a_stream_whose_own_overflows():
    """Stock norms square in float32: past 1.8e19 their own divisor is infinite, and there is nothing left to rescale."""
    hf = tiny_llama()
    model, ids = Model(hf), torch.tensor([[3, 4, 5]])
    held = model.run(ids, ["mlp_scale.1", "resid_mid.1"])
    large = edits.scale("resid_mid.1", 1e25)
    run = model.run(ids, ["mlp_in.1"], edits=[large, edits.freeze("mlp_scale.1")])
    expected = held["resid_mid.1"] * 1e25 / held["mlp_scale.1"] * hf.model.layers[1].post_attention_layernorm.weight
    torch.testing.assert_close(run["mlp_in.1"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["mistral", "gpt2", "bloom", "gpt_neo"])
def test_edits_of_scores_and_pattern_keep_closed_what_the_mask_keeps_out(name):
    """Against a run of the shorter prompt alone: no later token, and none that a window leaves out, is ever read."""
    model = Model(FAMILIES[name].build(), name=name)
    ids = torch.tensor([[3, 14, 15, 92, 65, 35, 8, 9]])
    plain = model.run(ids, ["pattern.0"])["pattern.0"]
    for stack in (
        [edits.ablate("scores.0")],
        [edits.scale("scores.0", -1.0)],
        [edits.ablate("pattern.0", to=torch.full_like(plain[0, 0], 0.3))],
        [edits.noise("pattern.0", 0.5, seed=1)],
    ):
        run = model.run(ids, ["pattern.0", "logits"], edits=stack)
        assert not run["pattern.0"][plain == 0].any()
        assert (run["pattern.0"] - plain).abs().max() > 1e-3
        if stack[0].kind != "ablate" or stack[0].site != "pattern.0":
            short = model.run(ids[:, :5], ["logits"], edits=stack)
            torch.testing.assert_close(run.logits[:, :5], short.logits, atol=1e-6, rtol=1e-6)
