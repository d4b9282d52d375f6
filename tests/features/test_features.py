"""Atlases and feature pages against brute force: every token of the text looked at one by one."""

import itertools
import math
import re
import zipfile

import pytest
import torch

import residscope as rs
from residscope import errors, features
from residscope.directions import EncoderDictionary
from residscope.engine.sinks import kept
from residscope.views import to_html

TOKENS = 2_000


@pytest.fixture(scope="module")
def sae(smollm2):
    x = smollm2.run("The quick brown fox jumps over the lazy dog.", ["resid_post.8"])["resid_post.8"][0, 1:]
    g = torch.Generator().manual_seed(0)
    write = torch.nn.functional.normalize(torch.randn(64, 576, generator=g), dim=1)
    parts = {"mean": x.mean(0), "bias": torch.zeros(64), "base": x.mean(0)}
    return EncoderDictionary("sae", "resid_post.8", write, write, **parts, activation="topk", k=6)


@pytest.fixture(scope="module")
def atlas(smollm2, sae):
    return features.gather(smollm2, "python-docs", sae, tokens=TOKENS, k=5, progress=False)


@pytest.fixture(scope="module")
def brute(smollm2, atlas, sae):
    """[(row, pos, activations)] of every token that is kept, each row run by itself."""
    found = []
    for row in range(len(atlas.text.starts)):
        record = smollm2.run(atlas.text.row(row), ["resid_post.8"])
        keep = kept(record, "resid_post.8")[0]
        a = sae.encode(record["resid_post.8"][0])
        found += [(row, pos, a[pos]) for pos in keep.nonzero()[:, 0].tolist()]
    return found


def test_counts_highest_and_densities_are_a_plain_look_s(atlas, brute):
    values = torch.stack([a for *_, a in brute])
    assert atlas.firing.count == len(values)
    torch.testing.assert_close(atlas.density, (values > 0).double().mean(0))
    torch.testing.assert_close(atlas.highest.nan_to_num(0), values.amax(0), atol=1e-3, rtol=1e-4)
    for index in (0, 7, 33):
        best = values[:, index].argsort(descending=True, stable=True)[:5]
        expected = [brute[i][:2] for i in best.tolist() if values[i, index] > 0]
        assert {*zip(atlas.top.row[index].tolist(), atlas.top.pos[index].tolist(), strict=True)} - {(-1, -1)} == {
            *expected
        }


def test_partners_fire_together_beyond_chance(atlas, brute):
    on = torch.stack([a for *_, a in brute]) > 0
    checked = 0
    for index in range(0, 64, 9):
        both = (on[:, index : index + 1] & on).double().mean(0)
        for other, share in zip(atlas.partners[index].tolist(), atlas.given[index].tolist(), strict=True):
            if other < 0:
                continue
            assert share == pytest.approx(float(both[other] / on[:, index].double().mean()))
            assert both[other] > on[:, index].double().mean() * on[:, other].double().mean()
            checked += 1
    assert checked


def test_what_taking_it_out_does_is_a_plain_forward_with_the_feature_s_write_taken_off(smollm2, atlas, sae):
    made = features.page(smollm2, atlas, 7, sae, progress=False)
    assert made.address == f"sae/{smollm2.name}/resid_post.8/7"
    for i, example in enumerate(made.shown[:3]):
        ids = atlas.text.row(example.row)
        x = smollm2.run(ids, ["resid_post.8"])["resid_post.8"][0, example.pos]
        off = sae.encode(x)[7] * sae.write[7]
        assert example.value == pytest.approx(float(sae.encode(x)[7]), rel=1e-3, abs=1e-3)

        def take(module, args, output, off=off, pos=example.pos):
            whole = output[0] if isinstance(output, tuple) else output
            whole = whole.clone()
            whole[:, pos] -= off
            return (whole, *output[1:]) if isinstance(output, tuple) else whole

        prompt = torch.tensor([ids[: example.pos + 1]])
        with torch.no_grad():
            before = smollm2.hf(prompt).logits[0, -1].double().log_softmax(-1)
            handle = smollm2.layout.blocks[8].block.register_forward_hook(take)
            try:
                after = smollm2.hf(prompt).logits[0, -1].double().log_softmax(-1)
            finally:
                handle.remove()
        if example.pos + 1 < len(ids):
            expected = float(before[ids[example.pos + 1]] - after[ids[example.pos + 1]])
            assert float(made.effects.gain[i]) == pytest.approx(expected, abs=2e-3)
        assert float(made.effects.kl[i]) == pytest.approx(float((before.exp() * (before - after)).sum()), abs=2e-3)
        text, by = made.effects.raised[i]
        assert smollm2.token_id(text) == int((before - after).argmax())
        assert by == pytest.approx(float((before - after).max()), abs=2e-3)
    assert len(to_html(made.view())) > 1000


