"""PCA, SVD, mean differences and unembedding rows, against numpy and scikit-learn on the recorded activations."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import residscope as rs
from corpus.readings import model, texts, vectors
from residscope import directions, edits, errors
from residscope.corpus.mean_difference import mean_difference
from residscope.corpus.moments import Moments
from residscope.corpus.pca import pca_many, principal
from residscope.corpus.svd import singular, svd_many
from residscope.corpus.vectors import vectors_of

PLACES = [
    ("embed", None), ("resid_pre.2", None), ("resid_mid.1", None), ("resid_post.3", None), ("attn_out.1", None),
    ("mlp_out.2", None), ("attn_in.1", None), ("mlp_in.2", None), ("final_norm", None), ("mlp_post.1", None),
    ("result.2", 3), ("z.1", 0),
]  # fmt: skip
EVERYWHERE = pytest.mark.parametrize(("site", "head"), PLACES)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=tolerance)


@EVERYWHERE
def test_pca_is_scikit_learns(site, head):
    x = vectors(model(), texts(), site, head)
    ours, theirs = rs.pca(model(), texts(), site, 4, head=head), PCA(4).fit(x)
    signs = np.sign((ours.read.numpy() * theirs.components_).sum(1))
    close(ours.read.numpy(), theirs.components_ * signs[:, None], 1e-4)
    close(ours.variance, theirs.explained_variance_ratio_)
    close(ours.sd, np.sqrt(theirs.explained_variance_))
    close(ours.encode(torch.from_numpy(x)), theirs.transform(x) * signs, 1e-4)
    assert ours.provenance["tokens"] == len(x)
    assert (ours.site, ours.head, ours.space, len(ours)) == (site, head, "centred", 4)


@EVERYWHERE
def test_standardised_pca_is_scikit_learns_after_its_scaler(site, head):
    x = vectors(model(), texts(), site, head)
    ours = rs.pca(model(), texts(), site, 4, head=head, standardise=True)
    theirs = make_pipeline(StandardScaler(), PCA(4)).fit(x)
    components = theirs[1].components_
    signs = np.sign((ours.read.numpy() * components).sum(1))
    coordinates, expected = ours.encode(torch.from_numpy(x)).numpy(), theirs.transform(x) * signs
    close(coordinates, expected)
    close(ours.sd, np.sqrt(theirs[1].explained_variance_))
    close(ours.variance, theirs[1].explained_variance_ratio_)
    order = coordinates.argsort(0)
    assert (np.diff(np.take_along_axis(expected, order, 0), axis=0) >= -1e-6).all()
    if site != "embed":  # where one token is one vector, and many are equal
        assert (order == expected.argsort(0)).all()
    assert ours.provenance["standardised"] is True
    close((ours.read * ours.write).sum(1), np.ones(4))
    close(ours.decode(ours.encode(torch.from_numpy(x))), theirs.inverse_transform(expected * signs), 1e-4)


def test_standardising_makes_a_difference_and_a_still_axis_none():
    x = torch.randn(300, 5, dtype=torch.float64) * torch.tensor([100.0, 1, 1, 1, 1], dtype=torch.float64)
    x[:, 4] = 7.0
    moments = Moments.empty(5)
    moments.add(x)
    plain, standard = principal(moments, 2), principal(moments, 2, standardise=True)
    assert plain["read"][0].abs().argmax() == 0
    assert plain["variance"][0] > 0.99
    assert standard["variance"][0] < 0.5
    theirs = make_pipeline(StandardScaler(), PCA(2)).fit_transform(x.numpy())
    close(((x - standard["mean"]) @ standard["read"].double().T).abs(), np.abs(theirs))
    assert torch.isfinite(standard["read"]).all()


@EVERYWHERE
def test_svd_is_numpys(site, head):
    x = vectors(model(), texts(), site, head)
    ours = rs.svd(model(), texts(), site, 4, head=head)
    _, sizes, rows = np.linalg.svd(x, full_matrices=False)
    signs = np.sign((ours.read.numpy() * rows[:4]).sum(1))
    close(ours.read.numpy(), rows[:4] * signs[:, None], 1e-4)
    close(ours.variance, sizes[:4] ** 2 / (sizes**2).sum())
    coordinates = ours.encode(torch.from_numpy(x))
    close(coordinates, x @ (rows[:4] * signs[:, None]).T, 1e-4)
    close(ours.sd, coordinates.std(0))
    assert (ours.space, ours[0].offset, ours.label(1)) == ("raw", 0.0, "SV 1")


def test_two_machines_merged_are_one_pass():
    x = torch.randn(100, 7, dtype=torch.float64) + 3
    whole, one, other = Moments.empty(7), Moments.empty(7), Moments.empty(7)
    whole.add(x)
    for part in x[:61].split(13):
        one.add(part)
    other.add(x[61:])
    one.merge(other)
    close(one.squares, x.T @ x, 1e-10)
    for method in (principal, singular):
        for a, b in zip(method(one, 3).values(), method(whole, 3).values(), strict=True):
            close(a, b, 1e-6)


def test_several_sites_come_from_one_pass(monkeypatch):
    sites = ["embed", "resid_post.1", "resid_post.3"]
    runs = []
    forward = type(model()).run
    monkeypatch.setattr(type(model()), "run", lambda self, *a, **k: runs.append(1) or forward(self, *a, **k))
    for many, one in ((pca_many, rs.pca), (svd_many, rs.svd)):
        runs.clear()
        found = many(model(), texts(), sites, 3)
        assert len(runs) == 8  # 60 texts, 8 to a run
        assert list(found) == sites
        close(found["resid_post.1"].read, one(model(), texts(), "resid_post.1", 3).read, 1e-6)


def test_a_run_stops_at_the_site_it_needs():
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(model().hf.model.layers)
    ]
    try:
        model().follow()  # hooks that came on: its certificate is measured again, once
        for site, last in (("embed", -1), ("mlp_post.1", 1), ("result.2", 2), ("final_norm", 3)):
            ran.clear()
            rs.pca(model(), texts(), site, 2, head=0 if site.startswith("result") else None)
            assert max(ran, default=-1) <= last
    finally:
        for handle in handles:
            handle.remove()


def test_attention_sinks_stay_out():
    """A token whose stream is a hundred times the others' is left out at every site of its blocks, not in the stream alone."""
    of, corpus = model(), [text[:60].replace("X", "a") for text in texts()]
    spiked = [text[:4] + "X" + text[4:] for text in corpus]
    weight = of.hf.model.embed_tokens.weight
    token = of.token_id("X")
    before = weight[token].clone()
    with torch.no_grad():
        weight[token] = before / before.norm() * 1000
    try:
        for site in ("resid_post.1", "mlp_post.2", "final_norm"):
            kept = sum(len(x) for found in vectors_of(of, spiked, [site]) for x in found.values())
            assert kept == sum(len(text) - 1 for text in corpus)
    finally:
        with torch.no_grad():
            weight[token] = before


