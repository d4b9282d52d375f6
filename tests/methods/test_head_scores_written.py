"""Head scores of what heads write and tell: by plain loops over the stock modules, on planted heads, beside their controls."""

import pytest
import torch
from families import FAMILIES
from labelled import labelled
from planted_heads import AGAINST, BY_KEYS, BY_QUERIES, DUPLICATE, FIRST, PREVIOUS, planted

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.methods._lib.heads import HEAD_SCORES
from residscope.methods._lib.heads.lists import ENGLISH, KINDS, OTHERS, few_shot, translation
from residscope.methods._lib.heads.telling import name_movers
from tiny_models import tiny_llama

ROWS = [[3, 9, 12, 4, 3, 9, 5, 4, 3, 12], [8, 7, 2, 8, 7, 2]]


def stock(hf, row):
    """Patterns, values, the stream in front of each block, what the final norm divides by: of one prompt, from a stock Llama."""
    seen, blocks = {}, hf.model.layers
    hf.set_attn_implementation("eager")
    handles = [
        block.self_attn.v_proj.register_forward_hook(lambda m, args, out, i=i: seen.__setitem__(("v", i), out[0]))
        for i, block in enumerate(blocks)
    ]
    handles += [
        block.register_forward_pre_hook(lambda m, args, i=i: seen.__setitem__(("x", i), args[0][0]))
        for i, block in enumerate(blocks)
    ]
    handles.append(hf.model.norm.register_forward_pre_hook(lambda m, args: seen.__setitem__("last", args[0][0])))
    with torch.no_grad():
        seen["A"] = [a[0] for a in hf(torch.tensor([row]), output_attentions=True).attentions]
    for handle in handles:
        handle.remove()
    seen["sigma"] = (seen["last"].square().mean(-1) + hf.config.rms_norm_eps).sqrt()
    return seen


def moved(hf, seen, layer, head, j):
    """v_j W_O of one head."""
    block, d = hf.model.layers[layer].self_attn, hf.config.head_dim
    kv = head * hf.config.num_key_value_heads // hf.config.num_attention_heads
    return block.o_proj.weight.detach()[:, head * d : head * d + d] @ seen["v", layer][j, kv * d : kv * d + d]


@pytest.fixture(scope="module")
def tiny():
    hf = tiny_llama()
    return Model(hf, name="llama"), hf


@pytest.fixture(scope="module")
def by_hand():
    return planted()


def test_anti_induction_and_copy_suppression_are_loops_over_the_stock_modules(tiny):
    model, hf = tiny
    found = rs.head_scores(model, prompts=ROWS, kinds="anti-induction, copy-suppression", draws=2, progress=False)
    read = (hf.lm_head.weight * hf.model.norm.weight).detach()  # [token d_model]
    for layer in range(4):
        told = torch.zeros(2, 2, 4).double()
        for which, row in enumerate(ROWS):
            seen = stock(hf, row)
            u = read[row] - read[row].mean(0)
            each = [[[] for _ in range(4)] for _ in range(2)]
            for i in range(1, len(row)):
                lens = {j: float(seen["x", layer][i] @ read[row[j]]) for j in range(1, i)}
                best = row[max(lens, key=lens.get)] if lens else None
                after = [j for j in range(1, i) if row[j - 1] == row[i]]
                copies = [j for j in range(1, i) if row[j] == best]
                for score, js in enumerate((after, copies)):
                    for head in range(4) if js else ():
                        adds = sum(seen["A"][layer][head, i, j] * (moved(hf, seen, layer, head, j) @ u[j]) for j in js)
                        each[score][head].append(float(-adds / seen["sigma"][i]))
            told[:, which] = torch.tensor([[sum(x) / len(x) for x in heads] for heads in each])
        torch.testing.assert_close(found.scores.values[:, layer], told.mean(1), atol=1e-8, rtol=1e-6)
    assert found.scores.values.abs().amax((1, 2)).min() > 1e-3
    assert found.scores.unit == "logits"


