"""Overlays: a run with one is a run of a model whose weight was really changed; the user's own weights stay."""

import pytest
import torch
from families import FAMILIES
from torch import nn

from residscope import edits, errors
from residscope.engine.model import Model
from residscope.engine.windows import Window
from tiny_models import VOCAB, hook_count, tiny_gpt2, tiny_llama

EXACT = 2e-6
IDS = torch.randint(2, VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))
OTHER = torch.randint(2, VOCAB, (2, 7), generator=torch.Generator().manual_seed(2))


def close(a, b, tolerance=EXACT):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def in_first(module):
    return isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D"


def low_rank(module, rank=2):
    d_in, d_out = module.weight.shape if in_first(module) else module.weight.T.shape
    generator = torch.Generator().manual_seed(d_in * 100 + d_out)
    return (torch.randn(d_in, rank, generator=generator) * 0.1, torch.randn(rank, d_out, generator=generator) * 0.1)


def matrices(hf):
    """Every matrix outside the blocks, and the second block's (Cohere's norms of heads have a gain for each)."""
    found = {n: m for n, m in hf.named_modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 2}
    found = {n: m for n, m in found.items() if "norm" not in n}
    return {n: m for n, m in found.items() if not any(f".{i}." in n for i in (0, 2))}


@torch.no_grad()
def really_changed(hf, name, A, B):
    """A copy's logits with the weight changed in place (and no longer shared)."""
    module = hf.get_submodule(name)
    change = (A @ B).double()
    module.weight = nn.Parameter(module.weight + (change if in_first(module) else change.T))
    return hf(IDS, use_cache=False).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_an_overlay_is_a_changed_weight(name):
    model = Model(FAMILIES[name].build(), name=name)
    before = {n: (w._version, w.data_ptr(), w.clone()) for n, w in model.hf.named_parameters()}
    plain = model.run(IDS).logits
    for weight, module in matrices(model.hf).items():
        A, B = low_rank(module)
        run = model.run(IDS, ["logits"], edits=edits.overlay(weight, (A, B)))
        close(run.logits, really_changed(FAMILIES[name].build(), weight, A, B))
        assert (run.logits - plain).abs().max() > 1e-5, weight
    assert torch.equal(model.run(IDS).logits, plain)
    assert hook_count(model.hf) == 0
    for n, w in model.hf.named_parameters():
        assert (w._version, w.data_ptr()) == before[n][:2]
        assert torch.equal(w, before[n][2])


def test_rank_one_several_and_the_other_edits_on_the_way():
    model, changed = Model(tiny_llama()), tiny_llama()
    names = [
        "model.layers.1.mlp.down_proj",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.2.self_attn.q_proj",
    ]
    stack, rank_one = [], low_rank(changed.model.layers[1].mlp.down_proj, 1)
    with torch.no_grad():
        for name in names:
            module = changed.get_submodule(name.removesuffix(".weight"))
            pair = rank_one if "down" in name else low_rank(module)
            stack.append(edits.overlay(name, (pair[0][:, 0], pair[1][0]) if "down" in name else pair))
            module.weight.add_((pair[0] @ pair[1]).T)
        extra = low_rank(changed.model.layers[2].self_attn.q_proj, 3)
        stack.append(edits.overlay(names[2], extra))
        changed.model.layers[2].self_attn.q_proj.weight.add_((extra[0] @ extra[1]).T)
    other = Model(changed)
    also = [
        edits.ablate("z.2", head=1),
        edits.path("z.1", "q.2", OTHER, sender_head=[0, 3]),
        edits.freeze("attn_scale.3"),
    ]
    sites = ["result", "q", "mlp_out", "logits"]
    ours = model.run(IDS, sites, edits=[*stack, also[0]])
    theirs = other.run(IDS, sites, edits=also[:1])
    for site in ours.sites:
        close(ours[site], theirs[site])
    # a path's source is run as the model is, so it is given as recorded values here
    source = {"z.1": other.run(OTHER, ["z.1"])["z.1"]}
    path = edits.path("z.1", "q.2", source, sender_head=[0, 3])
    close(model.run(IDS, ["q.2"], edits=[*stack, path])["q.2"], other.run(IDS, ["q.2"], edits=path)["q.2"])


