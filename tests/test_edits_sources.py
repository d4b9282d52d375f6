"""Edits that take values from elsewhere: noise, resampling, isolating, aligned patches, features, and what clashes."""

import subprocess
import sys

import pytest
import torch

from residscope import directions, edits, errors
from residscope.engine.model import Model
from residscope.engine.windows import Window
from residscope.model.prompts import PromptSet
from tiny_models import tiny_llama

MODEL = Model(tiny_llama(), name="llama")
IDS = torch.randint(2, 97, (2, 9), generator=torch.Generator().manual_seed(3))
OTHERS = torch.randint(2, 97, (5, 9), generator=torch.Generator().manual_seed(4))


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def vectors(n, seed=0):
    return torch.randn(n, MODEL.d_model, generator=torch.Generator().manual_seed(seed)).double()


def dictionary(n=6, site="resid_pre.2"):
    return directions.Dictionary("some", site, vectors(n, 1), vectors(n, 2), vectors(1, 3)[0])


# ── clamp ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("space", ["raw", "centred"])
def test_clamping_sets_the_coordinate_and_nothing_across_it(space):
    read, write = vectors(2)
    d = directions.Direction(read, write, "resid_pre.2", offset=0.7, space=space)
    plain = MODEL.run(IDS)["resid_pre.2"]
    run = MODEL.run(IDS, edits=[edits.clamp("resid_pre.2", d, -2.5, pos=[1, -1])])["resid_pre.2"]
    close(d.project(run)[:, [1, 8]], torch.full((2, 2), -2.5).double())
    assert (d.project(plain)[:, 1] + 2.5).abs().min() > 1e-3
    close(run[:, 2:8], plain[:, 2:8])
    moved = (run - plain)[:, 1]
    close(moved - (moved @ write / (write @ write))[:, None] * write, torch.zeros_like(moved))


def test_what_cannot_be_clamped():
    blind = directions.Direction(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), "resid_pre.1")
    with pytest.raises(errors.ZeroDirection, match="read"):
        edits.clamp("resid_pre.1", blind, 1.0)
    lens = directions.Direction(*vectors(2), "resid_pre.1", space="lens")
    with pytest.raises(errors.BadEdit, match='space="raw"'):
        edits.clamp("resid_pre.1", lens, 1.0)
    run = MODEL.run(IDS, edits=[edits.clamp("resid_pre.1", lens, 1.0, space="raw")])
    close(run["resid_pre.1"] @ lens.read, torch.ones(2, 9).double())


# ── noise ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_noise_belongs_to_seed_site_prompt_and_position():
    plain = MODEL.run(IDS, ["embed"])["embed"]

    def drawn(prompts, **kwargs):
        return MODEL.run(prompts, ["embed"], edits=[edits.noise("embed", 2.0, **kwargs)])["embed"]

    first = drawn(IDS, seed=5) - plain
    close(drawn(IDS[:, :4], seed=5) - plain[:, :4], first[:, :4])
    close(drawn(IDS[:1], seed=5) - plain[:1], first[:1])
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(drawn(IDS, seed=6) - plain, first)
    assert 1.7 < first.std() < 2.3
    close(drawn(IDS, seed=5, pos=3)[:, 3], (plain + first)[:, 3])
    close(drawn(IDS, seed=5, pos=3)[:, 4:], plain[:, 4:])


@pytest.mark.parametrize("site", ["resid_mid.1", "v.2", "scores.1", "pattern.2"])
def test_a_window_meets_the_whole_runs_noise(site):
    cut = [edits.noise(site, 0.3, seed=1)]
    late = [edits.noise(site, 0.3, seed=1, pos=range(5, 9))]
    whole = MODEL.run(IDS, ["logits"], edits=late)
    run = MODEL.run(IDS, ["logits"], edits=cut, window=Window(MODEL.run(IDS), 1, None, 5))
    close(run.logits, whole.logits[:, 5:])
    assert (whole.logits - MODEL.run(IDS).logits).abs().max() > 1e-3


