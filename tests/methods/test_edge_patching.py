"""Edge patching beside one plain forward an edge, with torch's hooks on the stock modules of several families."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import shaken

METRIC = rs.logit_diff(5, 7)
CLEAN, OTHER = [5, 9, 3, 17, 8, 2, 11], [5, 9, 4, 30, 8, 21, 11]


def gpt2(hf):
    return hf.transformer.wte, [
        SimpleNamespace(
            block=b, norm=b.ln_1, qkv=[b.attn.c_attn], proj=b.attn.c_proj, W_O=b.attn.c_proj.weight, post=None,
            mlp_norm=b.ln_2, mlp=b.mlp, wrote=b.mlp, columns="blocks",
        )
        for b in hf.transformer.h
    ]  # fmt: skip


def gpt_neox(hf):
    return hf.gpt_neox.embed_in, [
        SimpleNamespace(
            block=b, norm=b.input_layernorm, qkv=[b.attention.query_key_value], proj=b.attention.dense,
            W_O=b.attention.dense.weight.T, post=None, mlp_norm=b.post_attention_layernorm, mlp=b.mlp, wrote=b.mlp,
            columns="heads",
        )
        for b in hf.gpt_neox.layers
    ]  # fmt: skip


def llama(hf, post=False):
    return hf.model.embed_tokens, [
        SimpleNamespace(
            block=b, norm=b.input_layernorm, qkv=[b.self_attn.q_proj, b.self_attn.k_proj, b.self_attn.v_proj],
            proj=b.self_attn.o_proj, W_O=b.self_attn.o_proj.weight.T, post=b.post_attention_layernorm if post else None,
            mlp_norm=b.pre_feedforward_layernorm if post else b.post_attention_layernorm, mlp=b.mlp,
            wrote=b.post_feedforward_layernorm if post else b.mlp, columns="apart",
        )
        for b in hf.model.layers
    ]  # fmt: skip


PARTS = {"gpt2": gpt2, "gpt_neox": gpt_neox, "llama": llama, "gemma2": lambda hf: llama(hf, post=True)}
FINAL = {
    "gpt2": lambda hf: hf.transformer.ln_f,
    "gpt_neox": lambda hf: hf.gpt_neox.final_layer_norm,
    "llama": lambda hf: hf.model.norm,
    "gemma2": lambda hf: hf.model.norm,
}


@contextmanager
def hooked(*handles):
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def before(module, act):
    return module.register_forward_pre_hook(lambda _, args: act(args[0]))


def after(module, act):
    return module.register_forward_hook(lambda _, args, out: act(out))


@dataclass
class Plain:
    """A stock model, one edge of which is patched by a forward with hooks on its own modules."""

    name: str
    model: Any

    @cached_property
    def parts(self):
        return PARTS[self.name](self.model.hf)

    @cached_property
    def final(self):
        return FINAL[self.name](self.model.hf)

    def metric(self, ids):
        with torch.no_grad():
            logits = self.model.hf(torch.tensor([ids])).logits[0, -1]
        return float(logits[5] - logits[7])

    @cached_property
    def clean(self):
        return self.seen(CLEAN)

    @cached_property
    def other(self):
        return self.seen(OTHER)

    def seen(self, ids):
        """What each part wrote and read in a run."""
        layers = self.parts[1]
        got, handles = {}, []

        def keep(key):
            def act(value):
                value = value[0] if isinstance(value, tuple) else value
                got[key] = value.detach().clone()

            return act

        handles.append(before(layers[0].block, keep("embed")))
        for i, x in enumerate(layers):
            handles += [before(x.norm, keep(("stream", i))), before(x.mlp_norm, keep(("middle", i)))]
            handles += [
                before(x.proj, keep(("z", i))),
                after(x.proj, keep(("raw", i))),
                after(x.wrote, keep(("mlp", i))),
            ]
        handles.append(before(self.final, keep("end")))
        with hooked(*handles):
            got["metric"] = self.metric(ids)
        return got

    def change(self, sender):
        """What a sender writes more in the other run."""
        if sender == "embed":
            return self.other["embed"] - self.clean["embed"]
        kind, i, *head = sender
        if kind == "mlp":
            return self.other["mlp", i] - self.clean["mlp", i]
        x, d = self.parts[1][i], self.model.d_head
        rows = slice(head[0] * d, (head[0] + 1) * d)
        wrote = (self.other["z", i] - self.clean["z", i])[..., rows] @ x.W_O[rows]
        raw = self.clean["raw", i]
        return wrote if x.post is None else x.post(raw + wrote) - x.post(raw)

    def columns(self, i, head, read):
        """For a head's query, key or value: which output of the projections, and its columns."""
        heads, kv, d = self.model.n_heads, self.model.n_kv_heads, self.model.d_head
        how, place = self.parts[1][i].columns, "qkv".index(read)
        if how == "blocks":
            return 0, slice((place * heads + head) * d, (place * heads + head + 1) * d)
        if how == "heads":
            return 0, slice((3 * head + place) * d, (3 * head + place + 1) * d)
        own = head if read == "q" else head * kv // heads
        return place, slice(own * d, (own + 1) * d)

    @torch.no_grad()
    def effect(self, sender, receiver, reads="qkv"):
        """m(the receiver alone reads the stream with the sender's change) - m."""
        more = self.change(sender)
        if receiver == "logits":
            handles = [before(self.final, lambda x: (x + more,))]
        elif receiver[0] == "mlp":
            x = self.parts[1][receiver[1]]
            new = x.mlp_norm(self.clean["middle", receiver[1]] + more)
            handles = [before(x.mlp, lambda _: (new,))]
        else:
            handles = self.into_head(receiver[1], receiver[2], reads, more)
        with hooked(*handles):
            return self.metric(CLEAN) - self.clean["metric"]

    def into_head(self, i, head, reads, more):
        x, d = self.parts[1][i], self.model.d_head
        read = x.norm(self.clean["stream", i] + more)
        new = [module(read) for module in x.qkv]
        puts = {}
        for name in reads:
            which, columns = self.columns(i, head, name)
            puts.setdefault(which, []).append(columns)

        def put(which):
            def act(out):
                out = out.clone()
                for columns in puts[which]:
                    out[..., columns] = new[which][..., columns]
                return out

            return act

        handles = [after(x.qkv[which], put(which)) for which in puts]
        if self.model.n_kv_heads == self.model.n_heads:
            return handles
        z = {}  # other heads share the key and the value: this head's output, then a run with it alone
        with hooked(*handles, before(x.proj, lambda value: z.update(own=value.clone()))):
            self.metric(CLEAN)

        def own_head(value):
            value = value.clone()
            value[..., head * d : (head + 1) * d] = z["own"][..., head * d : (head + 1) * d]
            return (value,)

        return [before(x.proj, own_head)]


