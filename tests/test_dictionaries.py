"""Dictionaries of both kinds: what they read, what an edit of a coefficient does, and the hash they go by."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

import residscope as rs
from residscope import directions, edits, errors

MANY, WIDTH = 24_576, 576
READ, WRITE = "resid_pre.6", "resid_post.8"
PARTS = ("read", "write", "mean", "bias", "base", "threshold", "gate_bias", "gate_scale", "skip")


def transcoder(n=MANY, d=WIDTH, d_out=None, **kwargs):
    draw = torch.Generator().manual_seed(3)
    read = torch.randn(n, d, generator=draw) / d**0.5
    write = torch.randn(n, d_out or d, generator=draw)
    parts = {"mean": torch.randn(d, generator=draw), "bias": torch.randn(n, generator=draw) * 0.1}
    parts["base"] = torch.randn(d_out or d, generator=draw)
    return directions.EncoderDictionary("sae", READ, read, write, **{**parts, "written": WRITE, **kwargs})


def scaled(d, x):
    """What is read of x in float64, and how the scale is undone: (value, scale, shift)."""
    x = x.double()
    if d.normalise == "layer_norm":
        mean, sd = x.mean(-1, keepdim=True), x.var(-1, keepdim=True).sqrt()
        return (x - mean) / (sd + 1e-5), sd, mean
    scale = (
        (x.square().mean(-1, keepdim=True)).sqrt() if d.normalise == "constant_norm" else torch.ones_like(x[..., :1])
    )
    return x / scale, scale, torch.zeros_like(scale)


def by_hand(d, x):
    """Activations in float64, one feature after another."""
    r = torch.stack([(scaled(d, x)[0] - d.mean) @ d.read[i].double() for i in range(len(d))], -1)
    p = r + d.bias
    if d.activation == "gated":
        return (r * d.gate_scale.double().exp() + d.bias).clamp(min=0) * (r + d.gate_bias > 0)
    if d.activation == "relu":
        return p.clamp(min=0)
    if d.activation == "jumprelu":
        return p * (p > d.threshold)
    kth = p.sort(-1, descending=True).values[..., d.k - 1 : d.k]
    return p.clamp(min=0) * (p >= kth)


GATED = {"activation": "gated", "gate_bias": torch.linspace(-1, 1, 12), "gate_scale": torch.linspace(-0.5, 0.5, 12)}
JUMPS = {"activation": "jumprelu", "threshold": torch.linspace(0.0, 1.5, 12)}
LINEAR = torch.arange(64.0).reshape(8, 8) / 40
KINDS = (
    {}, {"activation": "topk", "k": 3}, JUMPS, GATED, {"normalise": "layer_norm"}, {**GATED, "normalise": "constant_norm"},
    {**JUMPS, "skip": LINEAR}, {"normalise": "layer_norm", "skip": LINEAR, "written": None},
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_the_equation(kind):
    d, x = transcoder(12, 8, **kind), torch.randn(2, 5, 8)
    wanted = by_hand(d, x).float()
    torch.testing.assert_close(d.encode(x), wanted)
    torch.testing.assert_close(d.encode(x, indices=[7, 2]), wanted[..., [7, 2]])
    values, indices = d.strongest(x, 4)
    torch.testing.assert_close(values, wanted.sort(-1, descending=True).values[..., :4])
    torch.testing.assert_close(wanted.gather(-1, indices), values)
    y = torch.randn(2, 5, 8)
    torch.testing.assert_close(d.reconstruct(x) + d.error(x, y), y)
    torch.testing.assert_close(d.reconstruct(x), remade(d, x).float(), atol=1e-4, rtol=1e-5)
    assert (wanted == 0).any()
    assert (wanted > 0).any()


def remade(d, x):
    """The reconstruction in float64: a transcoder's normalisation is not undone, as its output has another scale."""
    a, (_, scale, shift) = by_hand(d, x), scaled(d, x)
    y = a @ d.write.double() + d.base
    y = y * scale + shift if d.written is None else y
    return y if d.skip is None else y + x.double() @ d.skip.double().T


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm"])
def test_what_a_change_adds_is_the_difference_of_two_reconstructions(how):
    d = transcoder(12, 8, normalise=how, written=None, activation="topk", k=12)
    x = torch.randn(4, 8)
    other = d.encode(x).clone()
    other[:, 5] += 2.0
    scale, shift = scaled(d, x)[1:]
    wanted = d.decode(other) * scale + shift
    torch.testing.assert_close(d.reconstruct(x) + d.added(x, torch.full((4, 1), 2.0), [5]), wanted.float())
    away = replace(d, written=WRITE)
    torch.testing.assert_close(away.added(x, torch.ones(4, 1), [5]), d.write[5].expand(4, 8))


def test_nothing_is_read_of_a_vector_of_zeros():
    d = transcoder(12, 8, normalise="constant_norm", written=None)
    assert torch.equal(d.reconstruct(torch.zeros(2, 8)), torch.zeros(2, 8))
    assert d.encode(torch.zeros(2, 8)).isfinite().all()