# ── resampling ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_resampling_takes_another_prompts_value():
    held = MODEL.run(OTHERS, ["z.1"])["z.1"]
    run = MODEL.run(IDS, ["z.1"], edits=[edits.ablate("z.1", "resample", over=OTHERS, seed=2, head=1)])["z.1"]
    drawn = [[i for i in range(5) if torch.allclose(run[row, :, 1], held[i, :, 1])] for row in range(2)]
    assert [len(found) for found in drawn] == [1, 1]
    close(run[:, :, [0, 2, 3]], MODEL.run(IDS, ["z.1"])["z.1"][:, :, [0, 2, 3]])
    picks = {
        tuple(MODEL.run(IDS, ["z.1"], edits=[edits.ablate("z.1", "resample", over=OTHERS, seed=s)])["z.1"][0, 3, 0])
        for s in range(8)
    }
    assert len(picks) > 2


def test_resampling_aligns_from_the_end_and_never_draws_the_prompt_itself():
    rows = [IDS[0].tolist(), IDS[1, :5].tolist()]
    data = [IDS[0].tolist(), OTHERS[0].tolist()]
    run = MODEL.run(rows, ["mlp_out.1"], edits=[edits.ablate("mlp_out.1", "resample", over=data, seed=0)])["mlp_out.1"]
    held = MODEL.run(data, ["mlp_out.1"])["mlp_out.1"]
    close(run[0], held[1])
    assert any(torch.allclose(run[1, :5], held[i, 4:]) for i in (0, 1))
    for data in ([IDS[0].tolist()], [OTHERS[0, :8].tolist()]):
        with pytest.raises(errors.CannotAlign, match="at least 9"):
            MODEL.run(IDS[:1], edits=[edits.ablate("mlp_out.1", "resample", over=data)])
    longer = torch.cat([OTHERS, OTHERS[:, :2]], 1)
    with pytest.raises(errors.CannotAlign, match="exactly 9"):
        MODEL.run(IDS, edits=[edits.ablate("pattern.1", "resample", over=longer)])
    mixed = [[7] * 4, OTHERS[2].tolist(), longer[1].tolist()]
    run = MODEL.run(
        [[*IDS[0].tolist()], [5] * 4], ["pattern.1"], edits=[edits.ablate("pattern.1", "resample", over=mixed)]
    )
    close(run["pattern.1"][0], MODEL.run(OTHERS[2:3], ["pattern.1"])["pattern.1"][0])
    close(run["pattern.1"][1, :, :4, :4], MODEL.run([[7] * 4], ["pattern.1"])["pattern.1"][0])


# ── isolating ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_isolating_keeps_the_union_of_the_heads():
    def z(*stack):
        return MODEL.run(IDS, ["z.1"], edits=list(stack))["z.1"]

    plain = z()
    one = z(edits.isolate("z.1", head=2))
    close(one[:, :, 2], plain[:, :, 2])
    assert one[:, :, [0, 1, 3]].abs().max() == 0
    both = z(edits.isolate("z.1", head=2), edits.scale("z.0", 1.0), edits.isolate("z.1", head=0))
    close(both[:, :, [0, 2]], plain[:, :, [0, 2]])
    assert both[:, :, [1, 3]].abs().max() == 0
    every = z(*(edits.isolate("z", head=h) for h in range(4)))
    close(every, plain)
    late = z(edits.isolate("z.1", head=2, pos=3), edits.isolate("z.1", head=0, pos=[3, 4]))
    close(late[:, [0, 1, 2, 5]], plain[:, [0, 1, 2, 5]])
    close(late[:, 3, [0, 2]], plain[:, 3, [0, 2]])
    assert late[:, 3, [1, 3]].abs().max() == 0
    assert late[:, 4, [1, 2, 3]].abs().max() == 0
    assert MODEL.run(IDS, ["v.1"], edits=edits.isolate("v.1", kv_head=1))["v.1"][:, :, 0].abs().max() == 0