@cache
def plain(name):
    return Plain(name, Model(shaken(FAMILIES[name].build()), name=name))


def parsed(label):
    if label in ("embed", "logits"):
        return label
    if label.startswith("mlp"):
        return "mlp", int(label.split()[1])
    layer, head = label.split()[0].split(".")
    return "head", int(layer), int(head)


@pytest.mark.parametrize(
    ("name", "read"), [("gpt2", "each"), ("llama", "all"), ("llama", "k"), ("gpt_neox", "all"), ("gemma2", "v")]
)
def test_every_edge_is_one_plain_forward(name, read):
    model = plain(name)
    found = rs.edge_patching(model.model, [CLEAN], [OTHER], METRIC, read=read, progress=False)
    assert found.dims == ("sender", "receiver")
    parallel, edges, largest = model.name == "gpt_neox", 0, 0.0
    close = 1e-5 if model.name == "gemma2" else 1e-9  # its norms are in float32, whatever the model
    for s, sender in enumerate(found.coords["sender"]):
        for r, receiver in enumerate(found.coords["receiver"]):
            a, b, value = parsed(sender), parsed(receiver), float(found.values[s, r])
            first = -1 if a == "embed" else a[1] + (0.5 if a[0] == "mlp" else 0)
            last = 99 if b == "logits" else b[1] + (0.5 if b[0] == "mlp" and not parallel else 0)
            if first >= last:
                assert value == 0
                continue
            edges += 1
            reads = receiver.split()[1] if read != "all" and b[0] == "head" else "qkv"
            told = model.effect(a, b, reads)
            assert value == pytest.approx(told, abs=close), (sender, receiver)
            largest = max(largest, abs(told))
    assert edges == found.provenance["edges"]
    assert largest > 1e-3
    assert found.provenance["clean"][0] == pytest.approx(model.clean["metric"], abs=1e-9)


