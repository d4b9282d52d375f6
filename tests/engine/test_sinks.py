"""The one rule for what a statistic leaves out: padding, first tokens, attention sinks of each row by itself."""

import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from residscope.corpus.chunks import Chunk
from residscope.corpus.reading import Reader
from residscope.corpus.vectors import vectors_of
from residscope.engine.model import Model
from residscope.engine.recording_view import shown
from residscope.engine.sinks import kept
from residscope.methods._lib.activations import recorded
from residscope.methods.evidence.dose_response import prompt_moments
from tiny_models import tiny_llama

LOUD = 96  # a token whose embedding is far longer than the others'


def loud_llama():
    hf = tiny_llama()
    with torch.no_grad():
        weight = hf.model.embed_tokens.weight
        weight[LOUD] *= 4000 / weight[LOUD].norm()
    return Model(hf, name="loud")


MODEL = loud_llama()
token = st.integers(2, 95) | st.just(LOUD)
prompts = st.lists(st.lists(token, min_size=1, max_size=9), min_size=1, max_size=5)


def by_hand(rows, model=MODEL, around=("resid_pre.1",)):
    """Row by row, each by itself, in plain Python."""
    found = []
    for row in rows:
        good = [i > 0 for i in range(len(row))]
        for stream in around:
            length = [float((x * x).sum()) ** 0.5 for x in model.run([row], [stream])[stream][0]]
            rest = sorted(length[1:])
            usual = rest[(len(rest) - 1) // 2] if rest else 0.0
            good = [g and n <= 10 * usual for g, n in zip(good, length, strict=True)]
        found.append(good)
    return found


def as_lists(mask, rows):
    assert not any(mask[i, len(row) :].any() for i, row in enumerate(rows))
    return [mask[i, : len(row)].tolist() for i, row in enumerate(rows)]


@settings(max_examples=40, deadline=None)
@given(prompts, st.data())
def test_each_row_is_judged_by_itself(rows, data):
    site = data.draw(st.sampled_from(["resid_pre.1", "resid_post.0", "resid_mid.2", "mlp_out.1", "z.1", "final_norm"]))
    around = {"mlp_out.1": ("resid_pre.1", "resid_post.1"), "z.1": ("resid_pre.1", "resid_post.1"),
              "final_norm": ("resid_post.3",)}.get(site, (site,))  # fmt: skip
    record = MODEL.run(rows, [site])
    assert as_lists(kept(record, site), rows) == by_hand(rows, around=around)
    assert torch.equal(Chunk(0, record).keep(site), kept(record, site))


@settings(max_examples=30, deadline=None)
@given(st.lists(token, min_size=4, max_size=9), st.data())
def test_a_window_says_the_same_of_its_positions(row, data):
    pos, start = data.draw(st.integers(1, len(row) - 1)), data.draw(st.integers(0, 2))
    base = MODEL.run([row])
    for site in (f"z.{start}", "resid_post.2", "mlp_post.3"):
        window = MODEL.run([row], [site], window=rs.Window(base, start=start, pos=pos))
        assert torch.equal(kept(window, site), kept(MODEL.run([row], [site]), site)[:, pos:])


def test_every_user_leaves_out_the_same_tokens():
    """Fits, moments, probes' activations: a short row of loud tokens beside long quiet ones changes nothing."""
    rows = [
        [5, LOUD, 7, 8, 9, 10, 11, 12],
        [LOUD, 20, 21, 22, 23, 24, 25, LOUD],
        [30, LOUD, LOUD, LOUD, 33, LOUD, LOUD, LOUD],
    ]
    wanted = by_hand(rows, around=("resid_pre.2",))
    assert sum(map(sum, wanted)) == 6 + 6 + 7  # where most are loud, loud is usual
    batch = MODEL.batch(rows)
    assert prompt_moments(MODEL, batch, "resid_pre.2", None).count == 19
    positions = {f"P{i}": (i,) * 3 for i in range(8)}
    seen = recorded(MODEL, rs.PromptSet(tuple(map(tuple, rows)), positions=positions), ["resid_pre.2"], list(positions))
    for i in range(8):
        assert seen.kept["resid_pre.2", f"P{i}"].tolist() == [row[i] for row in wanted]
        assert seen.first["resid_pre.2", f"P{i}"].tolist() == [i == 0] * 3


def test_texts_read_together_do_not_decide_which_tokens_are_sinks(monkeypatch):
    """`vectors_of` used the median of the batch: a batch of loud rows made sinks usual."""
    rows = [[5, LOUD, *range(7, 15)]] + [[5, *[LOUD] * 9]] * 7
    monkeypatch.setattr(Reader, "batches", lambda *a, **k: iter([rows]))
    (together,) = (len(x) for found in vectors_of(MODEL, [], ["resid_pre.1"]) for x in found.values())
    apart = 0
    for row in rows:
        monkeypatch.setattr(Reader, "batches", lambda *a, row=row, **k: iter([[row]]))
        apart += sum(len(x) for found in vectors_of(MODEL, [], ["resid_pre.1"]) for x in found.values())
    assert together == apart == 8 + 7 * 9


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_it(name):
    model = Model(FAMILIES[name].build(), name=name)
    record = model.run([[5, 6, 7, 8], [9, 10]])
    for site in ("resid_post.0", "attn_out.1", "embed", "final_norm"):
        mask = kept(record, site)
        assert mask.shape == (2, 4)
        assert not mask[:, 0].any()
        assert not mask[1, 2:].any()


def test_smollm2_has_its_sink_at_position_0(smollm2):
    record = smollm2.run("When John and Mary went to the store, John gave a bottle of milk to", ["resid_pre.15"])
    assert kept(record, "resid_pre.15")[0].tolist() == [False] + [True] * (record.lengths[0] - 1)
    length = record["resid_pre.15"][0].norm(dim=-1)
    assert float(length[0]) > 50 * float(length[1:].median())


def test_a_recordings_picture_is_full_at_the_longest_usual_token():
    """First tokens and sinks are longer than any colour can say; what is full is said of the others, whatever their share."""
    rows = [[5, 9, LOUD, 7, 3, 8], [LOUD, 4, LOUD, 6, 2, 2]]
    record = MODEL.run(rows, ["resid_pre.1", "resid_post.2"])
    for row, usual in ((0, (1, 3, 4, 5)), (1, (1, 3, 4, 5))):
        lengths = [float(record[site][row, i].norm()) for site in ("resid_pre.1", "resid_post.2") for i in usual]
        assert shown(record, row).views[0].limit == pytest.approx(max(lengths), rel=1e-4)
    assert MODEL.run([[LOUD]], ["resid_pre.1"]).view().views[0].limit is None
