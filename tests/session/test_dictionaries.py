"""A run in a dictionary's coordinates, mixes over dictionaries, inner products: each against the definition."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

import residscope as rs
from residscope.directions import Dictionary, mix, unembedding_rows
from residscope.errors import BadEdit, DirectionError, MalformedJSON, NotFound, UnknownSite, WrongWidth, ZeroDirection
from residscope.session import Session
from session import worlds
from session.test_fit import BOTH, TEXT, fit
from tiny_models import tiny_llama

PCA1, PCA3, WORDS = "pca@resid_post.1", "pca@resid_post.3", "unembedding@resid_post.3"
HEAD = {"method": "pca", "site": "z.2", "head": 1, "corpus": TEXT, "tokens": 1000, "n": 4}
NEURONS = {"method": "nmf", "site": "mlp_post.2", "corpus": TEXT, "tokens": 1000, "n": 3, "clip": True}
TOKENS = {"method": "unembedding-rows", "tokens": ["x", "y"]}
PROMPT = "hello there"


@pytest.fixture
def rich(live: Session) -> Session:
    """Shipped components, and some of other kinds, places and widths."""
    live.intent("set_prompt", {"text": PROMPT})
    for recipe in (
        HEAD,
        NEURONS,
        TOKENS,
        {**HEAD, "site": "result.2"},
        {**HEAD, "method": "svd", "site": "attn_out.1", "head": None},
    ):
        assert len(fit(live, **recipe)) == 1
    return live


def coef(session: Session, id: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    data = session.reads.coef(session.state.edited or session.state.baseline, dictionary=id)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return load(data), {name: json.loads(value) for name, value in header.items()}


def term(dictionary: str, index: int, weight: float) -> dict[str, Any]:
    return {"dictionary": dictionary, "index": index, "weight": weight}


def mixed(*terms: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "mix", "terms": list(terms), **more}


def dictionary(session: Session, id: str) -> Dictionary:
    return session.state.model.dictionary(id)


# ── coef ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_dictionary_of_the_stream_s_width_is_read_against_the_stream(rich: Session) -> None:
    model = rich.state.model.model
    record = model.run(PROMPT, ["resid_pre.0", "resid_post"])
    rows = torch.stack([record["resid_pre.0"][0], *record.stack("resid_post")[:, 0]]).float()
    means = torch.stack([dictionary(rich, f"pca@{site}").mean for site in worlds.components(model)])
    for id, row in ((PCA1, 2), ("pca@resid_pre.0", 0), ("svd@attn_out.1", None), ("pca@result.2.h1", None)):
        got, about = coef(rich, id)
        read = dictionary(rich, id).read
        torch.testing.assert_close(got["coef"], rows @ read.T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got["offset"], means @ read.T, atol=1e-4, rtol=1e-4)
        assert about == {"rows": ["embed", *(f"resid_post.{i}" for i in range(4))], "fitted_row": row}
    own, _ = coef(rich, PCA1)
    centred = own["coef"][2] - own["offset"][2]
    torch.testing.assert_close(centred, dictionary(rich, PCA1).encode(rows[2]), atol=1e-4, rtol=1e-4)
    at_mean = means[2] @ dictionary(rich, PCA1).read.T
    torch.testing.assert_close(at_mean - own["offset"][2], torch.zeros(3), atol=1e-5, rtol=0), "white is the mean"


@pytest.mark.parametrize("id", ["pca@z.2.h1", "nmf@mlp_post.2"])
def test_one_of_another_width_is_read_in_every_layer_edits_done(rich: Session, id: str) -> None:
    held = dictionary(rich, id)
    name = held.site.split(".")[0]

    def rows() -> torch.Tensor:
        state = rich.state
        found = state.world().made(state.active)
        record = state.model.model.run(PROMPT, [name], edits=found)
        values = [record[f"{name}.{layer}"][0] for layer in range(4)]
        return torch.stack([x if held.head is None else x[:, held.head] for x in values]).float()

    got, about = coef(rich, id)
    torch.testing.assert_close(got["coef"], rows() @ held.read.T, atol=1e-4, rtol=1e-4)
    assert about == {"rows": [f"{name}.{layer}" for layer in range(4)], "fitted_row": 2}
    known = got["offset"].isfinite().all(1).tolist()
    assert known == ([False, False, True, False] if held.name == "pca" else [False] * 4)
    if held.name == "pca":
        torch.testing.assert_close(got["coef"][2] - got["offset"][2], held.encode(rows()[2]), atol=1e-4, rtol=1e-4)
    rich.intent("add_edit", {"edit": {"kind": "scale", "site": "resid_pre.1", "factor": 0.5}})
    assert rich.wait(60)
    edited, _ = coef(rich, id)
    torch.testing.assert_close(edited["coef"], rows() @ held.read.T, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(edited["coef"][1:], got["coef"][1:], atol=1e-2)
    assert torch.equal(edited["coef"][0], got["coef"][0])


def test_tokens_are_read_as_the_logits_of_the_wire(rich: Session) -> None:
    """coef is the lens' logit, and its difference less the mean's share that of the query `logits`."""
    got, _ = coef(rich, "unembedding@resid_post.3")
    assert got["sigma"].shape == got["coef"].shape[:2]
    model = rich.state.model.model
    x, y = model.token_id("x"), model.token_id("y")
    want = load(rich.reads.logits(rich.state.baseline, positive=x, negative=y))
    torch.testing.assert_close(got["coef"][..., 0] - got["coef"][..., 1], want["value"], atol=1e-4, rtol=1e-4)
    share = (got["offset"][:, 0] - got["offset"][:, 1])[:, None] / got["sigma"]
    torch.testing.assert_close(share, want["offset"], atol=1e-4, rtol=1e-4)
    logits = model.run(PROMPT, ["logits"]).logits[0].float()
    torch.testing.assert_close(got["coef"][-1], logits[:, [x, y]], atol=1e-4, rtol=1e-4)


def test_the_mean_is_that_of_the_text_the_dictionary_was_fitted_on(rich: Session) -> None:
    mine = [row["id"] for row in fit(rich, method="pca-stream", corpus=TEXT, tokens=1000, n=4)]
    assert mine[2] == "pca@resid_post.1#2"
    for id, means in ((mine[2], mine), (PCA1, [f"pca@{dictionary(rich, each).site}" for each in mine])):
        got, _ = coef(rich, id)
        want = torch.stack([dictionary(rich, each).mean for each in means]) @ dictionary(rich, id).read.T
        torch.testing.assert_close(got["offset"], want, atol=1e-4, rtol=1e-4)


def test_two_compared_texts_have_a_mean_where_there_is_no_other(rich: Session) -> None:
    fit(rich, method="mean-difference", site="mlp_out.2", corpora=BOTH, tokens=1000)
    means = rich.state.model.means
    assert means.knower("mlp_out.2", None) is not None
    assert means.knower("mlp_out.1", None) is None
    fit(rich, method="mean-difference", site="resid_post.1", corpora=BOTH, tokens=1000)
    assert rich.state.model.means.knower("resid_post.1", None)[0] == PCA1


def test_the_embedding_is_the_first_row_unless_positions_are_added_to_it(rich: Session) -> None:
    (row,) = fit(rich, method="svd", site="embed", corpus=TEXT, tokens=1000, n=2)
    _, about = coef(rich, row["id"])
    rotary = "pos_embed" in rich.state.model.model.sites.absent
    assert about["fitted_row"] == (0 if rotary else None)


def test_a_change_of_dictionary_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page fetches when another layer's components are chosen: SmolLM2's 31 rows, 64 tokens, 28 or 30 directions."""
    deep = rs.load((tiny_llama(layers=30), worlds.tokenizer()))
    monkeypatch.setattr("residscope.world.loaded.shipped", lambda model: {})
    with worlds.session(deep) as session:
        session.intent("set_prompt", {"text": "n" * 64})
        assert session.wait(60)
        for n, most in ((28, 230_000), (30, 250_000)):
            found = fit(session, method="pca-stream", corpus=TEXT, tokens=1000, n=n)
            data = session.reads.coef(session.state.baseline, dictionary=found[24]["id"])
            assert load(data)["coef"].shape == (31, 64, n)
            assert len(data) < most
            assert len(data) > 31 * 64 * n * 4, "nothing is left out"


