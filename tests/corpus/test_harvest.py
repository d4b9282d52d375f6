"""What a harvest gathers, against the same read in the plainest way, one text at a time; and however the text is cut."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from corpus.readings import model, relu_model, texts, vectors
from residscope import errors
from residscope.corpus.chunks import captured, recorded
from residscope.corpus.harvest.mapping import LeftOut
from residscope.corpus.harvest.statistics import (
    ByInterval,
    Columns,
    Firing,
    MeansByPosition,
    MomentsOf,
    Quantiles,
    StoreFeatures,
    Together,
    TopTokens,
)  # fmt: skip
from residscope.corpus.reading import Reader
from residscope.directions import EncoderDictionary

TEXTS = texts(3, 40)
TOKENS = 10_000


@cache
def features() -> EncoderDictionary:
    """A random encoder of the stream, about a fifth of whose features fire at a token."""
    draw = torch.Generator().manual_seed(0)
    read = torch.randn(24, 32, generator=draw)
    return EncoderDictionary(
        "sae", "resid_post.1", read, read, torch.zeros(32), torch.full((24,), -4.0), torch.zeros(32), "relu"
    )


def statistics() -> list:
    return [
        MomentsOf("resid_post.1"),
        MomentsOf("z.1", head=2),
        TopTokens("mlp_post.1", k=7),
        TopTokens("mlp_post.1", k=3, lowest=True),
        TopTokens(features(), k=5),
        ByInterval("mlp_post.1", intervals=4, m=3, seed=5),
        Quantiles("resid_post.1", bins=64, exact=100),
        Firing(features()),
        Together(features()),
        MeansByPosition("z.1", head=1, length=64),
        LeftOut("resid_post.1"),
    ]


@cache
def whole():
    return rs.harvest(model(), TEXTS, statistics()[:-1], tokens=TOKENS)


@cache
def rows():
    return [row.ids for row in Reader(model(), TEXTS).rows(length=128, tokens=TOKENS)]


@cache
def read(site, head=None):
    return vectors(model(), rows(), site, head)


@cache
def activations():
    return features().encode(torch.from_numpy(read("resid_post.1"))).float().numpy()


@cache
def places():
    return [(row, pos) for row, ids in enumerate(rows()) for pos in range(1, len(ids))]


def best(x, k, above=-np.inf):
    """The k highest of each column in the plainest way: (value, place), of equal ones the first in the text."""
    every = [sorted((-v, place) for v, place in zip(column, places(), strict=True) if v > above) for column in x.T]
    return [[(-v, place) for v, place in one[:k]] for one in every]


# ── against a plain pass ────────────────────────────────────────────────────────────────────────────────────


def test_no_token_of_these_texts_is_a_sink_so_that_a_plain_pass_is_the_same():
    assert whole().used["resid_post.1"]["left out as attention sinks"] == 0
    assert whole().used["resid_post.1"] == {
        "used": len(places()), "left out at position 0": len(rows()), "left out as attention sinks": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("site", "head"), [("resid_post.1", None), ("z.1", 2)])
def test_moments_are_those_of_all_vectors(site, head):
    name = MomentsOf(site, head).name
    x = read(site, head)
    assert whole()[name].count == len(x)
    assert np.allclose(whole()[name].mean, x.mean(0), rtol=1e-9, atol=1e-12)
    assert np.allclose(whole()[name].covariance, np.cov(x.T), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "x", "k", "above", "sign"),
    [
        ("highest of mlp_post.1", lambda: read("mlp_post.1").astype(np.float32), 7, -np.inf, 1),
        ("lowest of mlp_post.1", lambda: -read("mlp_post.1").astype(np.float32), 3, -np.inf, -1),
        ("highest of sae of resid_post.1", activations, 5, 0.0, 1),
    ],
)
def test_top_tokens_are_those_of_a_brute_force_pass(name, x, k, above, sign):
    found, wanted = whole()[name], best(x(), k, above)
    for column, examples in enumerate(wanted):
        there = found.row[column] >= 0
        assert int(there.sum()) == len(examples)
        assert [*zip(found.row[column][there].tolist(), found.pos[column][there].tolist(), strict=True)] == [
            place for _, place in examples
        ]
        assert np.allclose(sign * found.value[column][there].numpy(), [v for v, _ in examples], rtol=1e-5, atol=1e-6)
        assert found.value[column][~there].isnan().all()


def test_an_example_shows_what_stands_around_it():
    found = whole()["highest of mlp_post.1"]
    numbered = dict(zip(places(), read("mlp_post.1"), strict=True))
    for column in (0, 17):
        for example in found.of(column, model()):
            ids = rows()[example.row]
            first = example.pos - example.at
            assert example.tokens == tuple(model().token_texts(ids[first : example.pos + 5]))
            assert example.values[example.at] == pytest.approx(example.value)
            for i, value in enumerate(example.values):
                place = example.row, first + i
                assert np.isnan(value) if place[1] == 0 else value == pytest.approx(numbered[place][column], rel=1e-5)
    with pytest.raises(errors.DirectionError):
        found.of(48, model())


def test_a_neuron_that_never_fires_has_no_examples_among_those_above_zero():
    off = rs.harvest(relu_model(), TEXTS, [TopTokens("mlp_post.1", k=4, above=0.0), Firing("mlp_post.1")], tokens=800)
    examples, fired = off["highest of mlp_post.1"], off["firing of mlp_post.1"].fired
    assert torch.equal((examples.row >= 0).sum(1), fired.clamp_max(4))


def test_intervals_have_one_width_hold_all_tokens_and_draw_of_their_own():
    found = whole()["intervals of mlp_post.1"]
    x = read("mlp_post.1").astype(np.float32)
    numbered = dict(zip(places(), x, strict=True))
    for column in range(0, 48, 7):
        told = found.intervals(column, model())
        assert sum(n for _, _, n, _ in told) == len(x)
        for low, high, n, examples in told:
            assert n == int(((x[:, column] >= low) & (x[:, column] < high)).sum())
            assert len(examples) == min(n, 3) == len({(e.row, e.pos) for e in examples})
            assert all(low <= numbered[e.row, e.pos][column] < high for e in examples)
        widths = {high - low for low, high, _, _ in told}
        assert len(widths) == 1
        (width,) = widths
        largest = np.abs(x[:, column]).max()
        assert width * 2 <= largest < width * 4, "half of those on a side at least are in use"


def test_another_seed_draws_others():
    def chosen(seed):
        return rs.harvest(model(), TEXTS, [ByInterval("mlp_post.1", seed=seed)], tokens=900)["intervals of mlp_post.1"]

    assert chosen(1) == chosen(1)
    assert not torch.equal(chosen(1).pos, chosen(2).pos)


@pytest.mark.parametrize("exact", [True, False])
def test_quantiles_are_exact_while_they_fit_and_else_within_a_bin(exact):
    q, x = [0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0], read("resid_post.1")
    one = rs.harvest(model(), TEXTS, [Quantiles("resid_post.1", exact=10_000 if exact else 0)], tokens=TOKENS)
    found = one["quantiles of resid_post.1"]
    apart = (found.quantile(q) - torch.from_numpy(np.quantile(x, q, axis=0))).abs()
    assert found.exact == exact
    assert bool((apart <= found.bound + 1e-6 * np.abs(x).max()).all())
    assert bool((found.bound <= torch.from_numpy(2 * np.abs(x).max(0) / 512)).all())
    edges, counts = found.histogram(3)
    assert torch.equal(counts, torch.from_numpy(np.histogram(x[:, 3].astype(np.float32), edges.numpy())[0]))
    with pytest.raises(errors.BadArguments):
        found.quantile(1.5)


def test_firing_alone_and_together():
    on = (activations() > 0).astype(int)
    alone, pairs = whole()["firing of sae of resid_post.1"], whole()["firing together of sae of resid_post.1"]
    assert np.allclose(alone.density, on.mean(0))
    mean = np.where(on.sum(0), activations().sum(0) / np.maximum(on.sum(0), 1), np.nan)
    assert np.allclose(alone.mean_active, mean, rtol=1e-5, equal_nan=True)
    assert np.array_equal(pairs.together, on.T @ on)
    i, j = np.argsort(-on.sum(0))[:2]
    assert float(pairs.given[i, j]) == pytest.approx((on[:, i] & on[:, j]).sum() / on[:, i].sum())
    expected = (on[:, i] & on[:, j]).mean() / (on[:, i].mean() * on[:, j].mean())
    assert float(pairs.lift[i, j]) == pytest.approx(expected)


def test_means_by_position_are_those_that_mean_ablation_takes():
    found = whole()["means by position of z.1 head 1"]
    edit = rs.edits.ablate("z.1", to="mean", over=rows(), by="position").prepare(model())
    n = len(edit.to)
    assert found.counts[:n].tolist() == edit.averaged["tokens at each position"]
    assert torch.allclose(found.mean[:n].double(), edit.to[:, 1].double(), rtol=1e-5, atol=1e-6)
    assert bool(found.mean[n:].isnan().all())
    assert np.allclose(found.overall, read("z.1", 1).mean(0), rtol=1e-4, atol=1e-6)


def test_the_store_has_each_features_rows_together_and_the_tokens_beside_them(tmp_path):
    gathered = rs.harvest(model(), TEXTS, [StoreFeatures(features())], tokens=TOKENS, shard=7, folder=tmp_path / "out")
    store = gathered["rows of sae of resid_post.1"]
    starts = np.cumsum([0, *map(len, rows())])
    flat = np.array([starts[row] + pos for row, pos in places()])
    for feature, x in enumerate(activations().T):
        token, activation = store.of(feature)
        assert np.array_equal(token, flat[x > 0])
        assert np.allclose(activation, x[x > 0], rtol=1e-5, atol=1e-6)
    token = int(store.of(int((activations() > 0).sum(0).argmax()))[0][4])
    row, pos = store.row_of(token)
    assert starts[row] + pos == token
    assert store.context(token, 3, 2) == (rows()[row][max(0, pos - 3) : pos + 3], min(pos, 3))
    assert store.tokens == starts[-1]
    assert rs.statistics.FeatureStore.open(store.folder) == store
    with pytest.raises(errors.DirectionError):
        store.of(24)


def test_a_damaged_store_is_refused(tmp_path):
    gathered = rs.harvest(model(), TEXTS, [StoreFeatures(features())], tokens=800, folder=tmp_path / "out")
    folder = tmp_path / "out" / "store-0"
    assert gathered["rows of sae of resid_post.1"].folder == str(folder)
    np.save(folder / "token.npy", np.load(folder / "token.npy")[:-1])
    with pytest.raises(errors.DamagedFile, match="damaged"):
        rs.statistics.FeatureStore.open(folder)
    (folder / "token.npy").unlink()
    with pytest.raises(errors.FileNotThere):
        rs.statistics.FeatureStore.open(folder)


# ── however the text is cut ─────────────────────────────────────────────────────────────────────────────────


@cache
def chunks():
    """The text in chunks of one to five rows."""
    draw, batches, left = np.random.default_rng(0), [], rows()[:24]
    while left:
        n = int(draw.integers(1, 6))
        batches.append(left[:n])
        left = left[n:]
    every = statistics()
    return list(recorded(model(), batches, captured(model(), [s for one in every for s in one.sites])))


def gather(statistic, groups):
    """One partial of each group of chunks, merged from the left; that none is changed by merging is seen too."""
    partials = []
    for group in groups:
        partials.append(statistic.start(model()))
        for chunk in group:
            statistic.add(partials[-1], chunk)
    copies = [{name: x.clone() for name, x in partial.items()} for partial in partials]
    done = partials[0]
    for partial in partials[1:]:
        done = statistic.merge(done, partial)
    for partial, copy in zip(partials, copies, strict=True):
        assert all(torch.equal(partial[name], copy[name]) or copy[name].is_floating_point() for name in copy)
    return statistic.finish(done, model())


def plain(result):
    return result if isinstance(result, dict) else {name: getattr(result, name) for name in result.__dataclass_fields__}


@settings(max_examples=25, deadline=None)
@given(data=st.data(), which=st.integers(0, len(statistics()) - 1))
def test_any_partition_in_any_order_gives_the_same(data, which):
    statistic = statistics()[which]
    group = data.draw(st.lists(st.integers(0, 3), min_size=len(chunks()), max_size=len(chunks())))
    order = data.draw(st.permutations(range(4)))
    groups = [[chunk for chunk, g in zip(chunks(), group, strict=True) if g == wanted] for wanted in order]
    one, other = plain(gather(statistic, [chunks()])), plain(gather(statistic, groups))
    for name, x in one.items():
        if isinstance(x, torch.Tensor) and x.dtype == torch.float64 and not isinstance(statistic, Quantiles):
            assert torch.allclose(x, other[name], rtol=1e-9, atol=1e-9, equal_nan=True), name
        elif isinstance(x, torch.Tensor):
            same = torch.allclose(x, other[name], rtol=1e-6, equal_nan=True) if x.is_floating_point() else None
            assert torch.equal(x, other[name]) if same is None else same, name
        else:
            assert x == other[name], name


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rs.harvest(model(), TEXTS, [], tokens=100), errors.BadArguments, "nothing to gather"),
        (lambda: rs.harvest(model(), TEXTS, [MomentsOf("z.1", 0)] * 2, tokens=100), errors.BadArguments, "one name"),
        (lambda: rs.harvest(model(), TEXTS, [MomentsOf("z.1")], tokens=100), errors.UnknownHead, "say which"),
        (lambda: rs.harvest(model(), TEXTS, [MomentsOf("pattern.1")], tokens=100), errors.NoVectors, "no vector"),
        (lambda: rs.harvest(model(), TEXTS, [MomentsOf("resid_post.1")], tokens=0), errors.CorpusError, "no tokens"),
        (lambda: rs.harvest(model(), TEXTS, [MomentsOf("resid_post.1")], tokens=9, batch=0), errors.BadArguments, "batch"),
        (lambda: rs.harvest(model(), [], [MomentsOf("resid_post.1")], tokens=100), errors.EmptyCorpus, "no row"),
        (lambda: rs.harvest(model(), ["\0" * 50], [MomentsOf("resid_post.1")], tokens=9), errors.EmptyCorpus, "no row"),
        (lambda: rs.harvest(model(), TEXTS, [StoreFeatures(features())], tokens=9), errors.BadArguments, "folder"),
        (lambda: Quantiles("resid_post.1", bins=100), errors.BadArguments, "halved"),
        (lambda: ByInterval("resid_post.1", intervals=5), errors.BadArguments, "intervals"),
        (lambda: TopTokens("resid_post.1", k=0), errors.BadArguments, "no examples"),
        (lambda: Together("resid_post.1").check(model()) or whole()["nothing"], errors.UnknownLabel, "of this name"),
    ],
)  # fmt: skip
def test_what_cannot_be_gathered_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_dictionary_of_another_width_and_indices_that_are_not_there():
    wrong = EncoderDictionary(
        "sae", "mlp_post.1", *(torch.zeros(3, 32),) * 2, torch.zeros(32), torch.zeros(3), torch.zeros(32)
    )
    with pytest.raises(errors.WrongWidth):
        rs.harvest(model(), TEXTS, [Firing(wrong)], tokens=100)
    with pytest.raises(errors.DirectionError):
        rs.harvest(model(), TEXTS, [Firing(Columns("resid_post.1", dictionary=features(), indices=(99,)))], tokens=100)
    some = rs.harvest(
        model(), TEXTS, [Firing(Columns("resid_post.1", dictionary=features(), indices=(3, 7)))], tokens=TOKENS
    )
    assert some["firing of sae of resid_post.1"].fired.tolist() == (activations() > 0).sum(0)[[3, 7]].tolist()
