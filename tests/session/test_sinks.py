"""The attention sinks that the page marks: the engine's own, at every row, for a run and for a page of prompts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

import residscope as rs
from residscope.directions import Dictionary
from residscope.engine.sinks import kept
from residscope.session import compute
from residscope.session.read import prompt_page
from residscope.session.read.prompt_page import Page, record
from residscope.world.loaded import Loaded
from residscope.world.session_world import SessionWorld
from session import worlds
from tiny_models import tiny_llama

LOUD = "~"  # its embedding is far longer than the others'


def loud() -> Loaded:
    hf, tokenizer = tiny_llama(), worlds.tokenizer()
    with torch.no_grad():
        weight = hf.model.embed_tokens.weight
        at = tokenizer.convert_tokens_to_ids(LOUD)
        weight[at] *= 4000 / weight[at].norm()
    return Loaded.of(rs.load((hf, tokenizer)))


LOADED = loud()
MODEL = LOADED.model
ROWS = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(MODEL.n_layers))]
texts = st.text("abcdefg" + LOUD, min_size=1, max_size=9).filter(str.strip)


def by_hand(ids: list[int], around: tuple[str, ...]) -> list[int]:
    """In plain Python: 1 where a token's stream is over ten times the median of the prompt's but the first."""
    found = [0] * len(ids)
    for stream in around:
        length = [float((x.double() ** 2).sum()) ** 0.5 for x in MODEL.run([ids], [stream])[stream][0]]
        rest = sorted(length[1:])
        if rest:
            usual = rest[(len(rest) - 1) // 2]
            found = [mark or int(n > 10 * usual) for mark, n in zip(found, length, strict=True)]
    return found


def dictionary(site: str, head: int | None = None) -> Dictionary:
    d = MODEL.sites.width(MODEL.sites.parse(site))
    read = torch.eye(d)[:2]
    return Dictionary("made up", site, read, read, torch.zeros(d), head=head, space="raw")


def sink_of(text: str) -> torch.Tensor:
    """The mask that the page is sent of a run."""
    held = compute.forward(SessionWorld(LOADED), LOADED.prompt(text), (), LOADED.model)
    return load(compute.stream(held, LOADED, held.next.all()))["sink"]


def never(done: int = 0) -> None:
    """Nobody else wants the model."""


@settings(max_examples=25, deadline=None)
@given(texts)
def test_the_page_s_mask_is_the_engine_s(text: str) -> None:
    prompt = LOADED.prompt(text)
    ids = list(prompt.ids)
    held = compute.forward(SessionWorld(LOADED), prompt, (), LOADED.model)
    expected = [by_hand(ids, (row,)) for row in ROWS]
    sink = load(compute.stream(held, LOADED, held.next.all()))["sink"]
    assert (sink.dtype, sink.tolist()) == (torch.uint8, expected)
    assert load(compute.coef(held, LOADED, dictionary("resid_post.1")))["sink"].tolist() == expected
    recording = MODEL.run([ids], ROWS)
    for row, site in enumerate(ROWS):
        left_out = ~kept(recording, site)[0]
        assert torch.equal(sink[row, 1:].bool(), left_out[1:])


@settings(max_examples=10, deadline=None)
@given(texts)
def test_inside_a_block_it_is_the_stream_around_it(text: str) -> None:
    prompt = LOADED.prompt(text)
    held = compute.elsewhere(SessionWorld(LOADED), prompt, (), LOADED.model, site="z", head=1)
    expected = [by_hand(list(prompt.ids), (f"resid_pre.{i}", f"resid_post.{i}")) for i in range(MODEL.n_layers)]
    assert load(compute.coef(held, LOADED, dictionary("z.1", head=1)))["sink"].tolist() == expected


@settings(max_examples=10, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_on_a_page_each_prompt_is_judged_by_itself(written: list[str]) -> None:
    prompts = [LOADED.prompt(text) for text in written]
    page = Page("p1", record(LOADED, prompts, turn=never), ())
    for row, site in enumerate(ROWS):
        expected = [mark for prompt in prompts for mark in by_hand(list(prompt.ids), (site,))]
        for found in (
            prompt_page.coef(page, LOADED, dictionary("resid_post.0"), row, turn=never),
            prompt_page.logits(page, LOADED, positive=5, negative=9, row=row),
        ):
            assert load(found)["sink"].tolist() == expected
    expected = [mark for p in prompts for mark in by_hand(list(p.ids), ("resid_pre.1", "resid_post.1"))]
    assert load(prompt_page.coef(page, LOADED, dictionary("z.1", head=1), 1, turn=never))["sink"].tolist() == expected


def test_a_loud_token_is_marked_and_a_quiet_prompt_has_none() -> None:
    """The control: the mask above is not all zeros, and an edit that quiets the token takes its mark away."""
    sink = sink_of("ab~cd")
    where = list(LOADED.prompt("ab~cd").ids).index(MODEL.token_id(LOUD))
    assert sink[:, where].tolist() == [1] * len(ROWS)
    assert sink.sum() == len(ROWS)
    quiet = sink_of("abcd")
    assert quiet.sum() == 0


@pytest.mark.parametrize("text", [LOUD, LOUD + "abcd"])
def test_the_first_token_is_marked_only_where_it_is_one(text: str) -> None:
    assert sink_of(text)[0].tolist() == by_hand(list(LOADED.prompt(text).ids), ("resid_pre.0",))
