"""What the page reads of a run beside its values: its own tokens, the data-set mean's share, directions in words."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load

from residscope.directions import logit_diff
from residscope.session import Session
from session import worlds


def test_the_offset_of_the_logits_is_the_data_set_mean_s_share(live: Session) -> None:
    """value - offset = read . (x - mean_row) / sigma(x) + b, in float64 by hand."""
    live.intent("set_prompt", {"text": "hello there"})
    assert live.wait(60)
    loaded = live.state.model
    assert loaded is not None
    model, run = loaded.model, live.state.baseline
    record = model.run("hello there", ["resid_pre.0", "resid_post"])
    rows = torch.stack([record["resid_pre.0"][0], *record.stack("resid_post")[:, 0]]).double()
    means = torch.stack([d.mean for d in loaded.dictionaries.values()]).double()[:, None]
    x, y = model.token_id("x"), model.token_id("y")
    direction = logit_diff(model, x, y)
    sigma = model.final_scale(rows).squeeze(-1)
    read = direction.read.double()
    got = load(live.reads.logits(run, positive=x, negative=y))
    assert got["offset"].shape == got["value"].shape == (model.n_layers + 1, len("hello there"))
    torch.testing.assert_close(got["offset"].double(), means @ read / sigma, atol=1e-4, rtol=1e-4)
    centred = (got["value"] - got["offset"]).double()
    torch.testing.assert_close(centred, (rows - means) @ read / sigma + direction.offset, atol=1e-4, rtol=1e-4)
    assert centred.sub(got["value"]).abs().max() > 0.1, "the means of this test are not zero"


def test_where_no_mean_is_known_the_offset_is_not_a_number(one: Session) -> None:
    loaded = one.state.model
    assert loaded is not None
    some = {id: d for id, d in loaded.dictionaries.items() if d.site in ("resid_post.1", "resid_pre.0")}
    for dictionaries, known in ((some, {0, 2}), ({}, set())):
        found = replace(loaded, dictionaries=dictionaries).row_means
        assert found.shape == (loaded.model.n_layers + 1, loaded.model.d_model)
        assert {row for row, mean in enumerate(found) if mean.isfinite().all()} == known
        assert all(mean.isnan().all() for row, mean in enumerate(found) if row not in known)


def test_the_runs_on_screen_carry_their_own_tokens(one: Session) -> None:
    first = one.state.baseline
    one.intent("set_prompt", {"text": "other"})
    assert one.wait(60)
    second = one.state.baseline

    def tokens() -> dict[str, str | None]:
        runs = one.snapshot()[1]["runs"]
        texts = {run["id"]: run["tokens"] and "".join(token["text"] for token in run["tokens"]) for run in runs}
        return {id: text for id, text in texts.items() if id in (first, second)}

    assert tokens() == {first: None, second: "other"}
    one.intent("compare_run", {"run": first})
    assert tokens() == {first: "a small prompt", second: "other"}
    shown = next(run for run in one.snapshot()[1]["runs"] if run["id"] == second)
    assert shown["tokens"] == one.snapshot()[1]["prompt"]["tokens"]
    one.intent("compare_run", {"run": None})
    assert tokens() == {first: None, second: "other"}


ABOUT = [
    (
        {"kind": "pca", "site": "resid_post.1", "weights": {"2": 1.0, "0": 0.0}},
        "Component 2 of resid_post.1, fitted on noise. Centred: its data-set mean counts as zero.",
    ),
    (
        {"kind": "pca", "site": "resid_post.1", "weights": {"0": 1.0, "2": -1.0}},
        "A mix of components 0, 2 of resid_post.1, fitted on noise. Centred: its data-set mean counts as zero.",
    ),
    (
        {"kind": "logit_diff", "positive": "x", "negative": "y"},
        "How much higher the logit of 'x' is than that of 'y', read through the final norm at every layer: "
        "exact at the last, a lens before it.",
    ),
    (
        {"kind": "token", "token": "x"},
        "The logit of 'x', read through the final norm at every layer: exact at the last, a lens before it.",
    ),
]


@pytest.mark.parametrize(("ref", "about"), ABOUT, ids=["component", "mix", "answers", "token"])
def test_directions_are_told_in_plain_words(one: Session, ref: dict[str, object], about: str) -> None:
    assert one.reads.read(ref)["about"] == about


def test_the_text_components_were_fitted_on_has_its_name(one: Session) -> None:
    from residscope.world.read import describe
    from residscope.world.session_world import SessionWorld
    from residscope.world.stack import parse_ref

    loaded = one.state.model
    assert loaded is not None
    named = {
        f"pca@{site}": replace(d, provenance={"corpus": "python-docs and english"})
        for site, d in worlds.components(worlds.model()).items()
    }
    ref = parse_ref({"kind": "pca", "site": "resid_post.1", "weights": {"1": 1.0}})
    told = describe(ref, SessionWorld(replace(loaded, dictionaries=named)))["about"]
    assert "fitted on Python docs and English prose." in told
