"""`residscope reproduce viewer --quick` on SmolLM2: a whole page, and verdicts that follow the numbers rather than the hopes."""

import sys
from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope.cli.app import main
from residscope.reproduce.viewer import study as viewer
from residscope.reproduce.viewer.claims import cards
from residscope.reproduce.viewer.page import page
from residscope.reproduce.viewer.study import Pick
from residscope.reproduce.viewer.word_kinds import AUXILIARY, NAME
from residscope.results import Result


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The study behind the command, what it printed, and the page it wrote."""
    with pytest.MonkeyPatch.context() as patched:
        kept, said = [], []
        whole = viewer.viewer_study
        patched.setattr(viewer, "viewer_study", lambda *a, **k: kept.append(whole(*a, **k)) or kept[0])
        patched.setattr("typer.echo", said.append)
        out = tmp_path_factory.mktemp("reproduce") / "page.html"
        patched.setattr(sys, "argv", ["residscope", "reproduce", "viewer", "--quick", "--out", str(out)])
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code
    return kept[0], "\n".join(said), out.read_text()


def one(study, words):
    return next(card for card in cards(study) if words in card.title)


def verdict(study, words, **changed):
    return one(replace(study, **changed), words).verdict


def filled(result, value, *index):
    """The same result, with other numbers somewhere."""
    values = result.values.clone()
    values[index] = value
    return replace(result, values=values)


def test_the_page_holds_every_claim_and_figure(told):
    study, said, html = told
    kinds = [view.kind for view in page(study)]
    assert kinds.count("grid") == 1 + 2 * len(study.removed) + 2  # claims, strips and removal costs, position and words
    assert {"text", "table", "curve"} <= {*kinds}
    for card in cards(study):
        assert card.title in said
        assert card.title in html
    for words in ("the eighth", "Rank correlation with the position", "2 AUC", "red end", "Share of the variance",
                  "The model without PC 7 of resid_pre.0", "along held-out texts", "Provenance", "python-docs"):  # fmt: skip
        assert words in html, words
    assert len(html) < 1_000_000
    assert study.provenance["hash"] == rs.load("smollm2-135m").hash


def test_what_smollm2_does(told):
    study, _, _ = told
    assert one(study, "starts as the embedding").verdict == "passed"
    assert study.stream.before > 0.1  # the control: the same reading, a block too early
    assert one(study, "can be combined").verdict == "passed"
    assert one(study, "primarily about position").verdict == "failed"
    assert study.position.values[1, 0].abs().max() < 0.2  # rotary: no position before attention writes it
    assert (study.tokens["components"].values[0] > 1 - 1e-5).all()  # there the stream is the token's vector
    assert study.tokens["shuffled"].values.mean() < 0.3
    assert float(study.drawn.values.abs().min()) < 0.95  # what the viewer drew is not the coordinate
    assert len(cards(study)) == 7 + len(study.removed)


def test_nothing_is_quoted_of_what_it_was_chosen_on(told):
    study, _, _ = told
    best = study.picks["position"]
    values = study.position.values
    assert abs(best.chosen) == values[0].abs().max()
    assert best.held == values[1, best.row, best.index]
    for name in study.strips:
        assert all(any(x != x for x in line[:1]) for _, line in study.strips[name])  # the first token is left out


def test_position_is_judged_by_what_is_held_out(told):
    study, _, _ = told
    best, chance = study.picks["position"], study.chance["position"]
    words = "primarily about position"
    sure = {**study.picks, "position": replace(best, held=-0.8)}
    assert verdict(study, words, picks=sure) == "passed"
    assert verdict(study, words, picks={**sure, "position": replace(best, held=0.6, chosen=1.0)}) == "failed"
    random_too = {**study.chance, "position": replace(chance, held=0.9)}
    assert verdict(study, words, picks=sure, chance=random_too) == "failed"


def with_words(study, auc, auxiliary, name, n=(50, 9)):
    """A study whose PC 7 of layer 0 scores so, on enough words."""
    words = study.words
    for i, x in enumerate((auc, auxiliary, name)):
        words = filled(words, x, i, slice(None), 0, 7)
    own = replace(study.picks["guide"], held=auc)
    vocabulary = study.vocabulary.clone()
    vocabulary[7] = auc
    picks = {**study.picks, "guide": own, "words": Pick(0, "resid_pre.0", 7, auc, auc)}
    return replace(study, words=words, picks=picks, vocabulary=vocabulary, counts={AUXILIARY: n, NAME: n})


@pytest.mark.parametrize("words", ["Component Index 7", "some component of some layer"])
def test_verbs_and_names_must_be_parted_and_at_the_ends(told, words):
    study, _, _ = told
    assert one(with_words(study, 0.97, 90, 10), words).verdict == "passed"
    assert one(with_words(study, 0.03, 10, 90), words).verdict == "passed"  # the sign is arbitrary
    assert one(with_words(study, 0.97, 90, 45), words).verdict == "failed"  # names in the middle
    assert one(with_words(study, 0.7, 90, 10), words).verdict == "failed"
    few = one(with_words(study, 0.97, 90, 10, n=(6, 3)), words)
    assert few.verdict is None
    assert "No verdict" in few.note


def test_the_vocabulary_has_a_say(told):
    study, _, _ = told
    whole = with_words(study, 0.97, 90, 10)
    assert verdict(whole, "Component Index 7", vocabulary=torch.full_like(whole.vocabulary, 0.6)) == "failed"


def test_components_must_beat_both_kinds_of_random_directions(told):
    study, _, _ = told
    words = "interpretable at a glance"
    high, low = ({name: filled(found, x) for name, found in study.tokens.items()} for x in (0.9, 0.2))
    assert verdict(study, words, tokens={**low, "components": high["components"]}) == "passed"
    assert verdict(study, words, tokens={**low, "components": high["components"], "data": high["data"]}) == "failed"
    assert verdict(study, words, tokens=low) == "failed"  # explained alike: ties


def test_a_wrong_stream_is_said_to_be_wrong(told):
    study, _, _ = told
    for name in ("start", "added", "end"):
        wrong = replace(study.stream, **{name: 0.01})
        assert verdict(study, "starts as the embedding", stream=wrong) == "failed"
    blind = replace(study.stream, before=0.0)
    assert verdict(study, "starts as the embedding", stream=blind) == "failed"  # the check cannot tell
    assert verdict(study, "can be combined", stream=replace(study.stream, mixed=0.01)) == "failed"


def test_use_is_said_by_rank(told):
    study, _, _ = told
    name, cost = next(iter(study.removed.items()))
    for p, said in ((0.05, "costs more"), (0.2, "not shown")):
        removed = {name: replace(cost, p={"KL": p, "loss": p})}
        card = one(replace(study, removed=removed), name)
        assert said in card.fields["so"]
        assert card.verdict is None


def test_results_carry_their_labels(told):
    study, _, _ = told
    assert isinstance(study.words, Result)
    assert study.words.dims == ("measure", "half", "row", "component")
    assert study.words.coords["row"][0] == "resid_pre.0"
    assert len(study.rows) == 31