def test_unknown_dictionaries_and_runs(rich: Session) -> None:
    with pytest.raises(NotFound, match="no dictionary"):
        rich.reads.coef(rich.state.baseline, dictionary="pca@nowhere")
    for id in (PCA1, "pca@z.2.h1"):
        with pytest.raises(NotFound, match="run"):
            rich.reads.coef("r999", dictionary=id)


# ── gram ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_gram_matrix_gives_lengths_and_cosines_of_mixes(rich: Session) -> None:
    vector = torch.linspace(-1, 2, 32)
    rich.import_direction(save({"read": vector}, metadata={"name": "mine", "site": "resid_post.0"}))
    found = rich.reads.gram([PCA1, "saved:mine", "svd@attn_out.1"])
    assert found["of"] == [
        [PCA1, 0],
        [PCA1, 1],
        [PCA1, 2],
        ["saved:mine", 0],
        *(["svd@attn_out.1", i] for i in range(4)),
    ]
    reads = torch.cat([dictionary(rich, PCA1).read, vector[None], dictionary(rich, "svd@attn_out.1").read]).double()
    gram = torch.tensor(found["gram"], dtype=torch.float64)
    torch.testing.assert_close(gram, reads @ reads.T, atol=1e-6, rtol=1e-6)
    weights = torch.tensor([0.5, 0, -1, 2, 0, 0, 1, 0], dtype=torch.float64)
    ref = mixed(
        term(PCA1, 0, 0.5), term(PCA1, 2, -1.0), {"saved": "mine", "weight": 2.0}, term("svd@attn_out.1", 2, 1.0)
    )
    unit = rich.reads.resolve(ref)[0].read.double()
    torch.testing.assert_close(unit, weights @ reads / (weights @ gram @ weights).sqrt(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(reads @ unit, gram @ weights / (weights @ gram @ weights).sqrt(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("of", "error"),
    [
        ([PCA1, "pca@z.2.h1"], WrongWidth),
        (["pca@nowhere"], NotFound),
        ([PCA1, "saved:none"], NotFound),
        ([PCA1] * 200, DirectionError),
    ],
)
def test_tables_that_cannot_be_made(rich: Session, of: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        rich.reads.gram(of)


# ── mixes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mix_is_the_weighted_sum_at_unit_length(rich: Session) -> None:
    ref = mixed(term(PCA1, 1, 0.7), term("svd@attn_out.1", 2, -0.5))
    found, _ = rich.reads.resolve(ref)
    total = 0.7 * dictionary(rich, PCA1).read[1] - 0.5 * dictionary(rich, "svd@attn_out.1").read[2]
    torch.testing.assert_close(found.read, total / total.norm())
    assert (found.name, found.site) == ("0.7 PC 1 of resid_post.1 - 0.5 SV 2 of attn_out.1", "resid_post.1")
    assert (found.space, found.offset, found.scale) == ("raw", 0.0, None)
    assert [part["weight"] for part in found.provenance["mix"]] == [0.7, -0.5]
    assert found.provenance["mix"][1]["of"]["dictionary"] == "svd"
    assert rich.reads.resolve({**ref, "site": "resid_mid.2"})[0].site == "resid_mid.2"
    told = rich.reads.read(ref)
    assert told["label"] == found.name
    assert "A mix of 2 directions" in told["about"]
    assert told["norm"] == pytest.approx(1, abs=1e-5)


def test_a_mix_of_one_dictionary_is_the_pca_ref_s(rich: Session) -> None:
    ref = {"kind": "pca", "site": "resid_post.1", "weights": {"0": 3.0, "1": 4.0}}
    same = mixed(term(PCA1, 0, 1.0), term(PCA1, 1, 4.0), term(PCA1, 0, 2.0), term(PCA1, 2, 0.0))
    (a, _), (b, _) = rich.reads.resolve(ref), rich.reads.resolve(same)
    assert torch.equal(a.read, b.read)
    assert (a.offset, a.scale, a.name) == (b.offset, b.scale, b.name)
    assert a.scale == pytest.approx((1.8**2 + 1.6**2) ** 0.5, rel=1e-6)
    assert a.name == "3 PC 0 of resid_post.1 + 4 PC 1"
    assert rich.reads.read(ref) == rich.reads.read(same)


def test_components_of_several_places_are_centred_at_the_mix_s_own(rich: Session) -> None:
    found, _ = rich.reads.resolve(mixed(term(PCA1, 0, 1.0), term(PCA3, 1, 1.0)))
    assert found.space == "centred"
    assert found.offset == pytest.approx(float(found.read @ dictionary(rich, PCA1).mean), abs=1e-5)
    moved, _ = rich.reads.resolve(mixed(term(PCA1, 0, 1.0), term(PCA3, 1, 1.0), site="resid_post.3"))
    assert moved.offset == pytest.approx(float(found.read @ dictionary(rich, PCA3).mean), abs=1e-5)
    assert abs(moved.offset - found.offset) > 0.05


def test_one_term_is_itself_in_its_own_units_and_of_more_the_deviation_is_known(rich: Session) -> None:
    (row,) = fit(rich, **{**HEAD, "site": "resid_post.1", "head": None, "standardise": True})
    held = dictionary(rich, row["id"])
    found, _ = rich.reads.resolve(mixed(term(row["id"], 1, -2.0)))
    length = float(held.read[1].norm())
    assert abs(length - 1) > 0.01, "the test needs a read vector that is not of length one"
    torch.testing.assert_close(found.read, -held.read[1])
    assert found.scale == pytest.approx(float(held.sd[1]), rel=1e-5)
    assert found.offset == pytest.approx(-float(held.read[1] @ held.mean), rel=1e-4)
    moved, _ = rich.reads.resolve(mixed(term(row["id"], 1, -2.0), site="resid_post.3"))
    torch.testing.assert_close(moved.read, -held.read[1] / length)
    two, _ = rich.reads.resolve(mixed(term(row["id"], 0, 1.0), term(row["id"], 1, 1.0)))
    length = float((held.read[0] + held.read[1]).norm())
    assert two.scale == pytest.approx(float(held.sd[:2].norm()) / length, rel=1e-4)


BAD: list[tuple[str, Any, type[Exception]]] = [
    ("no terms", mixed(), MalformedJSON),
    ("NaN", mixed(term(PCA1, 0, float("nan"))), MalformedJSON),
    ("infinity", mixed(term(PCA1, 0, float("inf"))), MalformedJSON),
    ("below zero", mixed(term(PCA1, -1, 1.0)), MalformedJSON),
    ("neither", mixed({"weight": 1.0}), MalformedJSON),
    ("both", mixed({"dictionary": PCA1, "index": 0, "saved": "x", "weight": 1.0}), MalformedJSON),
    ("zero", mixed(term(PCA1, 0, 0.0)), ZeroDirection),
    ("cancelling", mixed(term(PCA1, 0, 1.0), term(PCA1, 0, -1.0)), ZeroDirection),
    ("cancelling twins", mixed(term(WORDS, 0, 1.0), term(f"{WORDS}#2", 0, -1.0)), ZeroDirection),
    ("widths", mixed(term(PCA1, 0, 1.0), term("nmf@mlp_post.2", 0, 1.0)), WrongWidth),
    ("width of the site", mixed(term(PCA1, 0, 1.0), site="mlp_post.1"), WrongWidth),
    ("unknown site", mixed(term(PCA1, 0, 1.0), site="nowhere"), UnknownSite),
    ("unknown dictionary", mixed(term("pca@nowhere", 0, 1.0)), NotFound),
    ("unknown index", mixed(term(PCA1, 3, 1.0)), DirectionError),
    ("unknown saved", mixed({"saved": "none", "weight": 1.0}), NotFound),
]  # fmt: skip


@pytest.mark.parametrize(("ref", "error"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_mixes_that_are_refused(rich: Session, ref: Any, error: type[Exception]) -> None:
    fit(rich, **TOKENS)
    before = rich.snapshot()
    with pytest.raises(error):
        rich.reads.read(ref)
    with pytest.raises(error if error is not MalformedJSON else BadEdit):
        rich.intent("add_edit", {"edit": {"kind": "steer", "site": "resid_post.1", "strength": 1.0, "direction": ref}})
    assert rich.snapshot() == before


def test_spaces_that_differ_make_a_plain_dot_product(rich: Session) -> None:
    model = rich.state.model.model
    lens, centred = unembedding_rows(model, ["x", "y"]), dictionary(rich, PCA1)
    assert mix([(1, lens[0]), (-1, lens[1])]).space == "lens"
    assert mix([(1, lens[0]), (1, replace(centred[0], site=lens.site))]).space == "raw"
    difference = mix([(2, lens[0]), (-2, lens[1])])
    length = float((lens.read[0] - lens.read[1]).norm())
    x = model.run(PROMPT, ["resid_post.3", "logits"])
    logits = (
        x.logits[0].float() @ torch.nn.functional.one_hot(torch.tensor(lens.provenance["ids"]), worlds.VOCAB).T.float()
    )
    got = x.project(difference)[0]
    torch.testing.assert_close(got.float() * length, logits[:, 0] - logits[:, 1], atol=1e-3, rtol=1e-3)


# ── edits along them ────────────────────────────────────────────────────────────────────────────────────────────

ALONG = [
    ("steer", "mlp_post.1", None, mixed(term("nmf@mlp_post.2", 0, 1.0), term("nmf@mlp_post.2", 1, 0.5))),
    ("steer", "z.2", 1, mixed(term("pca@z.2.h1", 0, 1.0))),
    ("steer", "z.0", None, mixed(term("pca@z.2.h1", 0, 1.0))),
    ("project_out", "z.2", 3, mixed(term("pca@z.2.h1", 0, 1.0), term("pca@z.2.h1", 1, 1.0))),
    ("project_out", "mlp_post.2", None, mixed(term("nmf@mlp_post.2", 2, 1.0))),
    ("project_out", "resid_pre.2", None, mixed(term(PCA1, 0, 1.0), term("pca@result.2.h1", 0, -1.0))),
]


@pytest.mark.parametrize(("kind", "site", "head", "ref"), ALONG, ids=[f"{a[0]} at {a[1]} head {a[2]}" for a in ALONG])
def test_edits_along_directions_of_any_width(rich: Session, kind: str, site: str, head: int | None, ref: Any) -> None:
    strength = {"strength": 5.0} if kind == "steer" else {}
    edit = {"kind": kind, "site": site, "head": head, "direction": ref, **strength}
    rich.intent("add_edit", {"edit": edit})
    assert rich.wait(60)
    (shown,) = rich.snapshot()[1]["edits"]
    assert shown["error"] is None
    assert shown["delta"] != 0
    state = rich.state
    direction, _ = rich.reads.resolve(ref)
    record = state.model.model.run(PROMPT, [site], edits=state.world().made(state.active))
    clean = state.model.model.run(PROMPT, [site])
    moved = (record[site] - clean[site])[0].float()
    own = 1 if head is None and direction.head is not None else head
    if "head" in state.model.model.sites.parse(site).kind.axes:
        others = [h for h in range(4) if h != own]
        assert not moved[:, others].any(), "the other heads are as they were"
        moved, value = moved[:, own], record[site][0, :, own].float()
    else:
        value = record[site][0].float()
    if kind == "steer":
        torch.testing.assert_close(
            moved, (5 * direction.write / direction.write.norm()).expand_as(moved), atol=1e-4, rtol=1e-4
        )
    else:
        torch.testing.assert_close(value @ direction.read, torch.zeros(len(value)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        ({"site": "mlp_post.1", "direction": mixed(term(PCA1, 0, 1.0))}, WrongWidth),
        ({"site": "resid_post.1", "direction": mixed(term("pca@z.2.h1", 0, 1.0))}, WrongWidth),
        ({"site": "v.1", "direction": mixed(term("pca@z.2.h1", 0, 1.0))}, BadEdit),
        ({"site": "z.1", "direction": mixed(term("pca@z.2.h1", 0, 1.0), site="z.3")}, BadEdit),
    ],
)
def test_edits_that_lack_a_head_or_the_width(rich: Session, edit: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        rich.intent("add_edit", {"edit": {"kind": "steer", "strength": 1.0, **edit}})


def test_python_of_mixes_runs_as_pasted_and_gives_the_numbers(
    rich: Session, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import residscope
    from residscope import directions

    model = rich.state.model.model
    monkeypatch.setattr(residscope, "load", lambda name: model, raising=False)
    monkeypatch.setattr(directions, "shipped", worlds.components)
    vector = torch.linspace(-1, 2, 32)
    saved = {"name": "mine", "site": "resid_post.1", "space": "centred", "offset": "0.25", "scale": "2.0"}
    rich.import_direction(save({"read": vector}, metadata=saved))
    refs = [
        mixed(term(PCA1, 0, 0.5), term(PCA3, 1, -1.0), site="resid_post.0"),
        mixed(term(PCA1, 0, 1.0), {"saved": "mine", "weight": -0.5}),
        mixed(term(PCA1, 0, 3.0), term(PCA1, 2, 1.0)),
        mixed(term("pca@z.2.h1", 0, 1.0), term("pca@z.2.h1", 3, -1.0)),
        mixed(term("nmf@mlp_post.2", 0, 1.0), term("nmf@mlp_post.2", 1, 1.0)),
        mixed(term("unembedding@resid_post.3", 0, 1.0), term("unembedding@resid_post.3", 1, -1.0)),
        mixed(term("svd@attn_out.1", 1, -1.0)),
        {"kind": "saved", "name": "mine"},
    ]
    sites = [
        "resid_post.0",
        "resid_post.1",
        "resid_post.1",
        "z.1",
        "mlp_post.0",
        "resid_mid.2",
        "attn_out.1",
        "resid_pre.1",
    ]
    stack = [
        {"kind": "steer", "site": site, "direction": ref, "strength": 1.5, "unit": "sd" if i == 2 else "norm"}
        for i, (site, ref) in enumerate(zip(sites, refs, strict=True))
    ]
    rich.intent("set_edits", {"edits": [*stack, {"kind": "project_out", "site": "mlp_post.1", "direction": refs[4]}]})
    assert rich.wait(60)
    assert [edit["error"] for edit in rich.snapshot()[1]["edits"]] == [None] * 9
    run = next(run for run in rich.snapshot()[1]["runs"] if run["id"] == rich.state.edited)
    for ref in refs:
        code = rich.intent("python", {"direction": ref})["code"]
        found: dict[str, Any] = {}
        exec(compile(code, "pasted", "exec"), found)
        assert float(found["metric"](found["edited"])) == pytest.approx(run["metric"], abs=1e-4)
        direction, _ = rich.reads.resolve(ref)
        pasted = found["direction"]
        torch.testing.assert_close(pasted.read, direction.read, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pasted.write, direction.write, atol=1e-5, rtol=1e-5)
        assert (pasted.offset, pasted.site, pasted.space, pasted.head) == pytest.approx(
            (direction.offset, direction.site, direction.space, direction.head), abs=1e-4
        )
        assert pasted.scale == (None if direction.scale is None else pytest.approx(direction.scale, rel=1e-4))
        assert code.count("rs.pca(") <= 1, "each dictionary is fitted once"
    capsys.readouterr()