def test_an_error_needs_its_target_where_the_sites_differ():
    with pytest.raises(errors.DirectionError, match="no target"):
        transcoder(12, 8).error(torch.zeros(8))
    x = torch.randn(8)
    one = transcoder(12, 8, written=None)
    torch.testing.assert_close(one.decode(one.encode(x)) + one.error(x), x)


def test_never_more_than_a_block_of_coordinates(monkeypatch):
    d, x, widest = transcoder(2048, 8, activation="topk", k=5), torch.randn(300, 8), []
    wanted = d.encode(x)
    own = directions.EncoderDictionary._activations

    def watched(self, x, rows):
        found = own(self, x, rows)
        widest.append(found.numel())
        return found

    monkeypatch.setattr(directions.EncoderDictionary, "_activations", watched)
    monkeypatch.setattr("residscope.directions.dictionary.BLOCK", 20_480)
    monkeypatch.setattr("residscope.directions.encoder.BLOCK", 20_480)
    torch.testing.assert_close(d.encode(x, indices=[20, 3]), wanted[:, [20, 3]])
    torch.testing.assert_close(d.strongest(x, 5).values, wanted.topk(5).values)
    assert max(widest) <= 20_480 < wanted.numel()


def test_a_dictionary_is_made_of_todays_arguments():
    d = rs.Dictionary("pca", READ, torch.eye(3), torch.eye(3), torch.ones(3))
    assert type(d) is directions.LinearDictionary
    assert isinstance(d, rs.Dictionary)
    assert isinstance(transcoder(4, 3), rs.Dictionary)
    assert (d.read_site, d.write_site) == (READ, READ)
    torch.testing.assert_close(d.encode(torch.tensor([1.0, 2, 3]), indices=[2, 0]), torch.tensor([2.0, 0]))


@pytest.mark.parametrize(
    "d", [transcoder(12, 8), rs.Dictionary("pca", READ, torch.eye(3), torch.eye(3), torch.ones(3))]
)
def test_the_hash_is_of_the_numbers_and_the_sites(d, tmp_path):
    other_names = replace(d, provenance={"corpus": "prose"}, names=tuple(map(str, range(len(d)))), name="other")
    assert other_names.hash == d.hash
    for part in ("read", "write", "mean"):
        changed = getattr(d, part).clone()
        changed[..., -1].view(-1)[-1] += 1e-3
        assert replace(d, **{part: changed}).hash != d.hash, part
    assert replace(d, site="resid_pre.5").hash != d.hash
    assert replace(d, read=d.read.double()).hash != d.hash
    d.save(tmp_path / "d.safetensors")
    again = rs.load_item(tmp_path / "d.safetensors")
    assert again == d
    assert again.hash == d.hash
    assert type(again) is type(d)
    assert rs.Dictionary.load(tmp_path / "d.safetensors") == d


def test_many_are_one_file(tmp_path, tiny):
    for kind in KINDS:
        d = transcoder(12, 8, **kind, names=tuple("abcdefghijkl"), provenance={"by": "hand"})
        directions.save(tmp_path / "d.safetensors", {"sae@resid_pre.6": d}, tiny)
        again = directions.read(tmp_path / "d.safetensors", tiny)["sae@resid_pre.6"]
        assert again.hash == d.hash
        assert again == replace(d, **{p: getattr(again, p) for p in PARTS if getattr(d, p) is not None})
        d.save(tmp_path / "d.safetensors")
        assert rs.load_item(tmp_path / "d.safetensors") == d
        assert edits.from_json(edits.to_json([edits.feature(d, 3, 0.5)]))[0].dictionary == d


def test_the_hash_of_what_has_nothing_new_is_as_it_was():
    plain = transcoder(12, 8)
    assert "normalise" not in plain.hashed[1]
    assert len({plain.hash} | {replace(plain, **kind).hash for kind in KINDS[1:]}) == len(KINDS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"activation": "gelu"}, {"activation": "topk"}, {"k": 3}, {"activation": "topk", "k": 13}, {"activation": "jumprelu"},
        {"threshold": torch.zeros(12)}, {"bias": torch.zeros(3)}, {"base": torch.zeros(3)}, {"names": ("a",)},
        {"written": "nowhere.3"}, {"gate_bias": torch.zeros(12)}, {"activation": "gated", "gate_bias": torch.zeros(12)},
        {"normalise": "batch_norm"}, {"skip": torch.zeros(8, 7)},
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(wrong):
    with pytest.raises((errors.DirectionError, errors.WrongWidth, errors.SiteError, TypeCheckError)):
        transcoder(12, 8, **wrong)


@pytest.fixture(scope="module")
def real():
    return rs.load("smollm2-135m")


