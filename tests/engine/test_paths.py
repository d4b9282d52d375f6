"""Path edits against the same thing done by whole runs: write the stream a receiver reads, keep only what it then is."""

import threading

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.engine.windows import Window
from tiny_models import VOCAB, hook_count, tiny_gpt2, tiny_llama

EXACT = 2e-6  # float64, but many stock families norm or softmax in float32 whatever the model's dtype
IDS = torch.randint(2, VOCAB, (2, 8), generator=torch.Generator().manual_seed(1))
OTHER = torch.randint(2, VOCAB, (2, 8), generator=torch.Generator().manual_seed(2))
SENDERS = {"z.0": {"head": [1, 2]}, "attn_out.0": {}, "mlp_out.0": {}, "embed": {}, "pos_embed": {}}
WROTE = {"z.0": "attn_out.0"}


def close(a, b, tolerance=EXACT):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def put(site, value):
    return edits.patch(site, {site: value})


def source(model, sender):
    """Another prompt; positions have the same embedding in every prompt, so theirs is made up."""
    if sender != "pos_embed":
        return OTHER
    return {"pos_embed": torch.randn(2, 8, model.d_model, generator=torch.Generator().manual_seed(9)).double()}


def change(model, sender, heads=None, before=()):
    """What a sender adds to the stream more under the source: by runs in which it is patched."""
    heads = heads or {}
    site = WROTE.get(sender, sender)
    plain = model.run(IDS, [site], edits=before)[site]
    return model.run(IDS, [site], edits=[*before, edits.patch(sender, source(model, sender), **heads)])[site] - plain


def read(model, receiver, delta, before=()):
    """What a receiver is in a run whose stream before it has `delta` added."""
    layer = receiver.split(".")[-1]
    stream = f"resid_pre.{layer}"
    if receiver.startswith("mlp_in") and "resid_mid" in model.sites.names:
        stream = f"resid_mid.{layer}"
    if receiver == "final_norm":
        stream = f"resid_post.{model.n_layers - 1}"
    x = model.run(IDS, [stream], edits=before)[stream] + delta
    return model.run(IDS, [receiver], edits=[*before, put(stream, x)])[receiver]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_path_is_the_stream_rewritten_for_one_receiver(name):
    model = Model(FAMILIES[name].build(), name=name)
    for i, sender in enumerate(s for s in SENDERS if s.split(".")[0] in model.sites.names):
        heads = SENDERS[sender]
        delta = change(model, sender, heads)
        receivers = ["q.1", "k.1", "v.1", "mlp_in.1", "final_norm"] if i == 0 else ["q.1", "mlp_in.1"]
        for receiver in (r for r in receivers if r.split(".")[0] in model.sites.names):
            where = {"q.1": {"head": 3}, "k.1": {"kv_head": 0}, "v.1": {"kv_head": 0}}.get(receiver, {})
            written = edits.patch(receiver, {receiver: read(model, receiver, delta)}, **where)
            expected = model.run(IDS, [receiver, "logits"], edits=written)
            path = edits.path(sender, receiver, source(model, sender), sender_head=heads.get("head"), **where)
            run = model.run(IDS, [receiver, "logits"], edits=path)
            close(run[receiver], expected[receiver])
            close(run.logits, expected.logits)
            assert (run[receiver] - model.run(IDS, [receiver])[receiver]).abs().max() > 1e-5, (sender, receiver)
    assert hook_count(model.hf) == 0


