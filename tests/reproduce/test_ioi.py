"""`residscope reproduce ioi` in small on SmolLM2: a whole page, numbers of plain forwards, verdicts that follow the numbers."""

import sys
from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope.cli.app import main
from residscope.reproduce.ioi import study as ioi
from residscope.reproduce.ioi.claims import cards
from residscope.reproduce.ioi.classes import (
    DUPLICATE,
    INDUCTION,
    INHIBITION,
    MOVERS,
    NEGATIVE,
    SUPPRESSORS,
    strongest,
    tellers,
    writers,
)
from residscope.reproduce.ioi.knocks import ALONE, CIRCUIT, NOTHING, Knock
from residscope.reproduce.ioi.measures import LOOKS, copies, knocked, means_of, random_like
from residscope.reproduce.ioi.study import Size
from tiny_models import left_as_it_was

SMALL = Size(prompts=16, traced=1, patched=1, knocked=1, draws=1, each=1, reach=7, step=15)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The study behind the command, what it printed, and the page it wrote."""
    with pytest.MonkeyPatch.context() as patched:
        kept, said = [], []
        whole = ioi.ioi_study
        patched.setattr(Size, "quick", classmethod(lambda cls: SMALL))
        patched.setattr(ioi, "ioi_study", lambda *a, **k: kept.append(whole(*a, **k)) or kept[0])
        patched.setattr("typer.echo", said.append)
        out = tmp_path_factory.mktemp("reproduce") / "page.html"
        patched.setattr(sys, "argv", ["residscope", "reproduce", "ioi", "--quick", "--out", str(out)])
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code
    return kept[0], "\n".join(said), out.read_text()


@pytest.fixture(scope="module")
def prompts(smollm2):
    return rs.tasks.ioi(smollm2, 8, seed=1, prefixes=False, partner="ABC")


def one(study, words):
    return next(card for card in cards(study) if words in card.title)


def test_the_page_has_the_claims_the_paths_and_every_class(told):
    study, said, html = told
    for card in cards(study):
        assert card.title in said
    for words in ("from the logits back", "to the logits", "The heads of each class", "Knocked out", "Provenance"):
        assert words in html
    assert study.classes[SUPPRESSORS][0] == (23, 3)  # what docs/ioi.md finds by hand
    assert set(study.knocked) >= {SUPPRESSORS, CIRCUIT, ALONE, NOTHING}
    assert one(study, "Without the S suppressors").verdict is None  # one draw says too little


def plain(model, ids, replaced):
    """Last logits of transformers' own model with z replaced: {layer: {(pos, head): vector}}."""
    handles, d = [], model.d_head
    for layer, values in replaced.items():

        def hook(module, args, values=values):
            z = args[0].clone()
            for (pos, head), value in values.items():
                z[0, pos, head * d : (head + 1) * d] = value
            return (z, *args[1:])

        handles.append(model.hf.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(hook))
    try:
        return model.hf(torch.tensor([ids])).logits[0, -1].detach()
    finally:
        for handle in handles:
            handle.remove()