def test_name_movers_are_loops_over_the_stock_modules(tiny):
    model, hf = tiny
    data = labelled(6)
    found = rs.head_scores(model, prompts=data, kinds="name-mover", draws=5, progress=False)
    read, told = hf.lm_head.weight * hf.model.norm.weight, torch.zeros(4, 4).double()
    read = read.detach()
    for row, (right, wrong), io, end in zip(data.prompts, data.answers, data.at("IO"), data.at("END"), strict=True):
        seen = stock(hf, row)
        for layer in range(4):
            for head in range(4):
                adds = moved(hf, seen, layer, head, io) @ (read[right] - read[wrong]) / seen["sigma"][end]
                told[layer, head] += float(seen["A"][layer][head, end, io] * adds) / 6
    torch.testing.assert_close(found.scores.values[0], told, atol=1e-8, rtol=1e-6)
    movers = name_movers(model, data)
    assert movers[0] == divmod(int(told.argmax()), 4)
    assert all(told[at] >= 0.1 * told.max() for at in movers)


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_a_write_comes_through_post_norms_and_factors_as_direct_attribution_has_it(family):
    model = Model(FAMILIES[family].build(), name=family)
    data = labelled(3, ragged=False)
    ids = [[token % model.d_vocab for token in row] for row in data.prompts]
    answers = tuple((5 + i, 9 + i) for i in range(3))
    data = rs.PromptSet(tuple(map(tuple, ids)), answers=answers, positions=data.positions)
    found = rs.head_scores(model, prompts=data, kinds="name-mover", draws=2, progress=False).scores.values[0]
    direct = rs.direct_attribution(model, data, rs.logit_diff(), by="source", progress=False).sources
    io = direct.select(source=1).mean("prompt").values
    torch.testing.assert_close(found, io.double(), atol=1e-6, rtol=1e-4)
    assert found.abs().max() > 1e-3


def test_s_inhibition_is_one_run_per_head(tiny):
    model, _ = tiny
    data = labelled(4, ragged=False)
    movers = name_movers(model, data)
    found = rs.head_scores(model, prompts=data, kinds="s-inhibition", draws=8, progress=False)

    def gap(run):
        (io,), (s1,) = {*data.at("IO")}, {*data.at("S1")}
        return sum(
            run["pattern", layer][:, head, -1, io] - run["pattern", layer][:, head, -1, s1] for layer, head in movers
        ) / len(movers)

    sites = ["pattern"]
    clean, z = gap(model.run(data, sites)), model.run(rs.PromptSet(data.corrupted), ["z"])
    for layer, head in ((0, 1), (1, 3), (3, 3)):
        cut = edits.patch(f"z.{layer}", z, head=head, pos=-1)
        fall = (clean - gap(model.run(data, sites, edits=[cut]))).mean()
        assert float(found.scores.values[0, layer, head]) == pytest.approx(float(fall), abs=1e-6)
    assert found.scores.values.abs().max() > 1e-5
    assert (found.control.values.abs() <= found.control.high.abs().clamp_min(found.control.low.abs())).all()


def test_copying_is_each_tokens_own_entry_of_the_circuit(tiny):
    model, hf = tiny
    found = rs.head_scores(model, n=2, length=12, kinds="copying", draws=3, progress=False)
    ids = [*dict.fromkeys(i for row in rs.repeated_tokens(model, n=2, length=12).prompts for i in row)]
    E = hf.model.embed_tokens.weight[ids]
    E = E / (E.square().mean(-1, keepdim=True) + hf.config.rms_norm_eps).sqrt()
    out = (hf.lm_head.weight[ids] * hf.model.norm.weight).T
    for layer, head in ((0, 0), (2, 3)):
        block = hf.model.layers[layer]
        kv, d = head // 2, hf.config.head_dim
        V = (E * block.input_layernorm.weight) @ block.self_attn.v_proj.weight[kv * d : kv * d + d].T
        M = (V @ block.self_attn.o_proj.weight[:, head * d : head * d + d].T @ out).detach().numpy()
        own = [(M[s, s] - M[s].mean()) / M[s].std(ddof=1) for s in range(len(ids))]
        assert float(found.scores.values[0, layer, head]) == pytest.approx(sum(own) / len(own), abs=1e-8)


def test_planted_heads_are_found_and_no_others(by_hand):
    found = rs.head_scores(
        by_hand, n=6, length=14, kinds="attention, anti-induction, copying", draws=20, progress=False
    )
    assert found.found == {
        "previous-token": (PREVIOUS,),
        "current-token": found.found["current-token"],
        "first-token": (FIRST,),
        "duplicate-token": (DUPLICATE,),
        "induction": found.found["induction"],
        "anti-induction": (AGAINST,),
        "copying": (BY_KEYS, BY_QUERIES),
    }
    assert {*found.found["induction"]} == {BY_KEYS, BY_QUERIES, AGAINST}
    assert found.select(score="induction").values[1].min() > 0.95
    assert float(found.select(score="anti-induction").values[BY_KEYS]) < -1
    assert float(found.select(score="copying").values[AGAINST]) < -1
    assert found.select(score="copying").values[FIRST] == 0, "it writes nothing"


def test_heads_that_look_nowhere_are_none_of_them():
    """A planted fault: with queries of zero every head attends evenly, and scores what its control does."""
    hf = tiny_llama()
    with torch.no_grad():
        for block in hf.model.layers:
            block.self_attn.q_proj.weight.zero_()
    found = rs.head_scores(Model(hf, name="even"), n=8, length=20, draws=40, progress=False)
    even, mean = found.scores.values, found.control.values
    assert (even[3:] - mean[3:]).abs().max() < 0.03
    assert not found.found["duplicate-token"]
    assert not found.found["induction"]