@torch.no_grad()
def test_a_path_by_hand():
    """Llama's and GPT-2's own modules, called one by one."""
    model = Model(tiny_llama())
    plain, other = model.run(IDS, ["z.0", "resid_mid.2"]), model.run(OTHER, ["z.0"])
    W_O = model.hf.model.layers[0].self_attn.o_proj.weight.T
    block, d = model.hf.model.layers[2], model.d_head
    delta = (other["z.0"] - plain["z.0"])[:, :, 3] @ W_O[3 * d : 4 * d]
    expected = block.post_attention_layernorm(plain["resid_mid.2"] + delta)
    path = edits.path("z.0", "mlp_in.2", OTHER, sender_head=3, pos=[2, -1])
    run = model.run(IDS, ["mlp_in.2", "resid_mid.2"], edits=path)
    close(run["mlp_in.2"][:, [2, 7]], expected[:, [2, 7]])
    close(run["mlp_in.2"][:, 3:7], model.run(IDS, ["mlp_in.2"])["mlp_in.2"][:, 3:7], 1e-12)
    close(run["resid_mid.2"], plain["resid_mid.2"], 1e-12)

    model = Model(tiny_gpt2())
    block = model.hf.transformer.h[2]
    plain, other = model.run(IDS, ["resid_pre.2", "mlp_out.1"]), model.run(OTHER, ["mlp_out.1"])
    x = plain["resid_pre.2"] + other["mlp_out.1"] - plain["mlp_out.1"]
    v = block.attn.c_attn(block.ln_1(x))[..., 64:].view(2, 8, 4, 8)
    run = model.run(IDS, ["v.2", "q.2"], edits=edits.path("mlp_out.1", "v.2", OTHER, kv_head=[0, 3]))
    close(run["v.2"][:, :, [0, 3]], v[:, :, [0, 3]])
    unedited = model.run(IDS, ["v.2", "q.2"])
    close(run["v.2"][:, :, [1, 2]], unedited["v.2"][:, :, [1, 2]], 1e-12)
    close(run["q.2"], unedited["q.2"], 1e-12)


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2", "granite", "bloom", "phi", "gemma3", "falcon, two norms"])
def test_paths_to_one_receiver_add_up_before_the_norm(name):
    model = Model(FAMILIES[name].build(), name=name)
    a, b, c = (change(model, "z.0", {"head": h}) for h in (0, 1, 3))
    mlp = change(model, "mlp_out.0")
    stack = [
        edits.path("z.0", "q.1", OTHER, sender_head=0, head=[1, 2]),
        edits.path("z.0", "q.1", OTHER, sender_head=1, head=[2, 3]),
        edits.path("z.0", "q.1", OTHER, sender_head=3, head=2, pos=5),
        edits.path("mlp_out.0", "mlp_in.1", OTHER),
        edits.path("z.0", "mlp_in.1", OTHER, sender_head=3),
    ]
    run = model.run(IDS, ["q.1"], edits=stack)["q.1"]
    close(run[:, :, 0], model.run(IDS, ["q.1"])["q.1"][:, :, 0])
    close(run[:, :, 1], read(model, "q.1", a)[:, :, 1])
    close(run[:, :, 3], read(model, "q.1", b)[:, :, 3])
    once = torch.zeros_like(c)
    once[:, 5] = c[:, 5]
    close(run[:, :, 2], read(model, "q.1", a + b + once)[:, :, 2])
    # the queries that have changed change what this layer's attention writes, and so what the MLP reads: hold them
    alone = model.run(IDS, ["mlp_in.1"], edits=stack[3:])["mlp_in.1"]
    close(alone, read(model, "mlp_in.1", mlp + c))


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "olmo2", "mpt", "gptj"])
def test_the_runs_own_edits_act_on_the_way(name):
    """Frozen divisors, a changed input, an edit before: the receiver reads what the edited run has, changed by the sender."""
    model = Model(FAMILIES[name].build(), name=name)
    for before in (
        [edits.scale("embed", 1.5), edits.freeze("norms")],
        [edits.ablate("resid_pre.1", pos=3), edits.scale("attn_in.1", 0.5)],
        [edits.scale("resid_pre.1", 0.3), edits.scale("attn_out.1", 2.0)],
    ):
        for receiver, where in (("q.1", {"head": 2}), ("mlp_in.1", {})):
            delta = change(model, "z.0", {"head": 1}, before)
            run = model.run(
                IDS, [receiver], edits=[*before, edits.path("z.0", receiver, OTHER, sender_head=1, **where)]
            )
            expected, plain = read(model, receiver, delta, before), model.run(IDS, [receiver], edits=before)[receiver]
            if where:
                run, expected, plain = (x[:, :, 2] for x in (run[receiver], expected, plain))
            else:
                run = run[receiver]
            close(run, expected)
            assert (run - plain).abs().max() > 1e-5
    held = [edits.path("z.0", "q.1", OTHER, sender_head=1, head=2), edits.ablate("q.1", pos=4)]
    assert model.run(IDS, ["q.1"], edits=held)["q.1"][:, 4].abs().max() == 0