def written(model, ids):
    """z of every layer by transformers' own model: [layer pos head d_head]."""
    seen, handles = [], []
    for block in model.hf.model.layers:
        take = block.self_attn.o_proj.register_forward_pre_hook(lambda m, a: seen.append(a[0][0].detach()))
        handles += [take]
    model.hf(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return torch.stack(seen).unflatten(-1, (model.n_heads, model.d_head))


def test_knock_outs_are_plain_forwards(smollm2, prompts):
    data = prompts.subset([0, 3])
    means = means_of(smollm2, data)
    heads = {"END": ((23, 3), (23, 7)), "S2": ((17, 4),)}
    found = knocked(smollm2, data, means, [(False, {}), (False, heads), (True, heads)], ((23, 0),))
    for row in range(2):
        template = data.label("template")[row]
        same = [i for i in range(2) if data.label("template")[i] == template]
        mean = torch.stack([written(smollm2, data.corrupted[i]) for i in same]).mean(0)
        places = {(a, data.at(where)[row], h) for where, own in heads.items() for a, h in own}
        every = {(a, p, h) for a in range(30) for p in range(mean.shape[1]) for h in range(9)}
        for cell, taken in enumerate((set(), places, every - places)):
            values = {a: {(p, h): mean[a, p, h] for b, p, h in taken if a == b} for a in range(30)}
            logits = plain(smollm2, data.prompts[row], values)
            right, wrong = (smollm2.token_id(name) for name in data.answers[row])
            assert float(found[cell, row, 0]) == pytest.approx(float(logits[right] - logits[wrong]), abs=2e-3)


def test_copying_is_transformers_own_modules(smollm2, prompts):
    heads, some = ((23, 0), (23, 3)), prompts.subset([0, 1, 2])
    found = copies(smollm2, some, heads)
    hf, d = smollm2.hf.model, smollm2.d_head
    with left_as_it_was(smollm2.hf):
        seen = [
            hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, at]
            for ids, at in zip(some.prompts, some.at("IO"), strict=True)
        ]
    for layer, head in heads:
        above = []
        for x, (name, _) in zip(seen, some.answers, strict=True):
            block = hf.layers[layer]
            v = block.self_attn.v_proj(block.input_layernorm(x)).unflatten(-1, (3, d))[head // 3]
            z = torch.zeros(9, d)
            z[head] = v
            logits = smollm2.hf.lm_head(hf.norm(block.self_attn.o_proj(z.flatten())))
            above.append(smollm2.token_id(name) in logits.topk(5).indices.tolist())
        assert found[layer, head][0] == pytest.approx(sum(above) / len(above))


def test_classes_are_what_paths_and_attention_say():
    effects, at = torch.zeros(4, 3), torch.zeros(len(LOOKS), 4, 3)
    effects[3] = torch.tensor([-2.0, -3.0, 1.0])
    effects[2, 0] = -0.1  # under a tenth of the largest
    at[0, 3] = torch.tensor([0.6, 0.1, 0.7])
    at[2, 3, 1] = 0.5
    assert writers(effects, at, 2) == {MOVERS: ((3, 0),), SUPPRESSORS: ((3, 1),), NEGATIVE: ((3, 2),)}
    assert strongest(effects, 9) == ((3, 1), (3, 0))
    assert strongest(torch.zeros(4, 3), 9) == ()
    at[3, 3, 0], at[4, 3, 1] = 0.4, 0.3
    assert tellers(effects, at, 2) == {DUPLICATE: ((3, 0),), INDUCTION: ((3, 1),)}


def test_random_heads_are_others_of_the_same_layers(smollm2):
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        found = random_like(smollm2, ((23, 3), (23, 0), (5, 1)), ((23, 3), (23, 0), (23, 7), (5, 1)), draw)
        assert [a for a, _ in found] == [5, 23, 23]
        assert not {*found} & {(23, 3), (23, 0), (23, 7), (5, 1)}
        assert len({*found}) == 3


def planted(study):
    """The paper's own circuit, as numbers: every claim holds."""
    layers, heads, n = 30, 9, 40
    classes = {
        MOVERS: ((20, 0), (20, 1), (21, 0)), SUPPRESSORS: (), NEGATIVE: ((22, 0),), INHIBITION: ((15, 0), (15, 1)),
        DUPLICATE: ((3, 0),), INDUCTION: ((10, 0),), "previous token heads": ((2, 0),),
    }  # fmt: skip
    io = torch.rand(n, generator=torch.Generator().manual_seed(0))
    at = torch.zeros(len(LOOKS), layers, heads, n)
    direct = torch.zeros(layers, heads, n)
    for head in classes[MOVERS] + classes[NEGATIVE]:
        at[0][head], direct[head] = 0.4 + 0.4 * io, io
    for look, name in ((2, INHIBITION), (3, DUPLICATE), (4, INDUCTION), (5, "previous token heads")):
        for head in classes[name]:
            at[look][head] = 0.6
    at[0, 28] = 0.5

    def result(name, own, effect, against=()):
        values = torch.zeros(layers, heads, dtype=torch.float64)
        for head in own:
            values[head] = effect
        for head in against:
            values[head] = 1.0
        return replace(
            study.paths["logits"], values=values, low=None, high=None, coords={"layer": range(layers)}, name=name
        )

    told = classes[DUPLICATE] + classes[INDUCTION]
    paths = {
        "logits": result("a", classes[MOVERS], -2.0, classes[NEGATIVE]), "queries": result("b", classes[INHIBITION], -1.0),
        "values": result("c", told, -1.0), "keys": result("d", classes["previous token heads"], -1.0),
    }  # fmt: skip
    nothing = {stage: result("e", (), 0.0) for stage in paths}
    full, gap = torch.full((n,), 4.0), torch.full((n,), 0.5)
    chance = (full.expand(19, n), gap.expand(19, n))

    def knock(left):
        return Knock(torch.full((n,), left), torch.full((n,), left / 8 - 0.1), *chance)

    share = study.stream
    moved = torch.zeros(share.values.shape)
    axis = share.dims.index("pos")
    layers_first = moved if axis == 1 else moved.T
    names = list(share.coords["pos"])
    layers_first[0, names.index("S2")], layers_first[-1, names.index("END")] = 1.0, 1.0
    gains = torch.zeros(layers, heads, dtype=torch.float64)
    gains[28, :4] = 0.5
    parts = torch.tensor([2.0, 0.3, 1.7, 0.0, 0.0], dtype=torch.float64)
    repair = replace(
        study.repair, parts=replace(study.repair.parts, values=parts, low=None, high=None),
        heads=replace(study.repair.heads, values=gains, low=None, high=None),
    )  # fmt: skip
    differences = replace(study.task.differences, values=torch.tensor([[4.0, 3.5, 4.5], [-4.0, -3.0, -4.0]]), coords={})
    line = replace(study.task.line("accuracy"), value=0.99)
    left = {name: knock(2.0) for name, of in classes.items() if of} | {NEGATIVE: knock(5.0), MOVERS: knock(3.8)}
    return replace(
        study, classes=classes, receive=classes[MOVERS], attention=replace(study.attention, values=at, coords={}),
        direct=replace(study.direct, values=direct, coords={}), paths=paths, beside=nothing, shuffled=nothing,
        by_keys=nothing["values"], stream=replace(share, values=moved, low=None, high=None), repair=repair,
        copying=dict.fromkeys(classes[MOVERS], (1.0, 0.0)) | dict.fromkeys(classes[NEGATIVE], (0.0, 1.0)),
        task=replace(study.task, lines=(line,), differences=differences),
        before=Knock(full, gap, full.new_zeros(0, n), gap.new_zeros(0, n)),
        knocked=left | {CIRCUIT: knock(0.1), NOTHING: knock(0.1), ALONE: replace(knock(3.6), chance=chance[0] / 8)},
    )  # fmt: skip


def test_verdicts_follow_the_numbers(told):
    study = planted(told[0])
    verdicts = {card.title: card.verdict for card in cards(study)}
    assert {title for title, verdict in verdicts.items() if verdict != "passed"} == {
        "Without the S suppressors the answer is less certain"
    }
    flat = replace(study.paths["logits"], values=torch.ones(30, 9))
    assert one(replace(study, paths={**study.paths, "logits": flat}), "Few heads").verdict == "failed"
    away = replace(study.attention, values=study.attention.values.roll(1, 0))
    for words in ("they look from END at IO", "look at S2", "give the induction heads", "take over: what gains"):
        assert one(replace(study, attention=away), words).verdict == "failed"
    assert (
        one(replace(study, direct=replace(study.direct, values=study.direct.values.flip(2))), "it writes").verdict
        == "failed"
    )
    assert one(replace(study, copying=dict.fromkeys(study.copying, (0.5, 0.5))), "movers copy").verdict == "failed"
    assert one(replace(study, copying=dict.fromkeys(study.copying, (0.5, 0.5))), "against it").verdict == "failed"
    as_good = replace(study, beside=study.paths)  # random receivers do as much
    for words in ("writers' queries", "tell the S-inhibition", "give the induction heads"):
        assert one(as_good, words).verdict == "failed"
    assert one(replace(study, by_keys=study.paths["values"]), "rather than").verdict == "failed"
    assert one(replace(study, shuffled=study.paths), "more than who S is").verdict == "failed"
    weak = replace(study.knocked[INDUCTION], after=study.before.after, gap=study.before.gap)
    every = dict.fromkeys(study.knocked, weak)
    for words in ("Without the induction", "turn the name movers", "Without the whole", "more certain"):
        assert one(replace(study, knocked=every), words).verdict == "failed"
    gone = {**study.knocked, MOVERS: study.knocked[CIRCUIT], ALONE: study.knocked[NOTHING]}
    for words in ("it is made up for", "The circuit alone"):
        assert one(replace(study, knocked=gone), words).verdict == "failed"
    none = replace(
        study, classes=dict.fromkeys(study.classes, ()), knocked={k: gone[k] for k in (CIRCUIT, ALONE, NOTHING)}
    )
    assert {card.verdict for card in cards(none) if "Without the name movers" in card.title} == {"failed"}
    assert one(none, "movers copy").verdict == "failed"
