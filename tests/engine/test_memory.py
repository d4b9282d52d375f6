"""What a run would keep is priced before it runs, and read a piece at a time where one piece is asked for."""

import pytest
import torch

import residscope as rs
from residscope import edits, errors
from residscope.engine import passes
from residscope.engine.memory import bytes_of, together
from residscope.engine.model import Model
from tiny_models import VOCAB, tiny_llama

IDS = torch.randint(2, VOCAB, (2, 40), generator=torch.Generator().manual_seed(5)).tolist()
LATE = [edits.scale("final_scale", 1.3), edits.scale("final_norm", 0.7, pos=-1), edits.ablate("z.2")]
AT_LOGITS = [edits.scale("logits", 2.0, pos=-1)]


@pytest.mark.parametrize(
    "sites", [["pattern"], ["pattern.1"], ["resid_pre", "logits"], ["z.2", "final_scale", "mlp_post"]]
)
def test_the_price_is_what_the_recording_takes(llama, sites):
    every = {llama.sites.canonical(s) for name in sites for s in llama.sites.expand(name)}
    run = llama.run(IDS, sites)
    assert bytes_of(llama.layout, run.batch, every) == sum(x.numel() * x.element_size() for x in run.held.values())


def test_what_does_not_fit_is_refused_before_it_runs_with_the_bytes(llama):
    needed = 4 * 2 * 4 * 40 * 40 * 8
    with pytest.raises(
        errors.TooLarge, match=rf"{needed:,} bytes, {needed // 4:,} for pattern\.\d alone.*1,000 bytes, as asked"
    ):
        llama.run(IDS, "pattern", memory=1000)
    assert llama.run(IDS, "pattern", memory=needed).nbytes == needed


@pytest.mark.usefixtures("smollm2")
def test_patterns_of_4096_tokens_are_refused_on_the_real_model(smollm2):
    """18 GB, on any machine that has not 36 free; nothing is run."""
    each = 9 * 4096 * 4096 * 4
    with pytest.raises(errors.TooLarge, match=rf"{30 * each:,} bytes, {each:,} for pattern\.\d+ alone"):
        smollm2.run([1] * 4096, "pattern", memory=30 * each - 1)
    with pytest.raises(errors.TooLarge, match=r"half of what is free"):
        smollm2.run([[1] * 4096] * 64, "pattern")


@pytest.mark.parametrize("stack", [[], LATE, AT_LOGITS, [*LATE, *AT_LOGITS]])
@pytest.mark.parametrize("metric", [rs.logit_diff(5, 7), rs.log_prob(9), rs.logit_diff(5, 7, pos=3), rs.loss()])
def test_logits_in_pieces_are_the_whole_runs(tiny, stack, metric, monkeypatch):
    whole = tiny.run(IDS, ["logits"], edits=stack)
    run = tiny.run(IDS, ["resid_pre.1"], edits=stack)
    torch.testing.assert_close(metric(run), metric(whole), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(tiny.run(IDS, readout=metric, edits=stack).readout, metric(whole), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(run.logits_at(-1), whole.logits[:, -1], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(run.logits_at(7, [3, 1], rows=[1]), whole.logits[1:, 7][:, [3, 1]], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(run.logits_of([4]), whole.logits[..., [4]], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(torch.cat([*run.logits_in_parts(7)], 1), whole.logits, atol=1e-9, rtol=1e-9)
    assert run.top(3) == whole.top(3)


def test_reading_the_end_keeps_no_other_logits(llama):
    run = llama.run(IDS, readout=rs.logit_diff(5, 7))
    run.top(3)
    run.logits_at(2)
    assert not {"logits", "final_norm"} & {site.name for site in run.held}


@pytest.mark.parametrize("stack", [[], [edits.ablate("mlp_out.1", pos=5), edits.scale("resid_mid.2", 1.1)]])
def test_a_long_prompts_pieces_change_no_number(stack, monkeypatch):
    model = Model(tiny_llama())
    names = ["resid_pre", "resid_post", "mlp_out", "attn_out", "mlp_in"]
    plain = model.run(IDS, names, edits=stack)
    monkeypatch.setattr(passes, "_LARGE", 0)
    monkeypatch.setattr("residscope.engine.hooks.LONG", 24)
    calls = []
    hook = model.hf.model.layers[1].mlp.register_forward_hook(lambda module, args, out: calls.append(args[0].shape[1]))
    pieces = model.run(IDS, names, edits=stack)
    hook.remove()
    streams = [pieces[f"resid_pre.{layer}"] for layer in range(model.n_layers)]
    stacked = together(streams)
    assert torch.equal(stacked, torch.stack(streams))
    assert stacked.data_ptr() == streams[0].data_ptr(), "not copied"
    assert together(streams[::-1]).data_ptr() not in {x.data_ptr() for x in streams}
    assert calls == [40]  # whoever looks at the module sees it called once, with the whole
    for site in plain.sites:
        torch.testing.assert_close(pieces[site], plain[site], atol=1e-9, rtol=1e-9)
    held = pieces.held
    assert len({x.untyped_storage().data_ptr() for x in held.values()}) == 1
    assert pieces.nbytes == sum(x.numel() * x.element_size() for x in held.values())
    alone = pieces.keeping("resid_pre.2")
    assert alone.nbytes == held[rs.Site("resid_pre", 2)].numel() * 8
