"""Models that are wrong in one small way: each is described as it is, or refused by name, and none is served wrongly.

What is served is compared with what the twin's own code tells: every site's value, and the logits once another value stands
there. New twins are drawn each run; `RESIDSCOPE_SEED` draws the same ones again.
"""

import os
import random
import zlib
from dataclasses import replace

import pytest
import torch
from odd_twins import TWINS
from twins import VOCAB, Decoder, Twin, noting, settled

import residscope as rs
from residscope import edits, errors
from residscope.engine.windows import Window

CLOSE = 1e-5
LENGTH = 37
OFTEN = 0.2  # how many of the other layers' sites are written


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))


def seeded(name: str) -> random.Random:
    return random.Random(zlib.crc32(f"{os.environ['RESIDSCOPE_SEED']} {name}".encode()))


def far(got, expected) -> float:
    """The largest error of a position, relative to the longest."""
    if got.shape != expected.shape:
        return float("inf")
    return float(torch.nan_to_num((got - expected).abs(), nan=1e9).max() / expected.abs().max().clamp_min(1e-9))


@torch.no_grad()
def told(hf, ids, put=None):
    """What the twin's own code says of every site, and its logits."""
    with noting(put) as notes:
        logits = hf(ids).logits
    return notes.seen, logits


def another(site, value, generator):
    """Another value for a site, of which its axes make sense."""
    noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    if site.name.endswith("_scale"):
        return value * (1 + 0.3 * noise.tanh())
    if site.name in ("scores", "pattern"):
        kept = torch.ones(value.shape[-2:], dtype=torch.bool).tril()
        scores = torch.where(kept, noise, torch.finfo(value.dtype).min)
        return scores.softmax(-1) * 0.9 if site.name == "pattern" else torch.where(kept, noise, value)
    return noise * value.std()


@torch.no_grad()
def wrongs(model, hf, ids, odd=None) -> list[str]:
    """The sites that are served and are not what the twin's code has there, or that do not do, written, what they would there.

    Every value is compared; other values are written at the sites of the odd layer and of the ends, and at some of the rest.
    """
    found, (truth, logits) = [], told(hf, ids)
    rec = model.run(ids, capture=model.sites.names)
    if (error := far(rec.logits, logits)) > CLOSE:
        found.append(f"logits {error:.0e}")
    generator = torch.Generator().manual_seed(int(ids.sum()))
    for site in rec.sites:
        if site.name == "result":
            continue
        if (expected := truth.get(str(site))) is None:
            found.append(f"{site} is served, and there is no such place")
        elif (error := far(rec[site], expected)) > CLOSE:
            found.append(f"{site} {error:.0e}")
        elif site.layer in (None, odd) or torch.rand(1, generator=generator) < OFTEN:
            new = another(site, expected, generator)
            got = model.run(ids, ["logits"], edits=[edits.patch(str(site), {str(site): new})]).logits
            if (error := far(got, told(hf, ids, {str(site): new})[1])) > CLOSE:
                found.append(f"{site} written {error:.0e}")
    for layer in range(model.n_layers):
        if model.sites.has("result", layer):
            total = truth[f"attn_raw.{layer}"]
            bias = getattr(model.layout.blocks[layer].attn_proj, "bias", None)
            summed = rec["result", layer].sum(2) + (0 if bias is None else bias)
            if (error := far(summed, total)) > CLOSE:
                found.append(f"result.{layer} {error:.0e}")
    return found + windows(model, rec, logits)


def windows(model, rec, logits) -> list[str]:
    found = []
    base = model.run(rec.tokens)
    for start, pos in ((1, 0), (0, LENGTH // 2), (model.n_layers - 1, 5)):
        part = model.run(rec.tokens, ["logits"], window=Window(base, start, None, pos)).logits
        if (error := far(part, logits[:, pos:])) > CLOSE:
            found.append(f"a window from layer {start} and position {pos} {error:.0e}")
    last = model.lens(rec["resid_post", model.n_layers - 1])
    return found if far(last, logits) <= CLOSE else [*found, "the lens at the end"]


def test_there_are_thirty_twins_and_their_likes():
    assert sum(not twin.served for twin in TWINS.values()) >= 30
    assert sum(twin.served for twin in TWINS.values()) >= 10


@pytest.mark.parametrize("name", TWINS)
def test_no_twin_is_served_wrongly(name):
    rng, twin = seeded(name), TWINS[name]
    drawn, hf = twin.drawn(rng)
    print(drawn)
    try:
        model = rs.load((hf, None))
    except (errors.CertificateFailed, errors.UnknownFamily) as error:
        model, why = None, str(error)
        print(f"refused: {why}")
    if model is None:
        assert not twin.served, why
        assert "does not pass its certificate: " in why or "Allowed: " in why
        return
    print(f"served, without {model.sites.absent}")
    assert wrongs(model, hf, tokens(rng), drawn.odd) == []
    if twin.served:
        assert expected_sites(drawn) - twin.lacks <= {
            name for name in model.sites.names if model.sites.has(name, drawn.odd)
        }


def tokens(rng):
    return torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(rng.randrange(2**31)))


def expected_sites(drawn) -> set[str]:
    """What a plain decoder of this kind serves in every layer."""
    stream = {"resid_pre", "resid_post"} | (set() if drawn.parallel else {"resid_mid"})
    attention = {"attn_scale", "attn_in", "q", "k", "v", "scores", "pattern", "z", "result", "attn_raw", "attn_out"}
    mlp = {"mlp_scale", "mlp_in", "mlp_pre", "mlp_post", "mlp_raw", "mlp_out"} | (
        {"mlp_gate"} if drawn.gated else set()
    )
    return stream | attention | mlp


def test_a_class_written_anew_has_no_certificate_from_before():
    """Two twins of one name, of the same weights, that differ by one number in a method of theirs."""
    drawn, _ = TWINS["nothing odd"].drawn(seeded("anew"))

    def written(by):
        scope = {"Decoder": Decoder, "__name__": __name__}
        exec(f"class Anew(Decoder):\n    def end(self, x):\n        return super().end(x) * {by}", scope)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return rs.load((settled(scope["Anew"](drawn), drawn), None))

    first, again, other = written(0.5), written(0.5), written(0.25)
    assert (first.certificate.cached, again.certificate.cached, other.certificate.cached) == (False, True, False)


LIES = {
    "norms exchanged": {"attn_norm": "post_attention_layernorm", "mlp_norm": "input_layernorm"},
    "gate and up exchanged": {"mlp_up": "mlp.gate_proj", "mlp_gate": "mlp.up_proj"},
    "another projection": {"attn_proj": "self_attn.q_proj"},
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_described_falsely_is_seen_by_the_comparison_itself(lie):
    """The other side of `wrongs`: of a model that is described falsely, and not judged, it names what is wrong."""
    rng = seeded(lie)
    drawn, hf = Twin(Decoder, True, frozenset(), {"gated": True, "parallel": False}).drawn(rng)
    model = rs.load((hf, None))
    ids = tokens(rng)
    assert wrongs(model, hf, ids, drawn.odd) == []
    model.described_as(replace(model.family, block=replace(model.family.block, **LIES[lie])))
    assert wrongs(model, hf, ids, drawn.odd)