def test_a_page_holds_the_histogram_and_the_nearest(smollm2, atlas, sae, brute):
    made = features.page(smollm2, atlas, 3, sae, effects=False)
    values = torch.stack([a for *_, a in brute])[:, 3]
    edges = made.edges
    for low, high, n in zip(edges[:-1].tolist(), edges[1:].tolist(), made.counts.tolist(), strict=True):
        assert abs(n - int(((values >= low) & (values < high)).sum())) <= 1
    cosines = [(float(torch.cosine_similarity(sae.write[3], sae.write[j], dim=0)), j) for j in range(64) if j != 3]
    assert [i for i, *_ in made.nearest[:5]] == [j for _, j in sorted(cosines, reverse=True)[:5]]
    assert made.effects is None


def test_neurons_and_a_direction_have_the_same_page(smollm2, sae):
    neurons = features.gather(smollm2, "python-docs", site="mlp_post.9", tokens=1_000, k=3, progress=False)
    assert neurons.address(312) == f"neuron/{smollm2.name}/9/312"
    made = features.page(smollm2, neurons, 312, progress=False)
    row = neurons.text.row(made.top[0].row)
    x = smollm2.run(row, ["mlp_post.9"])["mlp_post.9"][0, made.top[0].pos, 312]
    assert made.top[0].value == pytest.approx(float(x), rel=1e-3, abs=1e-3)
    cut = rs.edits.ablate("mlp_post.9", neuron=312, pos=-1)
    prompt = row[: made.top[0].pos + 1]
    change = smollm2.run(prompt).logits[0, -1].log_softmax(-1) - smollm2.run(prompt, edits=[cut]).logits[
        0, -1
    ].log_softmax(-1)
    assert made.effects.raised[0][1] == pytest.approx(float(change.max()), abs=2e-3)
    alone = features.gather(smollm2, "python-docs", sae[5], tokens=1_000, k=3, progress=False)
    assert len(alone) == 1
    first = alone.top.of(0, smollm2)[0]
    x = smollm2.run(alone.text.row(first.row), ["resid_post.8"])["resid_post.8"][0, first.pos]
    assert first.value == pytest.approx(float(x @ sae[5].read - sae[5].offset), rel=1e-3, abs=1e-2)


def test_features_are_found_by_token_text_and_likeness(smollm2, atlas, sae):
    index = int(atlas.highest.nan_to_num(0).argmax())
    token = int(atlas.top.ids[index, 0, atlas.top.at])
    found = {one.index: one.value for one in features.on_token(smollm2, atlas, token)}
    at = atlas.top.ids[index, :, atlas.top.at]
    assert found[index] == pytest.approx(float((at == token).sum() / (at >= 0).sum()))
    text = "def open(file, mode): return the stream"
    record = smollm2.run(text, ["resid_post.8"])
    values = sae.encode(record["resid_post.8"])[0, 1:].amax(0)
    for one in features.on_text(smollm2, atlas, text, sae, k=5):
        assert one.value == pytest.approx(float(values[one.index]), rel=1e-4)
    assert features.similar(sae, sae[9])[0].index == 9


def test_it_comes_back_from_a_file_and_goes_out_as_pages(smollm2, atlas, sae, tmp_path):
    atlas.save(tmp_path / "atlas.safetensors")
    again = features.Atlas.load(tmp_path / "atlas.safetensors")
    assert again == atlas
    index = features.export(smollm2, again, tmp_path / "pages", sae, indices=[3, 4], progress=False)
    assert 'href="3.html"' in index.read_text()
    assert not re.search(r"(src|href)=.?https?:", (tmp_path / "pages" / "4.html").read_text())


def test_all_pages_are_one_file_too_and_their_cost_is_said_first(smollm2, atlas, sae, tmp_path):
    pages, seconds, size = features.exporting.cost(smollm2, atlas, sae)
    assert (pages, seconds > 0) == (64, True)
    made = features.export(smollm2, atlas, tmp_path / "layer.zip", sae, indices=[3, 4, 5], progress=False)
    assert [*tmp_path.iterdir()] == [made]
    with zipfile.ZipFile(made) as packed:
        assert sorted(packed.namelist()) == [f"layer/{name}.html" for name in ("3", "4", "5", "index")]
        whole = {name: packed.read(name).decode() for name in packed.namelist()}
    features.export(smollm2, atlas, tmp_path / "pages", sae, indices=[3, 4, 5], progress=False)
    assert whole == {f"layer/{file.name}": file.read_text() for file in (tmp_path / "pages").iterdir()}
    assert 0.5 < made.stat().st_size / (size * 3 / 64) < 2
    with pytest.raises(errors.Cancelled):
        features.export(
            smollm2, atlas, tmp_path / "cut.zip", sae, indices=range(9), progress=False, cancel=cut_after(3)
        )
    assert not [file for file in tmp_path.iterdir() if "cut" in file.name]


def cut_after(n):
    asked = itertools.count()
    return lambda: next(asked) > n


def test_what_does_not_fit_is_refused(smollm2, atlas, sae):
    with pytest.raises(errors.WrongModel, match="another dictionary"):
        features.page(smollm2, atlas, 3)
    with pytest.raises(errors.DirectionError, match="0 to 63"):
        features.page(smollm2, atlas, 64, sae)
    with pytest.raises(errors.BadArguments, match="neither"):
        features.gather(smollm2, "python-docs")
    assert math.isnan(float(features.effects(smollm2, atlas, 3, [(0, len(atlas.text.row(0)) - 1)], sae).gain[0]))
