"""`residscope reproduce graph --quick` on SmolLM2: a whole page, numbers of plain forwards, verdicts that follow the numbers."""

import sys
from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope import errors
from residscope.cli.app import main
from residscope.reproduce.graph import study as graph
from residscope.reproduce.graph.claims import cards, rank, share
from residscope.reproduce.graph.study import MAIN, PROMPTS, of_stream


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The study behind the command, what it printed, and the page it wrote."""
    with pytest.MonkeyPatch.context() as patched:
        kept, said = [], []
        whole = graph.graph_study
        patched.setattr(graph, "graph_study", lambda *a, **k: kept.append(whole(*a, **k)) or kept[0])
        patched.setattr("typer.echo", said.append)
        out = tmp_path_factory.mktemp("reproduce") / "page.html"
        patched.setattr(sys, "argv", ["residscope", "reproduce", "graph", "--quick", "--out", str(out)])
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code
    return kept[0], "\n".join(said), out.read_text()


def one(study, words):
    return next(card for card in cards(study) if words in card.title)


def test_the_page_has_the_claims_the_graph_and_every_table(told):
    study, said, html = told
    for card in cards(study):
        assert card.title in said
    for words in ("GPT-2-small, in the post", "% of it", "connected parts", "Random texts", "Other coefficients"):
        assert words in html


def test_the_tables_are_plain_forwards(told, smollm2):
    study, _, _ = told
    saes = {
        f"sae@resid_post.{layer}": rs.sae.load(f"shipped/sae@resid_post.{layer}", smollm2) for layer in range(8, 14)
    }
    for name in (MAIN, "Lisp"):
        ids = smollm2.encode(PROMPTS[name][0])
        assert tuple(smollm2.token_texts(ids)) == study.prompts[name]
        plain = smollm2.hf(torch.tensor([ids])).logits[0, -1].detach().softmax(-1)
        torch.testing.assert_close(study.before[name], plain, atol=1e-6, rtol=1e-4)
        handles = []
        for id, features in study.circuits[0].items():

            def hook(module, args, output, sae=saes[id], features=features):
                x = output[0] if isinstance(output, tuple) else output
                a = sae.encode(x[0])[:, list(features)]
                a[0] = 0
                changed = x - (a @ sae.write[list(features)])[None]
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            handles.append(smollm2.hf.model.layers[int(id.rpartition(".")[2])].register_forward_hook(hook))
        try:
            after = smollm2.hf(torch.tensor([ids])).logits[0, -1].detach().softmax(-1)
        finally:
            for handle in handles:
                handle.remove()
        torch.testing.assert_close(study.cuts[0, name].after, after, atol=1e-5, rtol=1e-3)
        assert share(study.cuts[0, name], study.before[name]) == pytest.approx(
            float(after[plain.argmax()] / plain.max() - 1), abs=1e-3
        )


def test_verdicts_follow_the_numbers(told):
    study, _, _ = told
    n = len(study.circuits)
    flat = torch.full_like(study.before[MAIN], 1 / len(study.before[MAIN]))
    assert one(replace(study, before={**study.before, MAIN: flat}), "goes on").verdict == "failed"
    assert one(replace(study, half=study.total), "A few features").verdict == "failed"
    assert one(replace(study, half=1), "A few features").verdict == "passed"
    assert one(replace(study, like=torch.zeros_like(study.like)), "propagate").verdict == "failed"
    assert one(replace(study, like=torch.ones_like(study.like)), "propagate").verdict == "passed"
    assert one(replace(study, only=(study.before[MAIN],) * n), "too destructive").verdict == "failed"
    x = study.dose[1]
    assert one(replace(study, dose=("a > b", x, 2 * x + 1)), "linearly").verdict == "passed"
    assert one(replace(study, dose=("a > b", x, (x > 2).float())), "linearly").verdict == "failed"
    halves = torch.randn(2, len(study.before[MAIN]), generator=torch.Generator().manual_seed(0))
    assert one(replace(study, shift=(halves,) * n), "basically random").verdict == "passed"
    assert one(replace(study, shift=(halves[:1].repeat(2, 1),) * n), "basically random").verdict == "failed"
    before, cut = study.before["Lisp"], study.cuts[0, "Lisp"]
    gone = before.clone()
    gone[before.argmax()] = 0
    many = torch.full((999,), float(before.max()))
    whole = {**study.cuts, (0, "Lisp"): replace(cut, after=gone, chance=many)}
    assert one(replace(study, cuts=whole), "begins with (").verdict == "passed"
    as_good = {**study.cuts, (0, "Lisp"): replace(cut, after=gone, chance=torch.zeros(999))}
    rest = {key: replace(c, after=study.before[key[1]]) for key, c in as_good.items() if key != (0, "Lisp")}
    assert one(replace(study, cuts={**as_good, **rest}), "begins with (").verdict == "failed"
    assert rank(replace(cut, after=gone, chance=many), before) == pytest.approx(1 / 1000)


def test_one_dictionary_of_the_stream_is_too_few(smollm2):
    with pytest.raises(errors.GraphError, match="from one dictionary of the stream to the next"):
        of_stream(rs.sae.load("shipped/sae@resid_post.8", smollm2))
