"""What edits along directions promise of the value after them, over reads and writes drawn at random and over degenerate ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from methods.clouds import cloud, fitted
from residscope import edits, errors
from residscope.edits.moves import LEAST
from residscope.engine.model import Model
from residscope.probes.concepts import leace_eraser
from tiny_models import tiny_llama

MODEL, SITE, D = Model(tiny_llama(), name="llama"), "resid_pre.2", 32
IDS = torch.randint(2, 97, (2, 7), generator=torch.Generator().manual_seed(3))
PLAIN = MODEL.run(IDS)[SITE]


def drawn(seed, n=1):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)).double()


def direction(read, write, **facts):
    return rs.Direction(read, write, SITE, **facts)


def after(*stack):
    return MODEL.run(IDS, [SITE], edits=list(stack))[SITE]


def reachable(R, W):
    """By brute force: whether for each unit of what R reads some multiples of W's rows take exactly that away."""
    R, W = (x / x.norm(dim=1, keepdim=True) for x in (R, W))
    wanted = R.T  # each axis of x in turn
    found = torch.linalg.lstsq((W @ R.T).T, wanted.T, driver="gelsd").solution
    return float(((W @ R.T).T @ found - wanted.T).abs().max())


def zeroed(pairs):
    """The least that each read is brought to, relative to the lengths of what was multiplied; None where it is refused."""
    try:
        edit = edits.project_out(SITE, [direction(r, w) for r, w in pairs])
    except errors.ZeroDirection:
        return None
    x = after(edit)
    assert (after(edit, edit) - x).abs().max() <= 1e-9 * x.norm(dim=-1).max()
    return max(float(((x @ r).abs() / (r.norm() * x.norm(dim=-1))).max()) for r, _ in pairs)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6), st.floats(-3, 3))
def test_projecting_out_zeroes_every_read_whatever_they_write(n, seed, size):
    R, W = drawn(seed, n) * 10**size, drawn(seed + 1, n) + drawn(seed, n) / 4
    assert zeroed(list(zip(R, W, strict=True))) < 1e-9
    inverse = torch.linalg.inv(W @ R.T)  # and it is the move that the docs say
    expected = PLAIN - PLAIN @ R.T @ inverse @ W
    edit = edits.project_out(SITE, [direction(r, w) for r, w in zip(R, W, strict=True)])
    torch.testing.assert_close(after(edit), expected, atol=1e-7, rtol=1e-7)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["read", "write", "both"]),
    st.floats(-14, 0) | st.just(-300.0),
    st.integers(0, 2),
    st.sampled_from([1.0, -3.0, 1e-4]),
)
def test_a_singular_set_is_refused_or_keeps_its_promise(seed, which, near, more, times):
    """Two directions that agree, to a part in 10^-near, in what they read or write or both; perhaps others beside them."""
    (r1, w1), (r2, w2) = drawn(seed, 2), drawn(seed + 1, 2)
    w1, w2 = w1 + r1, w2 + r2
    if which in ("read", "both"):
        r2 = times * (r1 + 10**near * drawn(seed + 2)[0])
    if which in ("write", "both"):
        w2 = times * (w1 + 10**near * drawn(seed + 3)[0])
    pairs = [(r1, w1), (r2, w2), *((x, x) for x in drawn(seed + 4, more))]
    left = zeroed(pairs)
    if left is not None:
        assert left < 10 * LEAST
    if which == "write" and near < -8:
        assert left is None  # one move cannot zero two reads
    if which == "both" and near < -8:
        assert left is not None  # one direction, named twice
    if which == "read" and near < -8:
        assert left is not None
        assert reachable(*(torch.stack(x) for x in zip(*pairs, strict=True))) < 1e-4