def test_a_path_from_the_same_prompt_changes_nothing():
    model = Model(tiny_llama())
    plain = model.run(IDS).logits
    for receiver in ("q.2", "k.2", "v.2", "mlp_in.2", "final_norm"):
        close(model.run(IDS, edits=edits.path("attn_out.0", receiver, IDS)).logits, plain, 1e-12)


def test_windows_recomputation_and_generation_see_the_path():
    model = Model(tiny_llama())
    stack = [edits.path("z.0", "q.2", OTHER, sender_head=1, head=2), edits.path("mlp_out.1", "v.3", OTHER)]
    whole = model.run(IDS, ["resid_pre", "z.2", "z.3", "logits"], edits=stack)
    window = Window(model.run(IDS), 2)
    late = model.run(IDS, ["z.2", "z.3", "logits"], edits=stack, window=window)
    for site in ("z.2", "z.3", "logits"):
        close(late[site], whole[site])
    small = model.run(IDS, ["resid_pre"], edits=stack)
    close(small["z.2"], whole["z.2"])
    close(small["z.3"], whole["z.3"])
    tail = [edits.path("z.0", "q.2", OTHER, sender_head=1, head=2, pos=[5, 7])]
    run = model.run(IDS, ["logits"], edits=tail, window=Window(model.run(IDS), 0, None, 5))
    close(run.logits, model.run(IDS, edits=tail).logits[:, 5:])
    held = [edits.path(e.sender, e.site, OTHER, sender_head=e.sender_head, head=e.head, pos=range(8)) for e in stack]
    out = model.generate(
        IDS[:1],
        [
            edits.path("z.0", "k.2", OTHER[:1]),
            *(edits.path(e.sender, e.site, OTHER[:1], sender_head=e.sender_head, head=e.head) for e in stack),
        ],
        4,
        stop=(),
    )
    ids = torch.cat([IDS[:1], torch.tensor([out.ids])], 1)
    source = torch.cat([OTHER[:1], torch.tensor([out.ids])], 1)
    again = [edits.path(e.sender, e.site, source, sender_head=e.sender_head, head=e.head, pos=range(8)) for e in held]
    again.append(edits.path("z.0", "k.2", source, pos=range(8)))
    logits = model.run(ids, edits=again).logits.log_softmax(-1)
    found = torch.tensor([token.log_prob for token in out]).double()
    close(found, logits[0, torch.arange(7, 11), torch.tensor(out.ids)])


def test_paths_go_to_json_and_back():
    model = Model(tiny_llama())
    stack = [
        edits.path("z.0", "q.2", OTHER, sender_head=1, head=2),
        edits.path("z.1", "q.2", OTHER, head=[1, 2], pos=-1),
    ]
    run = model.run(IDS, ["q.2"], edits=stack)
    assert torch.equal(model.run(IDS, ["q.2"], edits=edits.from_json(edits.to_json(run.edits)))["q.2"], run["q.2"])