def test_isolating_into_the_mean_and_running_the_prepared_edits_again():
    mean = MODEL.run(OTHERS, ["z.1"])["z.1"][:, 1:].flatten(0, 1).mean(0)
    stack = [edits.isolate("z.1", to="mean", over=OTHERS, head=h) for h in (0, 3)]
    run = MODEL.run(IDS, ["z.1"], edits=stack)
    close(run["z.1"][:, :, [1, 2]], mean[[1, 2]].expand(2, 9, 2, -1))
    again = MODEL.run(IDS, ["z.1"], edits=[*run.edits, edits.isolate("z.1", to=mean, head=1)])
    close(again["z.1"][:, :, 1], MODEL.run(IDS, ["z.1"])["z.1"][:, :, 1])
    close(MODEL.run(IDS, ["z.1"], edits=edits.from_json(edits.to_json(run.edits)))["z.1"], run["z.1"])
    with pytest.raises(errors.ClashingEdits, match="different things"):
        MODEL.run(IDS, edits=[edits.isolate("z.1", head=0), edits.isolate("z.1", to=mean, head=1)])
    with pytest.raises(errors.BadEdit, match="heads to keep"):
        edits.isolate("z.1")
    with pytest.raises(errors.UnknownHead):
        MODEL.run(IDS, edits=[edits.isolate("mlp_out.1", head=0)])


# ── aligned patches ─────────────────────────────────────────────────────────────────────────────────────────────


def test_patches_between_prompts_of_unequal_length():
    short = MODEL.run([OTHERS[0, :6].tolist()])
    source, plain = short["resid_pre.2"][0], MODEL.run(IDS)["resid_pre.2"]

    def run(**kwargs):
        return MODEL.run(IDS, edits=[edits.patch("resid_pre.2", short, **kwargs)])["resid_pre.2"]

    end, start = run(align="suffix"), run(align="prefix")
    close(end[:, 3:], source.expand(2, -1, -1))
    close(end[:, :3], plain[:, :3])
    close(start[:, :6], source.expand(2, -1, -1))
    close(start[:, 6:], plain[:, 6:])
    close(run(pos=[0, -1])[:, [0, 8]], source[[0, 5]].expand(2, -1, -1))
    close(run(align="suffix", pos=-1)[:, 8], source[5].expand(2, -1))
    close(run(align="suffix", pos=-1)[:, 7], plain[:, 7])
    each = run(align=[{8: 0}, {1: 5, 2: 4}])
    close(each[0, 8], source[0])
    close(each[1, [1, 2]], source[[5, 4]])
    close(each[1, 8], plain[1, 8])


def test_patches_aligned_by_named_positions():
    clean = PromptSet(
        (tuple(IDS[0].tolist()), tuple(IDS[1, :7].tolist())), positions={"S2": (4, 2), "end": (8, 6), "own": (0, 0)}
    )
    other = PromptSet(
        (tuple(OTHERS[0, :5].tolist()), tuple(OTHERS[1].tolist())), positions={"S2": (1, 7), "end": (4, 8)}
    )
    source, plain = MODEL.run(other)["resid_pre.1"], MODEL.run(clean)["resid_pre.1"]
    recorded = edits.patch("resid_pre.1", MODEL.run(other), align=(clean, other))
    for patch in (edits.patch("resid_pre.1", other, align=clean), recorded):
        run = MODEL.run(clean, edits=[patch])["resid_pre.1"]
        close(run[0, [4, 8]], source[0, [1, 4]])
        close(run[1, [2, 6]], source[1, [7, 8]])
        close(run[0, :4], plain[0, :4])
    with pytest.raises(errors.CannotAlign, match="in common"):
        MODEL.run(clean, edits=[edits.patch("resid_pre.1", PromptSet(other.prompts), align=clean)])
    with pytest.raises(errors.CannotAlign, match="PromptSet"):
        MODEL.run(clean, edits=[edits.patch("resid_pre.1", OTHERS, align=clean)])