@pytest.mark.parametrize(("site", "head"), [("resid_pre.2", None), ("mlp_post.1", None), ("result.2", 3), ("z.1", 0)])
def test_a_mean_difference_is_the_difference_of_the_means(site, head):
    one, other = texts(1, alphabet="abcdef ghij"), texts(2, alphabet="XYZ.,klmno")
    a, b = vectors(model(), one, site, head), vectors(model(), other, site, head)
    found = rs.mean_difference(model(), {"low": one, "high": other}, site, head=head)
    gap = a.mean(0) - b.mean(0)
    close(found.write[0] * found.provenance["distances"][0], gap)
    close(found.read, found.write)
    close(found.mean, (a.mean(0) + b.mean(0)) / 2)
    unit = gap / np.linalg.norm(gap)
    inside = ((a - a.mean(0)) @ unit) ** 2, ((b - b.mean(0)) @ unit) ** 2
    within = sum(part.sum() for part in inside)
    close(found.sd[0], np.sqrt(within / (len(a) + len(b) - 2)))
    total = ((np.concatenate([a, b]) - np.concatenate([a, b]).mean(0)) @ unit) ** 2
    close(found.variance[0], 1 - within / total.sum())
    assert found.label(0) == "low − high"
    assert found.provenance["counts"] == {"low": len(a), "high": len(b)}
    assert float(found[0].project(torch.from_numpy(a)).mean()) > 0 > float(found[0].project(torch.from_numpy(b)).mean())


