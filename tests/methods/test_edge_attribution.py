"""Edge attribution beside autograd over a plain forward with one input for each reader, and beside the exact edges."""

import threading
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import shaken

METRIC = rs.logit_diff(5, 7)
CLEAN, OTHER = [5, 9, 3, 17, 8, 2, 11], [5, 9, 4, 30, 8, 21, 11]


class Copied:
    """GPT-2's forward written out: every reader has an input of its own, so that autograd gives each its gradient."""

    def __init__(self, hf):
        self.hf, self.heads = hf, hf.config.n_head
        self.d = hf.config.n_embd // self.heads

    def embedded(self, ids):
        return self.hf.transformer.wte(torch.tensor([ids]))

    def run(self, embedded):
        """What each part writes, by its name; each reader's input, by its name; the metric."""
        reads, wrote, self.read = {}, {"embed": embedded}, {}
        added, positions = ["embed"], torch.arange(embedded.shape[1])
        stream = embedded + self.hf.transformer.wpe(positions)

        def own(name):
            self.read[name] = {*added}
            reads[name] = stream.clone() if stream.requires_grad else stream.clone().requires_grad_()
            return reads[name]

        for i, block in enumerate(self.hf.transformer.h):
            W, b = block.attn.c_attn.weight, block.attn.c_attn.bias
            attended = 0
            for h in range(self.heads):
                q, k, v = (
                    block.ln_1(own(f"{i}.{h} {name}")) @ W[:, self.columns(place, h)] + b[self.columns(place, h)]
                    for place, name in enumerate("qkv")
                )
                scores = q @ k.transpose(-1, -2) / self.d**0.5
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
                written = scores.softmax(-1) @ v @ block.attn.c_proj.weight[h * self.d : (h + 1) * self.d]
                wrote[f"{i}.{h}"] = written
                attended = attended + written
            stream = stream + attended + block.attn.c_proj.bias
            added += [f"{i}.{h}" for h in range(self.heads)]
            wrote[f"mlp {i}"] = block.mlp(block.ln_2(own(f"mlp {i}")))
            stream = stream + wrote[f"mlp {i}"]
            added.append(f"mlp {i}")
        logits = self.hf.lm_head(self.hf.transformer.ln_f(own("logits")))[0, -1]
        return wrote, reads, logits[5] - logits[7]

    def columns(self, place, head):
        first = (place * self.heads + head) * self.d
        return slice(first, first + self.d)

    def scores(self, steps):
        """(w' - w) . mean of the gradients at e' + k/m (e - e')."""
        e, other = (self.embedded(ids).detach() for ids in (CLEAN, OTHER))
        with torch.no_grad():
            here, there = (self.run(x)[0] for x in (e, other))
        mean = {}
        for k in range(1, steps + 1):
            _, reads, metric = self.run((other + k / steps * (e - other)).requires_grad_())
            for name, grad in zip(reads, torch.autograd.grad(metric, [*reads.values()]), strict=True):
                mean[name] = mean.get(name, 0) + grad / steps
        return {(s, r): float(((there[s] - here[s]) * grad).sum()) for r, grad in mean.items() for s in self.read[r]}


@pytest.mark.parametrize("steps", [1, 4])
def test_every_score_is_autograd_s(gpt2, steps):
    found = rs.edge_attribution(gpt2, [CLEAN], [OTHER], METRIC, steps=steps, sample=0, progress=False)
    told = Copied(gpt2.hf).scores(steps)
    largest = 0.0
    for s, sender in enumerate(found.coords["sender"]):
        for r, receiver in enumerate(found.coords["receiver"]):
            value = float(found.values[s, r])
            assert value == pytest.approx(told.pop((sender, receiver), 0), abs=1e-10), (sender, receiver)
            largest = max(largest, abs(value))
    assert not told
    assert largest > 1e-4
    assert isinstance(found.exact, str)
    assert ("4 gradients" if steps == 4 else "one gradient") in found.exact


PUBLISHED = Path(__file__).parent / "peers/eap-ig/tiny-gpt2.safetensors"


def test_the_published_code_s_scores_are_ours():
    """Weights, prompts and scores of a tiny GPT-2 by hannamw/EAP-IG (src/eap at 62f83cd, on TransformerLens 3.9, in float64).

    Its EAP is ours. Its EAP-IG takes the steps k = 0 ... m - 1 from the corrupted prompt's embeddings to the clean one's, where
    the paper has 1 ... m: that is ours of the other way round, with the other sign.
    """
    kept = load_file(PUBLISHED)
    d, vocab = kept["weights.transformer.wte.weight"].shape[1], len(kept["weights.transformer.wte.weight"])
    config = GPT2Config(
        vocab_size=vocab, n_embd=d, n_layer=2, n_head=2, n_positions=12, tie_word_embeddings=False, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).double().eval()
    hf.load_state_dict({k.removeprefix("weights."): v.double() for k, v in kept.items() if k.startswith("weights.")})
    model, pair = Model(hf, name="tiny gpt2"), [[kept[f"ids.{name}"].tolist()] for name in ("clean", "corrupted")]
    by_layer = [[*(f"{i}.{head} {read}" for read in "qkv" for head in (0, 1)), f"mlp {i}"] for i in (0, 1)]
    columns = [*by_layer[0], *by_layer[1], "logits"]
    for name, steps, mode, sign in (("eap", 1, "noise", 1), ("eap_ig.5", 5, "denoise", -1)):
        found = rs.edge_attribution(
            model, *pair, rs.logit_diff(*kept["answers"].tolist()), steps=steps, mode=mode, sample=0, progress=False
        )
        assert list(found.coords["sender"]) == ["embed", "0.0", "0.1", "mlp 0", "1.0", "1.1", "mlp 1"]
        ours = found.values[:, [list(found.coords["receiver"]).index(name) for name in columns]]
        assert float(kept[name].abs().max()) > 0.1
        torch.testing.assert_close(sign * ours, kept[name], atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "gptj", "granite", "toy, attention only"])