def test_the_case_that_was_passed_over():
    read, other, write = drawn(0)[0], drawn(1)[0], drawn(2)[0]
    with pytest.raises(errors.ZeroDirection, match=r"cannot bring all that they read to zero.*cosine"):
        edits.project_out(SITE, [direction(read, write), direction(other, write)])
    same = edits.project_out(SITE, [direction(read, write), direction(read, write), direction(-2 * read, 3 * write)])
    torch.testing.assert_close(after(same), after(edits.project_out(SITE, direction(read, write))))
    with pytest.raises(errors.WrongWidth, match="several widths"):
        edits.project_out(SITE, [read, drawn(1)[0][:5]])


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10**6), st.floats(-5, 5), st.floats(-2, 2), st.sampled_from(["raw", "centred"]), st.floats(0.1, 9)
)
def test_clamping_and_steering_by_sd_do_to_the_coordinate_what_they_say(seed, value, offset, space, scale):
    d = direction(drawn(seed)[0], drawn(seed + 1)[0], offset=offset, space=space, scale=scale)
    cosine = float(d.read @ d.write / (d.read.norm() * d.write.norm()))
    shift = offset if space == "centred" else 0.0
    tolerance = 1e-9 * (1 + abs(value * scale)) / abs(cosine)
    clamped = after(edits.clamp(SITE, d, value)) @ d.read - shift
    torch.testing.assert_close(clamped, torch.full_like(clamped, value), atol=tolerance, rtol=0)
    moved = (after(edits.steer(SITE, d, value, unit="sd")) - PLAIN) @ d.read
    torch.testing.assert_close(moved, torch.full_like(moved, value * scale), atol=tolerance, rtol=0)
    along = (after(edits.steer(SITE, d, value)) - PLAIN) @ d.write / d.write.norm()
    torch.testing.assert_close(along, torch.full_like(along, value), atol=1e-9, rtol=0)


def test_vectors_that_are_none_are_refused():
    for vector in (
        torch.zeros(D),
        torch.full((D,), torch.inf),
        torch.full((D,), torch.nan),
        torch.zeros(D, dtype=torch.int64),
    ):
        for make in (edits.project_out, lambda s, v: edits.steer(s, v, 1.0), lambda s, v: edits.clamp(s, v, 1.0)):
            with pytest.raises(errors.ZeroDirection):
                make(SITE, vector)
    for vector in (
        torch.ones(2, D),
        torch.ones(()),
        torch.ones(D, dtype=torch.complex64),
        torch.ones(D, dtype=torch.bool),
    ):
        for make in (edits.project_out, lambda s, v: edits.steer(s, v, 1.0), lambda s, v: edits.clamp(s, v, 1.0)):
            with pytest.raises(errors.WrongWidth):
                make(SITE, vector)
    whole = torch.arange(D)  # whole numbers are a vector as well
    assert (after(edits.project_out(SITE, whole)) @ whole.double()).abs().max() < 1e-9
    half = drawn(1)[0].half() * 1000  # whose length is over what its dtype holds
    assert (after(edits.project_out(SITE, half)) @ half.double()).abs().max() < 1e-6
    for facts in ({"scale": 0.0}, {"scale": 1.0, "space": "lens"}):
        with pytest.raises(errors.BadEdit, match="standard deviation"):
            edits.steer(SITE, direction(drawn(1)[0], drawn(1)[0], **facts), 1.0, unit="sd")
    for facts in ({"offset": float("nan")}, {"scale": float("inf")}):
        with pytest.raises(errors.DirectionError, match="finite number"):
            direction(drawn(1)[0], drawn(1)[0], **facts)


def dictionary(seed, **facts):
    return rs.Dictionary("some", SITE, drawn(seed, 5), drawn(seed + 1, 5), drawn(seed + 2)[0], **facts)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True), st.floats(-3, 3))
def test_features_move_by_what_their_coefficients_change_and_nothing_else(seed, index, number):
    d = dictionary(seed)
    a = (PLAIN - d.mean) @ d.read.T
    scaled = PLAIN + (number - 1) * a[..., index] @ d.write[index]
    torch.testing.assert_close(after(edits.feature(d, index, number)), scaled, atol=1e-8, rtol=1e-8)
    held = PLAIN + (number - a[..., index]) @ d.write[index]
    torch.testing.assert_close(after(edits.feature(d, index, value=number)), held, atol=1e-8, rtol=1e-8)
    there = MODEL.run(IDS.flip(1))[SITE]
    taken = PLAIN + ((there - d.mean) @ d.read.T - a)[..., index] @ d.write[index]
    patch = edits.patch(SITE, {SITE: there}, feature=index, dictionary=d)
    torch.testing.assert_close(after(patch), taken, atol=1e-8, rtol=1e-8)


def test_features_named_twice_or_in_the_lens_space_are_refused():
    for make in (
        lambda d, i: edits.feature(d, i, 0.0),
        lambda d, i: edits.patch(SITE, IDS, feature=i, dictionary=d),
    ):
        with pytest.raises(errors.BadEdit, match="named twice"):
            make(dictionary(1), [2, 2])
        with pytest.raises(errors.BadEdit, match="lens"):
            make(dictionary(1, space="lens"), 2)


