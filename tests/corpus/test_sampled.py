"""Text that a model writes itself: the same for a seed, of the model's own tokens, from where a document begins."""

import pytest
import torch

import residscope as rs
from corpus.readings import model
from residscope import errors
from residscope.corpus.reading import Reader
from residscope.corpus.sources import sampled
from residscope.engine.model import Model
from session import worlds
from tiny_models import tiny_llama


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(sampled, "ROWS", 4)
    monkeypatch.setattr(sampled, "LENGTH", 40)


def rows(corpus, of=None):
    return [row.ids for row in Reader(of or model(), corpus).rows(length=32, tokens=10**6, least=1)]


def test_it_is_the_same_for_a_seed_and_another_for_another():
    first = rows(rs.sampled_text(model(), 200, seed=1))
    assert first == rows(rs.sampled_text(model(), 200, seed=1)) == rows("model?tokens=200&seed=1")
    assert first != rows(rs.sampled_text(model(), 200, seed=2))
    assert sum(map(len, first)) >= 200


def test_a_longer_text_begins_with_the_shorter_one():
    short, long = (rows(rs.sampled_text(model(), n, seed=1)) for n in (200, 600))
    assert long[: len(short)] == short


def test_documents_are_draws_of_the_model():
    of, text = model(), rs.sampled_text(model(), 100, seed=3, temperature=0.7)
    document = next(text.documents())
    assert document.ids[0] == of.tokenizer.eos_token_id, (
        "a model without the habit of BOS begins behind a document's end"
    )
    recording = of.run([list(document.ids)], ["logits"])
    log_probs = torch.log_softmax(recording.logits[0] / 0.7, -1)
    told = [float(log_probs[i, id]) for i, id in enumerate(document.ids[1:])]
    entropy = -(log_probs.exp() * log_probs).sum(-1)[:-1]
    assert sum(told) / len(told) == pytest.approx(-float(entropy.mean()), abs=0.8)
    greedy = next(rs.sampled_text(of, 10, temperature=0).documents()).ids
    wanted = [of.tokenizer.eos_token_id]
    while len(wanted) < len(greedy):
        wanted.append(int(of.run([wanted], ["logits"]).logits[0, -1].argmax()))
    assert list(greedy) == wanted


def test_a_model_that_wants_bos_begins_with_it():
    of = Model(tiny_llama(), worlds.tokenizer(), bos=True)
    assert next(rs.sampled_text(of, 10).documents()).ids[0] == of.tokenizer.bos_token_id


def test_it_is_a_corpus_and_says_what_it_is():
    found = rs.pca(model(), "model?tokens=500&seed=1", "resid_post.1", 2, tokens=500)
    assert found.provenance["corpus"] == "model?tokens=500&seed=1&temperature=1"
    assert torch.equal(
        found.read, rs.pca(model(), rs.sampled_text(model(), 500, seed=1), "resid_post.1", 2, tokens=500).read
    )
    packed = Reader(model(), "model?tokens=500&seed=1&pack")
    assert [len(row.ids) for row in packed.rows(length=16, tokens=320)] == [16] * 20
    assert packed.about["corpus"] == "model?tokens=500&seed=1&temperature=1&pack"
    assert len(rs.draw_prompts(model(), "model?tokens=500", 3, length=8)) == 3


def test_packed_it_has_one_end_between_two_documents():
    of = model()
    end = of.tokenizer.eos_token_id
    documents = [list(d.ids[1:]) for d in rs.sampled_text(of, 300, seed=1).documents()]
    wanted = [i for ids in documents for i in [*(ids[:-1] if ids[-1] == end else ids), end]]
    rows_packed = Reader(of, "model?tokens=300&seed=1&pack").rows(length=16, tokens=10**6, least=1)
    assert [i for row in rows_packed for i in row.ids] == wanted


def test_other_weights_write_another_text():
    of = Model(tiny_llama(seed=4), worlds.tokenizer())
    text = rs.sampled_text(of, 100, seed=1)
    first = rows(text, of)
    assert rows(text, of) == first
    with torch.no_grad():
        of.hf.lm_head.weight.neg_()
    assert rows(text, of) != first


def test_it_can_be_stopped_in_a_batch():
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 5

    with pytest.raises(errors.Cancelled):
        rs.pca(model(), rs.sampled_text(model(), 5000), "resid_post.1", 2, cancel=stop)
    assert len(asked) < 10


def test_what_cannot_write_is_refused():
    with pytest.raises(errors.NoTokenizer):
        rs.sampled_text(rs.load((tiny_llama(), None)))
    with pytest.raises(errors.CorpusError, match="no tokens to write"):
        rs.sampled_text(model(), 0)
    nameless = worlds.tokenizer()
    nameless.bos_token = nameless.eos_token = None
    with pytest.raises(errors.CorpusError, match="nothing says where a text begins"):
        rs.sampled_text(Model(tiny_llama(), nameless))
    with pytest.raises(errors.CorpusError, match="the model writes no such text"):
        Reader(model(), "model?tokens=many")
    with pytest.raises(errors.BadSampling):
        rows(rs.sampled_text(model(), 10, temperature=-1))
    with pytest.raises(errors.CorpusError, match="needs a model"):
        next(rs.corpus.text.texts("model"))


@pytest.mark.timeout(120)
def test_the_real_model_writes(smollm2, monkeypatch):
    monkeypatch.setattr(sampled, "ROWS", 2)
    monkeypatch.setattr(sampled, "LENGTH", 12)
    documents = [*rs.sampled_text(smollm2, 20, seed=5).documents()]
    assert documents[0].ids[0] == smollm2.token_id("<|endoftext|>")
    assert sum(document.text.count(" ") for document in documents) > 5