def test_where_the_change_is_small_it_is_the_exact_edge(name):
    hf = shaken(FAMILIES[name].build())
    near = {3: 40, 8: 41}
    with torch.no_grad():
        W_E = hf.get_input_embeddings().weight
        for token, other in near.items():
            W_E[other] = W_E[token] + 1e-5 * torch.randn(W_E.shape[1], dtype=W_E.dtype)
    model, ids = Model(hf, name=name), CLEAN[:6]
    pair = [ids], [[near.get(token, token) for token in ids]]
    asked = {"receivers": [0, model.n_layers - 1], "progress": False}
    exact = rs.edge_patching(model, *pair, METRIC, read="each", **asked).values
    for steps in (1, 2):
        found = rs.edge_attribution(model, *pair, METRIC, steps=steps, sample=0, **asked).values
        assert float((found - exact).abs().max()) < 0.02 * float(exact.abs().max())
    assert float(exact.abs().max()) > 1e-6
    whole = rs.edge_attribution(model, *pair, METRIC, read="all", sample=0, nodes="heads", **asked).values
    apart = rs.edge_attribution(model, *pair, METRIC, sample=0, nodes="heads", **asked).values
    torch.testing.assert_close(whole, apart.unflatten(1, (-1, 3)).sum(2), rtol=1e-4, atol=1e-12)


def test_it_says_how_well_it_agrees_with_exact_edges(llama):
    pair = [CLEAN], [OTHER]
    asked = {"receivers": [2, 3], "read": "all", "progress": False}
    exact = rs.edge_patching(llama, *pair, METRIC, **asked)
    found = rs.edge_attribution(llama, *pair, METRIC, sample=8, seed=3, **asked)
    beside = found.provenance["sample"]
    assert len(beside["edges"]) == 8
    assert beside["strongest"] == 4
    for (sender, receiver), told, estimate in zip(beside["edges"], beside["exact"], beside["estimate"], strict=True):
        at = {"sender": sender, "receiver": receiver}
        assert float(exact.select(**at).values) == pytest.approx(told[0], abs=1e-9)
        assert float(found.select(**at).values) == pytest.approx(estimate[0], abs=1e-12)
    assert f"pearson {beside['pearson']:.2f}" in found.exact
    largest = sorted(found.values.abs().flatten().tolist())[-4:]
    assert sorted(abs(x[0]) for x in beside["estimate"][:4]) == pytest.approx(largest)
    share = rs.edge_attribution(llama, *pair, METRIC, sample=0, normalize=True, **asked)
    gap = share.provenance["corrupted"][0] - share.provenance["clean"][0]
    torch.testing.assert_close(share.values * gap, found.values)


def test_several_prompts_are_each_its_own_also_a_few_at_a_time(llama):
    data = rs.PromptSet(
        (tuple(CLEAN), (4, 8, 15, 16)), corrupted=(tuple(OTHER), (4, 9, 15, 16)), answers=((5, 7), (9, 4))
    )
    asked = {"receivers": [2], "steps": 2, "sample": 0, "progress": False}
    found = rs.edge_attribution(llama, data, None, rs.logit_diff(), **asked)
    alone = rs.edge_attribution(llama, [CLEAN], [OTHER], METRIC, **asked)
    torch.testing.assert_close(found.values[..., 0], alone.values, atol=1e-10, rtol=1e-6)
    apart = rs.edge_attribution(llama, data, None, rs.logit_diff(), memory=1, **asked)
    torch.testing.assert_close(apart.values, found.values, atol=1e-10, rtol=1e-6)


def test_what_is_held_carries_nothing(llama):
    asked = {"receivers": [2], "nodes": "heads", "sample": 0, "progress": False}
    patterns = rs.edge_attribution(llama, [CLEAN], [OTHER], METRIC, background=[edits.freeze("pattern")], **asked)
    by = [label[-1] for label in patterns.coords["receiver"]]
    assert (patterns.values[:, [i for i, read in enumerate(by) if read != "v"]] == 0).all()
    assert (patterns.values[0, [i for i, read in enumerate(by) if read == "v"]] != 0).all()
    heads = rs.edge_attribution(llama, [CLEAN], [OTHER], METRIC, background=[edits.freeze("z")], **asked)
    assert (heads.values == 0).all()


def test_stopped_at_the_sample_it_keeps_the_estimates(llama):
    stop = threading.Event()

    def progress(stage, done, total):
        stop.set() if stage.startswith("Following") else None

    asked = {"receivers": [2], "nodes": "heads"}
    with pytest.raises(errors.SweepCancelled) as caught:
        rs.edge_attribution(llama, [CLEAN], [OTHER], METRIC, progress=progress, cancel=stop, **asked)
    whole = rs.edge_attribution(llama, [CLEAN], [OTHER], METRIC, sample=0, progress=False, **asked)
    torch.testing.assert_close(caught.value.partial.values, whole.values)


def test_it_is_refused_in_words(llama):
    pair = [CLEAN], [OTHER]
    for wrong in ({"steps": 0}, {"read": "z"}, {"nodes": "neurons"}, {"mode": "both"}):
        with pytest.raises(errors.BadSweep):
            rs.edge_attribution(llama, *pair, METRIC, **wrong)

    class Rank:
        sites, unit = ("logits",), "rank"

        def __call__(self, recording):
            return recording["logits"][:, -1].argmax(-1).double()

    with pytest.raises(errors.NoGradient):
        rs.edge_attribution(llama, *pair, Rank())
