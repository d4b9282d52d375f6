"""The tour on tiny random models: what is planted is found, what is not is not, and every family's stream adds up."""

import random

import pytest
import torch
from families import FAMILIES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from residscope.corpus.moments import Moments
from residscope.corpus.pca import principal
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.errors import CorpusError, DirectionError, NoTokenizer, TooFewWords
from residscope.reproduce.viewer.claims import cards
from residscope.reproduce.viewer.measures import spearman
from residscope.reproduce.viewer.page import page
from residscope.reproduce.viewer.stream import stream_errors
from residscope.reproduce.viewer.study import Size, _split, viewer_study
from residscope.reproduce.viewer.tokens import Directions
from residscope.reproduce.viewer.word_kinds import AUXILIARIES
from residscope.tasks.ioi import NAMES
from tiny_models import shaken, tiny_llama

OTHERS = tuple(f"w{i}" for i in range(60))
SIZE = Size(components=8, fitted=2000, judged=4000, random=19, shown=2, prompts=2, length=16, removals=3)


def tokenizer(words):
    """Every word, after a space, is one token."""
    inner = Tokenizer(
        models.WordLevel({"<s>": 0, "?": 1} | {f"▁{w}": i + 2 for i, w in enumerate(words)}, unk_token="?")
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    inner.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="?")


def little(*, position=0.0, words=0.0):
    """A tiny GPT-2 that knows the words; position: a ramp over its position vectors; words: verbs this way, names that way."""
    known = (*AUXILIARIES, *NAMES, *OTHERS)
    torch.manual_seed(0)
    hf = shaken(GPT2LMHeadModel(GPT2Config(vocab_size=len(known) + 2, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                                           bos_token_id=0, eos_token_id=0)))  # fmt: skip
    a, b = torch.randn(2, 32, dtype=torch.float64)
    with torch.no_grad():
        hf.transformer.wpe.weight += position * torch.linspace(-1, 1, 64)[:, None] * a
        hf.transformer.wte.weight[2 : 2 + len(AUXILIARIES)] += words * b
        hf.transformer.wte.weight[2 + len(AUXILIARIES) :][: len(NAMES)] -= words * b
    return Model(hf, tokenizer=tokenizer(known), name="little")


def prose(n=60, seed=0):
    drawn = random.Random(seed)
    groups = [AUXILIARIES, NAMES, OTHERS, OTHERS, OTHERS]
    return [" " + " ".join(drawn.choice(drawn.choice(groups)) for _ in range(120)) for _ in range(n)]


def verdict(study, words):
    return next(card.verdict for card in cards(study) if words in card.title)


def test_what_is_planted_is_found_and_what_is_not_is_not():
    planted, bare = (viewer_study(little(position=x, words=x), prose(), size=SIZE) for x in (1.0, 0.0))
    for words in ("primarily about position", "some component of some layer"):
        assert verdict(planted, words) == "passed", words
        assert verdict(bare, words) == "failed", words
    assert planted.position.values[1, 0].abs().max() > 0.9  # position vectors are there before block 0
    assert verdict(planted, "starts as the embedding") == "passed"
    assert planted.counts["auxiliary"][0] > 100
    assert planted.counts["name"][0] > 100
    assert len(page(planted)) > 10


def test_the_same_seed_gives_the_same_study():
    first, again, other = (viewer_study(little(), prose(), size=SIZE, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.position.values, again.position.values)
    assert not torch.equal(first.position.values, other.position.values)


def test_texts_are_shared_out_and_never_twice():
    every = [f"text {i}" for i in range(41)] * 2
    fitted, chosen, held = map(set, _split(every, 0))
    assert len(fitted) + len(chosen) + len(held) == 41 == len(fitted | chosen | held)
    assert min(map(len, (fitted, chosen, held))) >= 10


@pytest.mark.parametrize("name", FAMILIES)
def test_the_stream_of_every_family_adds_up(name):
    model = Model(FAMILIES[name].build(), name=name)
    ids = torch.randint(2, 90, (3, 12), generator=torch.Generator().manual_seed(0)).tolist()
    site = f"resid_post.{model.n_layers - 1}"
    moments = model.run(ids, [site])[site].flatten(0, 1)
    found = stream_errors(model, ids, of_axes(site, moments))
    assert max(found.start, found.added, found.end, found.mixed) < 1e-5, found
    assert found.before > 1e-3  # the control


def of_axes(site, x):
    axes = torch.eye(x.shape[1])[:2]
    return Dictionary("pca", site, axes, axes, x.float().mean(0))


def test_what_cannot_be_toured_is_refused():
    with pytest.raises(NoTokenizer, match="the tour reads text"):
        viewer_study(Model(tiny_llama()), prose(), size=SIZE)
    with pytest.raises(CorpusError, match="four texts"):
        viewer_study(little(), prose()[:3], size=SIZE)
    with pytest.raises(DirectionError, match="the eighth"):
        viewer_study(little(), prose(), size=Size(components=5))
    strange = little()
    strange.tokenizer = tokenizer(OTHERS + AUXILIARIES)
    with pytest.raises(TooFewWords, match="names"):
        viewer_study(strange, prose(), size=SIZE)


def test_what_the_viewer_drew_is_scikit_learns_components_on_raw_vectors():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x @ torch.diag(torch.tensor([9.0, 4, 2, 1, 0.5, 0.1], dtype=torch.float64)) + x.flip(1) + 3
    moments = Moments.empty(6)
    moments.add(x)
    plain, standard = (
        Dictionary("pca", "resid_pre.0", **principal(moments, 3, standardise=standardise))
        for standardise in (False, True)
    )
    read = Directions.of(plain, standard, moments, n=5, seed=0).read(x.float())
    fitted = PCA(3).fit(StandardScaler().fit_transform(x))
    theirs = torch.from_numpy(fitted.transform(StandardScaler().fit_transform(x)))
    drawn = x @ torch.from_numpy(fitted.components_).T
    for found, wanted in ((read["standardised"], theirs), (read["as drawn"], drawn)):
        assert (spearman(found.double(), wanted).abs() > 1 - 1e-6).all()
    assert spearman(read["standardised"].double(), drawn).abs().min() < 0.99  # not the same thing
    norms = Directions.of(plain, standard, moments, n=5, seed=0).blocks["as drawn"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-5, rtol=0)