def test_prompts_that_cannot_be_aligned():
    short = MODEL.run([OTHERS[0, :6].tolist()], ["pattern.1", "resid_pre.1"])
    for edit, error, words in [
        (edits.patch("resid_pre.1", short), errors.CannotAlign, "6 tokens"),
        (edits.patch("pattern.1", short, align="suffix"), errors.CannotAlign, "positions twice"),
        (edits.patch("resid_pre.1", OTHERS), errors.CannotAlign, "another number of prompts"),
        (edits.patch("resid_pre.1", short, align=[{0: 0}]), errors.CannotAlign, "for each prompt"),
        (edits.patch("resid_pre.1", short, pos=7), errors.UnknownPosition, "7 from 7"),
        (edits.patch("resid_pre.1", short, pos=-8), errors.UnknownPosition, "from -2"),
    ]:
        with pytest.raises(error, match=words):
            MODEL.run(IDS, edits=[edit])


# ── features ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_features_edit_keeps_the_error_term():
    d = dictionary()
    x = MODEL.run(IDS)["resid_pre.2"]
    a = d.encode(x)
    run = MODEL.run(IDS, edits=[edits.feature(d, 3, 0.0)])["resid_pre.2"]
    close(run, x - a[..., 3:4] * d.write[3])
    assert a[..., 3].abs().min() > 1e-3
    both = MODEL.run(IDS, edits=[edits.feature(d, [0, 4], 3.0, pos=2)])["resid_pre.2"]
    close(both[:, 2], x[:, 2] + 2 * a[:, 2, [0, 4]] @ d.write[[0, 4]])
    close(both[:, 3], x[:, 3])
    held = MODEL.run(IDS, edits=[edits.feature(d, 1, value=5.0)])["resid_pre.2"]
    close(held, x + (5.0 - a[..., 1:2]) * d.write[1])
    close(MODEL.run(IDS, edits=[edits.feature(d, 1, 1.0)]).logits, MODEL.run(IDS).logits)


def test_patching_one_feature():
    d, other = dictionary(), MODEL.run(OTHERS[:2])
    x, y = MODEL.run(IDS)["resid_pre.2"], other["resid_pre.2"]
    run = MODEL.run(IDS, edits=[edits.patch("resid_pre.2", other, feature=2, dictionary=d)])["resid_pre.2"]
    close(run, x + (d.encode(y) - d.encode(x))[..., 2:3] * d.write[2])
    assert (run - x).abs().max() > 1e-3


def test_features_that_are_not_there():
    d = dictionary()
    with pytest.raises(errors.DirectionError, match="0 to 5"):
        edits.feature(d, 6, 0.0)
    with pytest.raises(errors.BadEdit, match="one of the two"):
        edits.feature(d, 1)
    with pytest.raises(errors.BadEdit, match="feature= and dictionary="):
        edits.patch("resid_pre.2", IDS, feature=1)
    with pytest.raises(errors.WrongWidth):
        MODEL.run(IDS, edits=[edits.feature(d, 1, 0.0, site="mlp_post.1")])


# ── clashes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_edits_that_hold_one_entry_to_two_things_are_refused():
    a, b = MODEL.run(IDS), MODEL.run(OTHERS[:2])
    z = edits.patch("z.1", OTHERS[:2], head=1)
    for stack in [
        [edits.freeze("resid_pre.1"), edits.patch("resid_pre.1", b)],
        [edits.patch("resid_pre.1", a), edits.patch("resid_post.0", b)],
        [edits.freeze("patterns"), edits.ablate("pattern.2", "resample", over=OTHERS)],
        [edits.freeze("z.1", pos=-1), edits.patch("z.1", OTHERS[:2], head=1, pos=8)],
        [z, edits.scale("z.1", 0.5), edits.freeze("z", head=[1, 2])],
        [edits.patch("resid_pre.1", b, align={3: 3}), edits.freeze("resid_pre.1", pos=3)],
    ]:
        with pytest.raises(errors.ClashingEdits, match="the first would be lost"):
            MODEL.run(IDS, edits=stack)