def test_threads_with_paths_do_not_mix():
    model = Model(tiny_llama())
    every = [[edits.path("z.0", f"{r}.{layer}", OTHER)] for r in "qkv" for layer in (1, 3)]
    every += [[edits.path("embed", "final_norm", OTHER)], []]
    alone = [model.run(IDS, edits=stack).logits for stack in every]
    assert len({float(x.sum()) for x in alone}) == 8
    failures = []

    def work(i):
        failures.extend(i for _ in range(5) if not torch.equal(model.run(IDS, edits=every[i]).logits, alone[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert hook_count(model.hf) == 0


def test_paths_that_cannot_be():
    model = Model(tiny_llama())
    parallel = Model(FAMILIES["phi"].build())
    for build, error, words in [
        (lambda: edits.path("q.0", "q.1", OTHER), errors.BadEdit, "sender"),
        (lambda: edits.path("z.0", "z.1", OTHER), errors.BadEdit, "receiver"),
        (lambda: edits.path("mlp_out.0", "q.1", OTHER, sender_head=1), errors.BadEdit, "only z"),
        (lambda: edits.path("z.0", "k.1", OTHER, head=1), errors.BadEdit, "kv_head="),
        (lambda: edits.path("z.0", "q.1", None), errors.BadEdit, "needs a source"),
        (lambda: model.run(IDS, edits=edits.path("z.1", "q.1", OTHER)), errors.BadEdit, "after the receiver"),
        (
            lambda: model.run(IDS, edits=edits.path("mlp_out.1", "mlp_in.1", OTHER)),
            errors.BadEdit,
            "after the receiver",
        ),
        (lambda: parallel.run(IDS, edits=edits.path("z.1", "mlp_in.1", OTHER)), errors.BadEdit, "after the receiver"),
        (lambda: model.run(IDS, edits=edits.path("pos_embed", "q.1", OTHER)), errors.AbsentSite, "rotary"),
        (lambda: model.run(IDS, edits=edits.path("z.0", "q.1", OTHER, sender_head=4)), errors.UnknownHead, "0 to 3"),
        (lambda: model.run(IDS, edits=edits.path("z.0", "q.1", OTHER[:, :5])), errors.CannotAlign, "5 tokens"),
        (
            lambda: model.run(IDS, edits=[edits.freeze("q.1"), edits.path("z.0", "q.1", OTHER)]),
            errors.ClashingEdits,
            "lost",
        ),
        (
            lambda: model.run(IDS, edits=[edits.path("z.0", "q.1", OTHER), edits.freeze("q.1")]),
            errors.ClashingEdits,
            "lost",
        ),
    ]:
        with pytest.raises(error, match=words):
            build()
    model.run(IDS, edits=edits.path("z.1", "mlp_in.1", OTHER))


LATE = {
    "norms held": lambda: [edits.freeze("norms")],
    "post-norm doubled": lambda: [edits.scale("attn_post_scale.0", 2.0)],
    "post-norm held, stream pushed": lambda: [edits.scale("embed", 1.1), edits.freeze("attn_post_scale")],
}


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2"])
@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("receiver", ["q.2", "mlp_in.2", "final_norm"])
def test_a_path_through_a_post_norm_is_the_same_wherever_a_pass_begins(name, late, receiver):
    """What the sender wrote goes through a norm below the pass: its edited divisor must be asked for there too."""
    model = Model(FAMILIES[name].build())
    cell, background = edits.path("z.0", receiver, OTHER, sender_head=1), LATE[late]()
    metric = rs.logit_diff(5, 7)
    whole = model.run(IDS, [receiver, "logits"], edits=[*background, cell])
    assert (whole.logits - model.run(IDS, ["logits"], edits=background).logits).abs().max() > 1e-4
    lazy = model.run(IDS, ["resid_pre"], edits=[*background, cell])
    close(lazy[receiver], whole[receiver])
    close(lazy.logits, whole.logits)
    swept = rs.sweep(model, IDS, [[cell], [edits.scale("z.1", 0.5)]], metric, background).run(False).values[0]
    close(swept, metric(whole))
    beside = [*background, edits.scale("mlp_out.1", 0.5)]
    plan = rs.sweep(model, IDS, [[cell, edits.scale("mlp_out.1", 0.5)]], metric, background)
    close(plan.run(False).values[0], metric(model.run(IDS, ["logits"], edits=[*beside, cell])))
