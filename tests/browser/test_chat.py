"""A conversation written on the page: the model's own template makes the prompt, with the template's exact tokens."""

from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

from browser.steps import settled

pytestmark = pytest.mark.browser

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is the Eiffel Tower?"}]


def test_a_conversation_is_the_prompt_that_the_template_makes(bench: Page, workbench: Any) -> None:
    model = workbench.session.model
    bench.get_by_test_id("prompt-edit").click()
    bench.get_by_test_id("prompt-as-chat").click()
    expect(bench.get_by_test_id("chat-template")).to_contain_text("own template")
    bench.get_by_test_id("chat-role-0").select_option("system")
    bench.get_by_test_id("chat-content-0").fill(TALK[0]["content"])
    bench.get_by_test_id("chat-add").click()
    bench.get_by_test_id("chat-content-1").fill(TALK[1]["content"])
    bench.get_by_test_id("chat-content-1").press("Enter")
    expect(bench.get_by_test_id("chat")).to_have_count(0)
    settled(bench)
    text = model.tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [token.id for token in workbench.session.state.prompt.tokens] == ids == model.chat(TALK)[0].tolist()
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, -1]
    state = workbench.session.state
    torch.testing.assert_close(state.run(state.baseline).last, logits.float(), atol=2e-3, rtol=1e-3)
    special = bench.get_by_test_id("chips-live").locator(".special")
    assert special.count() > 0
    assert {one.inner_text() for one in special.all()} <= {"<|im_start|>", "<|im_end|>"}
    bench.get_by_test_id("prompt-edit").click()
    expect(bench.get_by_test_id("chat-content-1")).to_have_value(TALK[1]["content"])
    bench.get_by_test_id("prompt-as-text").click()
    expect(bench.get_by_test_id("prompt-input")).to_have_value(text)


def test_a_link_brings_the_conversation_back(bench: Page, workbench: Any) -> None:
    workbench.session.intent("set_chat", {"messages": TALK})
    settled(bench)
    bench.context.grant_permissions(["clipboard-read", "clipboard-write"])
    bench.get_by_test_id("share").click()
    link = bench.evaluate("navigator.clipboard.readText()")
    workbench.session.intent("set_prompt", {"text": "another"})
    bench.goto("about:blank")
    bench.goto(link)
    bench.get_by_test_id("link-open").click()
    expect(bench.get_by_test_id("chips-live")).to_contain_text("<|im_start|>", timeout=30_000)
    assert workbench.session.state.prompt.chat.messages == TALK


def test_a_model_without_a_template_says_so(bench: Page, workbench: Any) -> None:
    model = workbench.session.model
    template = model.tokenizer.chat_template
    session = workbench.session
    bench.wait_for_load_state("networkidle")  # what is asked about a run that a refresh ends is answered with 404
    try:
        model.tokenizer.chat_template = None
        session.refresh()
        settled(bench)
        bench.get_by_test_id("prompt-edit").click()
        bench.get_by_test_id("prompt-as-chat").click()
        expect(bench.get_by_test_id("chat-none")).to_contain_text("no chat template")
    finally:
        model.tokenizer.chat_template = template
        bench.wait_for_load_state("networkidle")
        session.refresh()
        settled(bench)
