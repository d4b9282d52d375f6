"""Path patching beside the paper's own three forwards, with torch's hooks on the stock modules of three families."""

import threading
from dataclasses import dataclass
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
ATTENTION = {
    "gpt2": lambda hf, i: (hf.transformer.h[i].attn.c_attn, hf.transformer.h[i].attn.c_proj),
    "llama": lambda hf, i: (hf.model.layers[i].self_attn, hf.model.layers[i].self_attn.o_proj),
    "gpt_neox": lambda hf, i: (
        hf.gpt_neox.layers[i].attention.query_key_value,
        hf.gpt_neox.layers[i].attention.dense,
    ),
}


@dataclass
class Plain:
    """A stock model whose heads' outputs and inputs can be read and set, by hooks on its own modules."""

    name: str
    model: Any

    def projection(self, layer, part):
        """The module that gives a layer's queries, keys or values, and which of its columns belong to a head."""
        module, _ = ATTENTION[self.name](self.model.hf, layer)
        heads, d = self.model.n_heads, self.model.d_head
        place = "qkv".index(part)
        if self.name == "gpt2":
            return module, lambda head: slice((place * heads + head) * d, (place * heads + head + 1) * d)
        if self.name == "gpt_neox":
            return module, lambda head: slice((3 * head + place) * d, (3 * head + place + 1) * d)
        group = 1 if part == "q" else heads // self.model.n_kv_heads
        return getattr(module, f"{part}_proj"), lambda head: slice(head // group * d, (head // group + 1) * d)

    def run(self, ids, *, z=None, put=(), read=()):
        """The metric, every layer's z, and what some heads read; with these z held, and these values put into heads' inputs."""
        handles, seen, got = [], {}, {}

        def outputs(layer):
            def hook(_, args):
                seen[layer] = args[0].clone()
                return None if z is None else (z[layer],)

            return hook

        def reads(layer, head, part, columns):
            def hook(_, __, out):
                got[layer, head, part] = out[..., columns(head)].clone()

            return hook

        def puts(head, value, columns):
            def hook(_, __, out):
                out = out.clone()
                out[..., columns(head)] = value
                return out

            return hook

        for layer in range(self.model.n_layers):
            out = ATTENTION[self.name](self.model.hf, layer)[1]
            handles.append(out.register_forward_pre_hook(outputs(layer)))
        for layer, head, part, value in put:
            module, columns = self.projection(layer, part)
            handles.append(module.register_forward_hook(puts(head, value, columns)))
        for layer, head, part in read:
            module, columns = self.projection(layer, part)
            handles.append(module.register_forward_hook(reads(layer, head, part, columns)))
        try:
            with torch.no_grad():
                logits = self.model.hf(torch.tensor([ids])).logits[0, -1]
        finally:
            for handle in handles:
                handle.remove()
        return float(logits[5] - logits[7]), seen, got

    def effect(self, layer, head, ends=(), part="q"):
        """The paper's algorithm: all z held but the sender's, the receivers' inputs read, then put into the clean run."""
        base, mine, _ = self.run(CLEAN)
        theirs, d = self.run(OTHER)[1], self.model.d_head
        held = {i: x.clone() for i, x in mine.items()}
        held[layer][..., head * d : (head + 1) * d] = theirs[layer][..., head * d : (head + 1) * d]
        value, _, got = self.run(CLEAN, z=held, read=[(*end, part) for end in ends])
        if ends:
            value = self.run(CLEAN, put=[(*key, x) for key, x in got.items()])[0]
        return value - base


@pytest.fixture(scope="module", params=ATTENTION)
def plain(request):
    return Plain(request.param, Model(shaken(FAMILIES[request.param].build()), name=request.param))


def test_to_the_logits_it_is_the_paper_s_algorithm(plain):
    found = rs.path_patching(plain.model, [CLEAN], [OTHER], METRIC, progress=False)
    assert found.dims == ("layer", "head")
    for layer in range(plain.model.n_layers):
        for head in (0, plain.model.n_heads - 1):
            assert float(found.values[layer, head]) == pytest.approx(plain.effect(layer, head), abs=1e-9)
    assert found.values.abs().max() > 1e-3
    assert found.provenance["clean"][0] == pytest.approx(plain.run(CLEAN)[0], abs=1e-9)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_to_later_heads_it_is_the_paper_s_algorithm(plain, part):
    n, heads = plain.model.n_layers, plain.model.n_heads
    ends = [(n - 1, h) for h in range(heads // plain.model.n_kv_heads)]  # the heads of one group of keys and values
    ends = [(n - 1, 0)] if part == "q" else ends
    found = rs.path_patching(plain.model, [CLEAN], [OTHER], METRIC, receivers=ends, read=part, progress=False)
    for layer, head in ((0, 0), (0, heads - 1), (n - 2, 1)):
        assert float(found.values[layer, head]) == pytest.approx(plain.effect(layer, head, ends, part), abs=1e-9)
    assert found.values[:-1].abs().max() > 1e-5
    assert (found.values[-1] == 0).all()  # nothing that the receivers read is behind these


def test_the_direct_path_alone_is_the_paths_edit_and_all_paths_with_mlps_held(llama):
    pair = [CLEAN], [OTHER]
    found = rs.path_patching(llama, *pair, METRIC, direct=True, progress=False)
    base = float(METRIC(llama.run([CLEAN], ["logits"])))
    held = [edits.freeze("z"), edits.freeze("mlp_out")]
    source = llama.run([OTHER], ["z"])
    for layer, head in ((0, 1), (3, 2)):
        one = edits.ablate(f"z.{layer}", to=source[f"z.{layer}"], head=head)
        told = float(METRIC(llama.run([CLEAN], ["logits"], edits=[*held, one]))) - base
        assert float(found.values[layer, head]) == pytest.approx(told, abs=1e-9)
    whole = rs.path_patching(llama, *pair, METRIC, progress=False)
    assert not torch.allclose(whole.values, found.values, atol=1e-4)
    to_query = rs.path_patching(llama, *pair, METRIC, receivers=[(2, 1)], direct=True, progress=False)
    edit = edits.path("z.0", "q.2", source, sender_head=3, head=1)
    told = float(METRIC(llama.run([CLEAN], ["logits"], edits=[edit]))) - base
    assert float(to_query.values[0, 3]) == pytest.approx(told, abs=1e-9)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_with_norms_and_mlps_held_all_paths_sum_to_the_whole_effect(name):
    model = Model(shaken(FAMILIES[name].build()), name=name)
    held = [edits.freeze("norms"), edits.freeze("mlp_out")]
    found = rs.path_patching(model, [CLEAN], [OTHER], BEFORE_CAP, direct=True, background=held, progress=False)
    theirs = model.run([OTHER], ["z"], edits=held)
    whole = [edits.ablate(f"z.{i}", to=theirs[f"z.{i}"]) for i in range(model.n_layers)]
    ends = [BEFORE_CAP(model.run([CLEAN], BEFORE_CAP.sites, edits=stack)) for stack in (held, [*held, *whole])]
    assert float(found.values.sum()) == pytest.approx(float(ends[1] - ends[0]), rel=1e-5, abs=1e-8)
    through = rs.path_patching(model, [CLEAN], [OTHER], BEFORE_CAP, background=held, progress=False)
    torch.testing.assert_close(through.values, found.values, atol=1e-7, rtol=1e-5)  # no MLP is left to go through


class BeforeCap:
    """A linear readout of the final norm, which no cap of the logits bends."""

    sites = ("final_norm",)

    def __call__(self, recording):
        model = recording.model
        return recording["final_norm"][:, -1] @ (model.W_U[:, 5] - model.W_U[:, 7])


BEFORE_CAP = BeforeCap()


def test_senders_whole_receivers_by_name_and_by_site_and_both_directions(llama):
    pair = [CLEAN], [OTHER]
    asked = {"progress": False, "receivers": {"movers": [(3, 0), (2, 1)], "more": [(3, 2)]}}
    found = rs.path_patching(llama, *pair, METRIC, **asked)
    again = rs.path_patching(llama, *pair, METRIC, progress=False, receivers=[(2, 1), (3, 2), (3, 0)])
    assert torch.equal(found.values, again.values)
    back = rs.path_patching(llama, pair[1], pair[0], METRIC, mode="denoise", **asked)
    torch.testing.assert_close(back.values, found.values)
    share = rs.path_patching(llama, *pair, METRIC, normalize=True, **asked)
    gap = share.provenance["corrupted"][0] - share.provenance["clean"][0]
    torch.testing.assert_close(share.values * gap, found.values)
    mlps = rs.path_patching(llama, *pair, METRIC, site="mlp_out", receivers=["mlp_in.3"], progress=False)
    assert mlps.dims == ("layer",)
    source, here = llama.run(pair[1], ["mlp_out"]), llama.run(pair[0], ["z"])
    held = [edits.patch("z", here), edits.ablate("mlp_out.1", to=source["mlp_out.1"])]
    arrived = llama.run(pair[0], ["mlp_in.3"], edits=held)
    told = METRIC(llama.run(pair[0], ["logits"], edits=edits.patch("mlp_in.3", arrived))) - METRIC(llama.run(pair[0]))
    torch.testing.assert_close(mlps.values[1], told[0], atol=1e-9, rtol=1e-6)
    assert mlps.values[3] == 0


def test_several_prompts_are_each_its_own_and_nothing_where_the_two_agree(llama):
    data = rs.PromptSet(
        (tuple(CLEAN), (4, 8, 15, 16, 23)), corrupted=(tuple(OTHER), (4, 8, 15, 16, 23)), answers=((5, 7), (9, 4))
    )
    for more in ({}, {"receivers": [(3, 1)], "read": "v"}, {"direct": True}):
        found = rs.path_patching(llama, data, None, rs.logit_diff(), progress=False, **more)
        assert found.dims == ("layer", "head", "prompt")
        alone = rs.path_patching(llama, [CLEAN], [OTHER], METRIC, progress=False, **more)
        torch.testing.assert_close(found.values[..., 0], alone.values, atol=1e-9, rtol=1e-6)
        assert found.values[..., 1].abs().max() < 1e-9


def test_in_parts_for_little_memory_it_is_one_result_and_a_stopped_one_is_in_its_own_form(llama):
    asked = {"receivers": [(3, 1)], "progress": False}
    whole = rs.path_patching(llama, [CLEAN], [OTHER], METRIC, **asked)
    each = 7 * llama.n_heads * llama.d_head * 8  # one sender's q.3 of seven tokens
    parts = rs.path_patching(llama, [CLEAN], [OTHER], METRIC, memory=4 * 5 * each, **asked)
    torch.testing.assert_close(parts.values, whole.values, atol=1e-10, rtol=1e-8)
    told = []

    def progress(stage, done, total):
        told.append(stage)
        stop.set() if stage.startswith("Following paths, part 3") else None

    stop = threading.Event()
    asked |= {"progress": progress, "cancel": stop, "memory": 4 * 5 * each}
    with pytest.raises(errors.SweepCancelled) as caught:
        rs.path_patching(llama, [CLEAN], [OTHER], METRIC, **asked)
    assert "Reading the ends of paths, part 2 of 4" in told
    partial = caught.value.partial
    assert partial.dims == whole.dims
    done = ~partial.values.isnan()
    assert int(done.sum()) == 10
    torch.testing.assert_close(partial.values[done], whole.values[done], atol=1e-10, rtol=1e-8)


def test_it_is_refused_in_words(llama):
    pair = [CLEAN], [OTHER]
    with pytest.raises(errors.UnknownLayer, match=r"no such layer\. Received: 4"):
        rs.path_patching(llama, *pair, METRIC, receivers=[(4, 0)])
    with pytest.raises(errors.BadSweep, match="no receiver"):
        rs.path_patching(llama, *pair, METRIC, receivers=[])
    with pytest.raises(errors.BadSweep, match="no such receiver"):
        rs.path_patching(llama, *pair, METRIC, receivers=["resid_pre.2"])
    with pytest.raises(errors.BadSweep, match="no such paths"):
        rs.path_patching(llama, *pair, METRIC, site="pattern")
    with pytest.raises(errors.UnalignedPrompts):
        rs.path_patching(llama, [CLEAN], [OTHER[:-1]], METRIC)
    with pytest.raises(errors.BadSweep, match="same metric"):
        rs.path_patching(llama, [CLEAN], [CLEAN], METRIC, normalize=True)