def test_of_three_texts_each_is_held_against_the_rest():
    named = {
        name: texts(i, alphabet=part)
        for i, (name, part) in enumerate(zip("xyz", ("abc d", "efg h", "ijk l"), strict=True))
    }
    means = {name: vectors(model(), corpus, "resid_post.1").mean(0) for name, corpus in named.items()}
    found = rs.mean_difference(model(), named, "resid_post.1")
    assert [found.label(i) for i in range(3)] == ["x − rest", "y − rest", "z − rest"]
    close(found.write[1] * found.provenance["distances"][1], means["y"] - (means["x"] + means["z"]) / 2)


def test_a_mean_difference_is_refused_where_there_is_none():
    with pytest.raises(errors.ZeroDirection, match="same mean"):
        mean_difference(model(), {"a": texts(), "b": texts()}, "resid_post.1")
    with pytest.raises(errors.CorpusError, match="two texts"):
        mean_difference(model(), {"a": texts()}, "resid_post.1")
    with pytest.raises(errors.EmptyCorpus):
        mean_difference(model(), {"a": texts(), "b": ["", "short"]}, "resid_post.1")


def test_unembedding_rows_are_the_lens():
    of = model()
    found = rs.unembedding_rows(of, ["a", "X", 5])
    rec = of.run("some text to read")
    x = rec["resid_post.3"]
    ids = [of.token_id("a"), of.token_id("X"), 5]
    close(found.encode(x, model=of), of.lens(x)[..., ids])
    close(found.encode(x, model=of), rec.logits[..., ids])
    close(rec.project(found[1]), rec.logits[..., ids[1]])
    assert found.names == ("a", "X", "#")
    early = rs.unembedding_rows(of, ["a"], site="resid_pre.2")
    close(rec.project(early[0]), of.lens(rec["resid_pre.2"])[..., ids[0]])
    with pytest.raises(errors.DirectionError, match="final norm"):
        found.encode(x)


def test_unembedding_rows_refuse():
    with pytest.raises(errors.UnknownToken):
        rs.unembedding_rows(model(), ["ab"])
    with pytest.raises(errors.UnknownToken):
        rs.unembedding_rows(model(), [97])
    with pytest.raises(errors.DirectionError, match="no tokens"):
        rs.unembedding_rows(model(), [])
    with pytest.raises(errors.NoVectors):
        rs.unembedding_rows(model(), ["a"], site="mlp_post.1")


@pytest.mark.parametrize("site", ["pattern.1", "scores.1", "logits", "attn_scale.1", "final_scale", "k.1", "v.1"])
@pytest.mark.parametrize("method", [rs.pca, rs.svd, rs.nmf])
def test_sites_without_a_vector_a_token_are_refused(method, site):
    with pytest.raises(errors.NoVectors, match="no vector at each token"):
        method(model(), texts(), site, 2)


@pytest.mark.parametrize("method", [rs.pca, rs.svd, rs.nmf])
def test_what_cannot_be_fitted_is_refused(method):
    def refused(error, match, corpus=None, site="resid_post.1", n=2, **options):
        with pytest.raises(error, match=match):
            method(model(), texts() if corpus is None else corpus, site, n, **options)

    refused(errors.UnknownHead, "say which.*head 0 to 3", site="result.1")
    refused(errors.UnknownHead, "4 heads", site="result.1", head=4)
    refused(errors.UnknownHead, "no head axis", head=0)
    refused(errors.UnknownLayer, "4 layers", site="resid_post.4")
    refused(errors.UnknownSite, "no such site", site="stream.1")
    refused(errors.DirectionError, "1 to 32", n=33)
    refused(errors.DirectionError, "1 to 8", site="z.1", head=0, n=9)
    refused(errors.DirectionError, "1 to 32", n=0)
    refused(errors.EmptyCorpus, "no row", corpus=["short"])
    refused(errors.CorpusError, "no such text", corpus="/nowhere/x.txt")
    refused(errors.CorpusError, "1 or more", tokens=0)
    clip = {"clip": True} if method is rs.nmf else {}
    refused(errors.TooFewVectors, "too few vectors at resid_post.1", corpus=["abcdefghij"], n=12, **clip)