def test_edits_that_compose_are_not_clashes():
    b, d = MODEL.run(OTHERS[:2]), dictionary()
    for stack in [
        [edits.freeze("resid_pre.1"), edits.ablate("resid_pre.1", pos=2)],
        [edits.ablate("z.1"), edits.freeze("z.1")],
        [edits.freeze("patterns"), edits.freeze("pattern.2")],
        [edits.patch("resid_pre.1", b), edits.patch("resid_pre.1", b, pos=3)],
        [edits.freeze("z.1", head=0), edits.patch("z.1", OTHERS[:2], head=1)],
        [edits.freeze("resid_pre.1", pos=3), edits.patch("resid_pre.1", b, pos=[4, -1])],
        [edits.patch("resid_pre.2", b, feature=f, dictionary=d) for f in (1, 2)],
        [edits.patch("resid_pre.1", b, align={3: 3}), edits.freeze("resid_pre.1", pos=4)],
    ]:
        assert len(MODEL.run(IDS, edits=stack).edits) == 2
    with pytest.raises(errors.ClashingEdits):
        MODEL.run(IDS, edits=[edits.patch("resid_pre.2", x, feature=1, dictionary=d) for x in (b, MODEL.run(IDS))])
    apart = [edits.patch("resid_pre.2", x, feature=1, dictionary=d).prepare(MODEL) for x in (b, MODEL.run(IDS))]
    with pytest.raises(errors.ClashingEdits):  # also where each brings a copy of the dictionary from a file of its own
        MODEL.run(IDS, edits=[edits.from_json(edits.to_json([edit]))[0] for edit in apart])


# ── wrong types, as users meet them: without a type checker before the constructors ─────────────────────────────


WRONG = (
    [{"kind": "noise", "site": "embed", "sigma": "loud"}, {"kind": "noise", "site": "embed", "sigma": -1.0},
     {"kind": "noise", "site": "embed", "sigma": 1.0, "seed": 1.5}, {"kind": "noise", "site": "embed", "sigma": 1.0, "seed": -1},
     {"kind": "clamp", "site": "embed", "direction": "north", "value": 1.0},
     {"kind": "clamp", "site": "embed", "value": None}, {"kind": "feature", "site": "embed", "index": [0], "scale": 1.0},
     {"kind": "patch", "site": "embed"}, {"kind": "resample", "site": "embed", "seed": 0},
     {"kind": "patch", "site": "embed", "source": {}, "align": "middle"},
     {"kind": "patch", "site": "embed", "source": {}, "align": {"a": 1}},
     {"kind": "isolate", "site": "z.1", "to": 3, "head": [1]}, {"kind": "ablate", "site": "z.1", "to": 3}]
)  # fmt: skip
AS_USERS_RUN = """
import numpy, torch
from residscope import edits, errors
for entry in ENTRIES:
    try:
        edits.from_dict(entry)
    except errors.ResidscopeError as error:
        assert "does not parse" not in str(error), error
    else:
        raise SystemExit(f"taken: {entry}")
assert edits.scale("z.1", numpy.float32(0.5)).factor == 0.5
assert edits.noise("z.1", torch.tensor(2.0)).sigma == 2.0
print("typed")
"""


def test_parts_of_the_wrong_type_are_typed_errors_and_any_number_is_a_number():
    code = AS_USERS_RUN.replace("ENTRIES", repr(WRONG))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "typed\n", done.stderr[-500:]