def hooked(model, ids, d, changes):
    """Logits of the Hugging Face model, with write rows added after layer 8 by plain hooks. changes: index -> new of old."""
    layers, seen = model.hf.model.layers, {}

    def keep(module, args, kwargs):
        seen["x"] = (args[0] if args else kwargs["hidden_states"]).float()

    def add(module, args, output):
        y = output[0] if isinstance(output, tuple) else output
        moved = y.float()
        for i, new in changes.items():
            old = torch.relu((seen["x"] - d.mean) @ d.read[i] + d.bias[i])
            moved = moved + (new(old) - old)[..., None] * d.write[i]
        moved = moved.to(y.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    hooks = [layers[6].register_forward_pre_hook(keep, with_kwargs=True), layers[8].register_forward_hook(add)]
    try:
        with torch.no_grad():
            return model.hf(ids).logits
    finally:
        for hook in hooks:
            hook.remove()


def test_a_coefficient_of_a_transcoder_is_set_as_by_hand(real):
    d, ids = transcoder(), real.tokens("When Mary and John went to the store, John gave a drink to")
    on = int(d.encode(real.run(ids, [READ])[READ])[0, 3].argmax())
    plain = real.run(ids).logits
    for made, changes in (
        (edits.feature(d, 20_000, value=3.0), {20_000: lambda old: torch.full_like(old, 3.0)}),
        (edits.feature(d, [on, 7], 0.5), dict.fromkeys((on, 7), lambda old: old * 0.5)),
    ):
        found, wanted = real.run(ids, edits=made).logits, hooked(real, ids, d, changes)
        assert (wanted - plain).abs().max() > 1e-2
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)
        again = edits.from_json(edits.to_json([made]))
        torch.testing.assert_close(real.run(ids, edits=again).logits, found, atol=0, rtol=0)


def test_an_edit_before_is_read(real):
    """The old coefficient is this run's, not the unedited run's."""
    d, ids = transcoder(), real.tokens("The quick brown fox jumps")
    before, moved = edits.scale("resid_pre.6", 1.5), edits.feature(d, 20_000, value=3.0)
    run = real.run(ids, [READ, WRITE], edits=[before, moved])
    alone = real.run(ids, [READ, WRITE], edits=[before])
    old = torch.relu((run[READ] - d.mean) @ d.read[20_000] + d.bias[20_000])
    torch.testing.assert_close(
        run[WRITE], alone[WRITE] + (3.0 - old)[..., None] * d.write[20_000], atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm"])
def test_an_edit_moves_the_value_by_the_scale_that_is_undone(real, how):
    draw = torch.Generator().manual_seed(1)
    d = transcoder(32, written=None, normalise=how, mean=torch.zeros(WIDTH), bias=torch.rand(32, generator=draw))
    ids = real.tokens("The quick brown fox jumps")
    plain = real.run(ids, [READ])[READ]
    moved = real.run(ids, [READ], edits=edits.feature(d, [3, 9], 0.0))[READ]
    a, scale = by_hand(d, plain)[..., [3, 9]], scaled(d, plain)[1]
    assert (a.amax(1) > 0.1).all()
    torch.testing.assert_close(moved, (plain - scale * (a @ d.write[[3, 9]].double())).float(), atol=1e-3, rtol=1e-4)


def test_features_of_all_heads_end_to_end(real):
    """An encoder of `z` reads and writes the heads' vectors laid end to end."""
    width = real.sites.sizes.n_heads * real.sites.sizes.d_head
    d, ids = replace(transcoder(16, width, written=None), site="z.9"), real.tokens("The quick brown fox")
    plain = real.run(ids, ["z.9"])["z.9"]
    moved = real.run(ids, ["z.9"], edits=edits.feature(d, 5, value=2.0))["z.9"]
    old = by_hand(d, plain.flatten(-2))[..., [5]]
    wanted = plain.double() + ((2.0 - old) * d.write[5].double()).reshape(plain.shape)
    torch.testing.assert_close(moved, wanted.float(), atol=1e-4, rtol=1e-4)
    other = real.run("Paris is the capital", ["z.9"])
    patched = real.run(ids, ["z.9"], edits=edits.patch("z.9", other, align="prefix", dictionary=d, feature=5))["z.9"]
    new = by_hand(d, other["z.9"].flatten(-2))[:, :3, [5]]
    wanted = plain.double()[:, :3] + ((new - old[:, :3]) * d.write[5].double()).reshape(plain[:, :3].shape)
    torch.testing.assert_close(patched[:, :3], wanted.float(), atol=1e-4, rtol=1e-4)


def test_a_write_site_before_the_read_site_is_refused(real):
    backward = replace(transcoder(12), site="resid_pre.9", written="resid_pre.3")
    with pytest.raises(errors.BadEdit, match="has not reached"):
        real.run("Hello", edits=edits.feature(backward, 1, value=1.0))


def test_widths_are_refused_before_the_run(real):
    with pytest.raises(errors.WrongWidth):
        real.run("Hello", edits=edits.feature(transcoder(12, WIDTH, 8), 1, value=1.0))
    with pytest.raises(errors.WrongWidth):
        real.run("Hello", edits=edits.feature(transcoder(12, 8, WIDTH), 1, value=1.0))