def test_patching_a_feature_of_a_run_into_itself_changes_nothing_in_half_precision():
    half = Model(tiny_llama().bfloat16(), name="half")
    run = half.run(IDS, ["logits", SITE])
    d = rs.Dictionary("some", SITE, drawn(1, 5).float(), drawn(2, 5).float(), drawn(3)[0].float())
    again = half.run(IDS, ["logits"], edits=edits.patch(SITE, run, feature=[0, 3], dictionary=d))
    assert torch.equal(again.logits, run.logits)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_concepts_read_after_projecting_out_what_they_are_told(classes, seed):
    probe, (x, _) = fitted(classes, n=40 * classes, d=9, seed=seed), cloud(classes, 30, 9, seed=seed + 1)
    normals = probe.weights - probe.weights.mean(0)
    for target, told in ((-1, probe.mean), (0, probe.class_means[0])):
        moved = rs.concepts.project_out(probe).moved(x, torch.full((30,), target), None)
        reads = moved @ normals.T
        torch.testing.assert_close(reads, (told @ normals.T).expand_as(reads), atol=1e-7, rtol=1e-7)


def test_an_erasure_that_leaves_the_label_is_refused():
    covariance, cross = (
        torch.diag(torch.tensor([1.0, 2.0, 0.0])).double(),
        torch.tensor([[1.0, 0, 0], [-1, 0, 0]]).double(),
    )
    read, write = leace_eraser(covariance, cross)
    assert (cross - cross @ read.T @ write).abs().max() < 1e-12
    with pytest.raises(errors.SingularCovariance, match="do not vary"):
        leace_eraser(covariance, cross + torch.tensor([[0, 0, 0.5], [0, 0, -0.5]]).double())


# ── a named position that a prompt lacks ────────────────────────────────────────────────────────────────────────

ROWS = tuple(map(tuple, IDS.tolist()))
LACKING = rs.PromptSet(
    ROWS, positions={"S2": (4, None), "END": (6, 6)}, answers=((5, 6), (7, 8)), labels={"k": ("a", "b")}
)
MANY = LACKING.subset([0, 1] * 8)
WHOLE = rs.PromptSet(
    tuple(row[::-1] for row in ROWS), positions={"S2": (1, 2), "END": (6, 6)}, answers=((5, 6), (7, 8))
)


def test_a_position_that_a_prompt_lacks_is_refused_by_its_name_and_the_prompts_number():
    m = rs.logit_diff()
    for what, words in [
        (lambda: MODEL.run(LACKING, edits=edits.patch(SITE, WHOLE, align=LACKING)), "run's prompts.*S2.*prompt 1"),
        (lambda: MODEL.run(WHOLE, edits=edits.patch(SITE, LACKING, align=WHOLE)), "source's prompts.*S2.*prompt 1"),
        (lambda: MODEL.run(WHOLE, edits=edits.patch(SITE, MODEL.run(LACKING), align=(WHOLE, LACKING))), "S2.*prompt 1"),
        (lambda: MODEL.run(LACKING, edits=edits.path("z.0", "q.2", WHOLE, align=LACKING)), "S2.*prompt 1"),
        (lambda: rs.activation_patching(MODEL, LACKING, WHOLE, m, positions=["END", "S2"]), "S2.*prompt 1"),
        (lambda: rs.ablation_sweep(MODEL, LACKING, m, site="mlp_out", positions=["S2"]), "S2.*prompt 1"),
        (lambda: rs.fit_probe(MODEL, MANY, site=SITE, position="S2", label="k"), "S2.*prompt 1"),
        (lambda: rs.probe_sweep(MODEL, MANY, label="k", positions=["S2"]), "S2.*prompt 1"),
        (lambda: MODEL.run(LACKING, edits=rs.concepts.leace(at_s2())), "S2.*prompt 1"),
    ]:
        with pytest.raises(errors.UnknownPosition, match=words):
            what()
    ends = {"END": LACKING.positions["END"]}
    run = MODEL.run(
        rs.PromptSet(ROWS, positions=ends), edits=edits.patch(SITE, WHOLE, align=rs.PromptSet(ROWS, positions=ends))
    )
    torch.testing.assert_close(run[SITE][:, 6], MODEL.run(WHOLE)[SITE][:, 6])


def at_s2():
    from dataclasses import replace

    return replace(fitted(d=D, n=160), position="S2", label="k", classes=("a", "b"))