@pytest.fixture(scope="module")
def whole(llama):
    return rs.edge_patching(llama, [CLEAN], [OTHER], METRIC, progress=False)


def test_with_norms_held_it_is_the_path_edit(llama):
    held = [edits.freeze("norms")]
    asked = {"read": "q", "nodes": "heads", "senders": [0], "receivers": [2], "progress": False}
    found = rs.edge_patching(llama, [CLEAN], [OTHER], METRIC, background=held, **asked)
    source, base = llama.run([OTHER], ["z"], edits=held), float(METRIC(llama.run([CLEAN], ["logits"], edits=held)))
    edit = edits.path("z.0", "q.2", source, sender_head=3, head=1)
    told = float(METRIC(llama.run([CLEAN], ["logits"], edits=[*held, edit]))) - base
    assert float(found.select(sender="0.3", receiver="2.1 q").values) == pytest.approx(told, abs=1e-9)
    free = rs.edge_patching(llama, [CLEAN], [OTHER], METRIC, **asked)
    assert not torch.allclose(free.values, found.values, atol=1e-5)


def test_some_layers_both_directions_shares_and_several_prompts(llama, whole):
    data = rs.PromptSet(
        (tuple(CLEAN), (4, 8, 15, 16)), corrupted=(tuple(OTHER), (4, 8, 15, 16)), answers=((5, 7), (9, 4))
    )
    asked = {"senders": [0, 2], "receivers": [2, 3], "progress": False}
    found = rs.edge_patching(llama, data, None, rs.logit_diff(), **asked)
    assert found.dims == ("sender", "receiver", "prompt")
    assert "embed" not in found.coords["sender"]
    assert "logits" not in found.coords["receiver"]
    part = whole.select(sender=found.coords["sender"], receiver=found.coords["receiver"])
    torch.testing.assert_close(found.values[..., 0], part.values, atol=1e-9, rtol=1e-6)
    assert found.values[..., 1].abs().max() < 1e-9  # the two prompts agree
    back = rs.edge_patching(llama, [OTHER], [CLEAN], METRIC, mode="denoise", normalize=True, **asked)
    gap = back.provenance["clean"][0] - back.provenance["corrupted"][0]
    torch.testing.assert_close(back.values * gap, part.values, atol=1e-9, rtol=1e-6)
    small = rs.edge_patching(llama, [CLEAN], [OTHER], METRIC, memory=4 * 7 * 32 * 8 * 5, **asked)
    torch.testing.assert_close(small.values, part.values, atol=1e-9, rtol=1e-6)


def test_a_stopped_one_has_the_edges_that_are_done(llama, whole):
    stop = threading.Event()

    def progress(stage, done, total):
        stop.set() if stage == "Following edges into the heads of layer 2" else None

    with pytest.raises(errors.SweepCancelled) as caught:
        rs.edge_patching(llama, [CLEAN], [OTHER], METRIC, progress=progress, cancel=stop)
    partial = caught.value.partial
    assert partial.dims == whole.dims
    done = ~partial.values.isnan()
    torch.testing.assert_close(partial.values[done], whole.values[done], atol=1e-10, rtol=1e-8)
    assert not partial.select(receiver="mlp 1").values.isnan().any()
    assert partial.select(sender="0.1", receiver="2.3").values.isnan()


def test_it_is_refused_in_words(llama):
    pair = [CLEAN], [OTHER]
    for wrong in (
        {"read": "z"},
        {"nodes": "neurons"},
        {"mode": "both"},
        {"senders": [4]},
        {"senders": [3], "receivers": [1]},
    ):
        with pytest.raises(errors.BadSweep):
            rs.edge_patching(llama, *pair, METRIC, **wrong)
    with pytest.raises(errors.UnalignedPrompts):
        rs.edge_patching(llama, [CLEAN], [OTHER[:-1]], METRIC)
    with pytest.raises(errors.BadSweep, match="same metric"):
        rs.edge_patching(llama, [CLEAN], [CLEAN], METRIC, normalize=True)