def test_directions_of_a_head_act_at_that_head():
    of, text = model(), "some text to read"
    for site in ("z.1", "result.1"):
        found = rs.pca(of, texts(), site, 2, head=2)
        before, direction = of.run(text, [site])[site], found[0]
        assert direction.place == f"{site} head 2"
        for edit in (
            edits.steer(site, direction, 2.0),
            edits.project_out(site, list(found)),
            edits.clamp(site, direction, 0.5),
            edits.feature(found, 1, 0.0),
        ):
            assert edit.head == (2,)
            after = of.run(text, [site], edits=[edit])[site]
            others = [0, 1, 3]
            assert torch.equal(after[:, :, others], before[:, :, others])
            assert not torch.allclose(after[:, :, 2], before[:, :, 2])
        gone = of.run(text, [site], edits=[edits.project_out(site, direction)])
        close((gone[site][:, :, 2] @ direction.read.double()), np.zeros((1, len(text))), 1e-6)
        held = of.run(text, [site], edits=[edits.clamp(site, direction, 0.5)])
        close(held.project(direction), np.full((1, len(text)), 0.5))
        assert edits.steer(site, direction, 1.0, head=0).head == (0,)
    stream = rs.pca(of, texts(), "result.1", 1, head=2)[0]
    assert edits.steer("resid_post.1", stream, 1.0).head is None
    of.run(text, ["resid_post.1"], edits=[edits.steer("resid_post.1", stream, 1.0)])
    other = rs.pca(of, texts(), "result.1", 1, head=1)[0]
    with pytest.raises(errors.BadEdit, match="several heads"):
        edits.project_out("result.1", [stream, other])
    with pytest.raises(errors.WrongWidth):
        of.run(text, ["z.1"], edits=[edits.steer("z.1", stream, 1.0)])


def test_progress_is_told_and_can_stop_the_fit():
    told = []
    rs.pca(model(), texts(), "resid_post.1", 2, progress=lambda *step: told.append(step))
    assert [stage for stage, done, _ in told if not done] == ["Reading the text", "Finding components"]
    read = [done for stage, done, _ in told if stage == "Reading the text"]
    assert read == sorted(read)

    def stop(*_):
        raise errors.Cancelled("stopped")

    for fit in (
        lambda: rs.svd(model(), texts(), "resid_post.1", 2, progress=stop),
        lambda: rs.nmf(model(), texts(), "resid_post.1", 2, clip=True, progress=stop),
        lambda: rs.mean_difference(model(), {"a": texts(1), "b": texts(2)}, "resid_post.1", progress=stop),
    ):
        with pytest.raises(errors.Cancelled):
            fit()


def test_a_scree_plot_says_the_shares_and_their_sum():
    found = rs.pca(model(), texts(), "resid_post.1", 4)
    curve = found.view()
    assert [line.name for line in curve.lines] == ["share", "sum so far"]
    close(curve.lines[1].y, np.cumsum(found.variance.numpy()), 1e-6)
    assert "standard deviation" in curve.note
    differences = rs.mean_difference(model(), {"a": texts(1), "b": texts(2, alphabet="xyz ")}, "resid_post.1")
    assert [line.name for line in differences.view().lines] == ["share"]
    assert differences.view().x == ("a − b",)
    with pytest.raises(errors.DirectionError, match="no variance shares"):
        directions.scree(rs.unembedding_rows(model(), ["a"]))
    rows = rs.unembedding_rows(model(), ["a", "b"])
    assert rows._repr_html_() is None
    table = rows.view()
    assert [row[0] for row in table.rows] == [rows.label(0), rows.label(1)]
    close([row[1] for row in table.rows], rows.read.norm(dim=1).tolist(), 1e-6)