def test_the_default_models_few_shot_and_translation_heads_are_induction_heads(smollm2):
    found = rs.head_scores(smollm2, n=6, kinds="few-shot, translation", progress=False)
    assert found.found["few-shot"][0] == (18, 6)
    assert (17, 4) in found.found["translation"]
    for k, name in enumerate(("few-shot", "translation")):
        for at in found.found[name]:
            assert float(found.scores.values[k][at]) > float(found.control.high[k][at])
    movers = rs.head_scores(smollm2, n=8, kinds="name-mover", progress=False)
    assert movers.found["name-mover"][0] == (23, 0)
    assert float(movers.control.high[0, 23, 0]) < 0.3
    rows = movers.view().views[0].rows
    assert [*rows[0][:2]] == ["name-mover", "23.0"]


def test_built_in_prompts_ask_for_the_words_they_say(smollm2):
    for data in (translation(smollm2, 3, 0), few_shot(smollm2, 3, 0)):
        assert data.prompts == (translation if "list" in data.name else few_shot)(smollm2, 3, 0).prompts
    data = translation(smollm2, 3, 0)
    for row, asked in zip(data.prompts, data.labels["asked"], strict=True):
        text = smollm2.text(row)
        english, other = (line.split(": ")[1].split() for line in text.splitlines())
        language = text.splitlines()[1].split(":")[0]
        assert len(asked) == len(english) - 1
        for at, (query, (right,), among) in enumerate(asked):
            word = OTHERS[language][ENGLISH.index(english[at])]
            assert word in other
            assert word.endswith(smollm2.text([row[query]]).strip())
            assert smollm2.text([row[i] for i in right]).strip() == english[at + 1]
            assert right in among
    data = few_shot(smollm2, 3, 0)
    for row, asked in zip(data.prompts, data.labels["asked"], strict=True):
        for query, right, among in asked:
            assert smollm2.text([row[query]]) == ":"
            kind = smollm2.text([row[query + 1]]).strip()
            said = [smollm2.text([row[i] for i in key]).strip() for key in among]
            assert said.count(kind) == len(right) < len(among)
            assert {smollm2.text([row[i] for i in key]).strip() for key in right} == {kind}
            assert {*said} <= {*KINDS}


@pytest.fixture
def own():
    """A score of one's own for a test, forgotten after it."""
    before = {*HEAD_SCORES}
    yield rs.register_head_score
    for name in {*HEAD_SCORES} - before:
        del HEAD_SCORES[name]


def test_a_score_of_ones_own_comes_through_the_same_door(own, by_hand):
    @own("copies", about="mean over the later half of A[i, j], t[j] = t[i]", source="this test")
    def copies(pattern, tokens):
        same = (tokens[:, None] == tokens[None]).tril(-1)
        return (pattern * same).sum((1, 2)) / same.any(1).sum()

    found = rs.head_scores(by_hand, n=4, length=12, kinds=("copies", "duplicate-token"), draws=6, progress=False)
    torch.testing.assert_close(found.scores.values[0, 0, 1], found.scores.values[1, 0, 1], atol=0.15, rtol=0)
    assert found.found["copies"] == (DUPLICATE,)
    assert float(found.control.high[0, 0, 1]) < 0.5
    assert found.about["copies"]["source"] == "this test"

    @own("bad")
    def bad(pattern, tokens):
        return pattern.mean()

    with pytest.raises(errors.BadSweep, match="no number for each head"):
        rs.head_scores(by_hand, n=2, length=6, kinds="bad", progress=False)
    with pytest.raises(errors.NameAlreadyDeclared):
        own("induction")(bad)


def test_refusals(tiny, by_hand):
    model, _ = tiny
    with pytest.raises(errors.BadSweep, match="prompts of its own"):
        rs.head_scores(model, prompts=ROWS, kinds="few-shot", progress=False)
    with pytest.raises(errors.MissingLabel, match="answers"):
        rs.head_scores(model, prompts=ROWS, kinds="name-mover", progress=False)
    data = labelled(4)
    alone = rs.PromptSet(data.prompts, answers=data.answers, positions=data.positions)
    with pytest.raises(errors.MissingLabel, match="s-inhibition"):
        rs.head_scores(model, prompts=alone, kinds="s-inhibition", progress=False)
    nowhere = rs.PromptSet(data.prompts, answers=data.answers, corrupted=data.corrupted)
    with pytest.raises(errors.UnknownPosition):
        rs.head_scores(model, prompts=nowhere, kinds="name-mover", progress=False)
    for kind in ("name-mover", "translation"):
        with pytest.raises(errors.ResidscopeError):
            rs.head_scores(by_hand, kinds=kind, progress=False)