def test_windows_recomputation_and_generation_keep_the_overlay():
    model, changed = Model(tiny_llama()), tiny_llama()
    A, B = low_rank(changed.model.layers[1].mlp.up_proj)
    laid = edits.overlay("model.layers.1.mlp.up_proj", (A, B))
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight.add_((A @ B).T)
    other = Model(changed)
    whole = other.run(IDS, ["resid_pre", "mlp_pre", "logits"])
    small = model.run(IDS, ["resid_pre"], edits=laid)
    close(small["mlp_pre.1"], whole["mlp_pre.1"])
    close(small.logits, whole.logits)
    close(model.run(IDS, ["logits"], edits=laid, window=Window(model.run(IDS), 1)).logits, whole.logits)
    out, expected = model.generate(IDS[:1], laid, 5, stop=()), other.generate(IDS[:1], max_new_tokens=5, stop=())
    assert out.ids == expected.ids
    close(*(torch.tensor([token.log_prob for token in g]) for g in (out, expected)))
    late = model.generate(IDS[:1], laid, 5, at="new", stop=())
    assert late.tokens[0].log_prob == model.generate(IDS[:1], max_new_tokens=1, stop=()).tokens[0].log_prob
    assert late.tokens[1].log_prob != out.tokens[1].log_prob


def test_of_a_tied_weight_only_the_named_use_is_overlaid():
    model = Model(tiny_gpt2(tied=True))
    A, B = low_rank(model.hf.transformer.wte)
    ends = [edits.overlay("transformer.wte.weight", (A, B)), edits.overlay("lm_head.weight", (B.T, A.T))]
    plain = model.run(IDS, ["embed", "final_norm", "logits"])
    first, last = (model.run(IDS, ["embed", "logits"], edits=end) for end in ends)
    close(first["embed"], plain["embed"] + (A[IDS] @ B).double())
    close(last["embed"], plain["embed"], 1e-12)
    close(last.logits, plain.logits + plain["final_norm"] @ (A @ B).T.double())


def test_an_overlay_that_changes_the_weight_in_place_would_be_seen():
    """The control of the version counters: the same change in place moves them."""
    hf = tiny_llama()
    before = hf.lm_head.weight._version
    really = low_rank(hf.lm_head)
    with torch.no_grad():
        hf.lm_head.weight.add_((really[0] @ really[1]).T)
    assert hf.lm_head.weight._version != before


def test_overlays_that_cannot_be():
    model, moe, cohere = Model(tiny_llama()), *(Model(FAMILIES[n].build()) for n in ("mixtral", "cohere, normed heads"))
    gains = edits.overlay("model.layers.1.self_attn.q_norm", (torch.ones(8), torch.ones(4)))
    a, b = torch.ones(32), torch.ones(32)
    name = "model.layers.1.self_attn.o_proj"
    for build, error, words in [
        (lambda: edits.overlay(name, (torch.ones(32, 2), torch.ones(3, 32))), errors.WrongWidth, "multiply"),
        (lambda: edits.overlay(name, (a * float("nan"), b)), errors.BadEdit, "NaN"),
        (lambda: model.run(IDS, edits=edits.overlay("model.layers.1.self_attn.out", (a, b))), errors.BadEdit, "o_proj"),
        (lambda: model.run(IDS, edits=edits.overlay("model.norm", (a, b))), errors.BadEdit, "no such matrix"),
        (lambda: model.run(IDS, edits=edits.overlay("model.layers.9.mlp.up_proj", (a, b))), errors.BadEdit, "no such"),
        (lambda: cohere.run(IDS, edits=gains), errors.BadEdit, "in one product"),
        (lambda: moe.run(IDS, edits=edits.overlay("model.layers.1.mlp.experts", (a, b))), errors.BadEdit, "no such"),
        (lambda: model.run(IDS, edits=edits.overlay("model.layers.1.mlp.up_proj", (a, b))), errors.WrongWidth, "48"),
    ]:
        with pytest.raises(error, match=words):
            build()
    laid = edits.overlay(name, (a, b))
    assert torch.equal(
        model.run(IDS, edits=edits.from_json(edits.to_json([laid]))).logits, model.run(IDS, edits=laid).logits
    )
