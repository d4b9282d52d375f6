"""A conversation as the prompt: the template's own tokens, BOS as often as the model has it, and Python that gives the same."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

import residscope as rs
from residscope.errors import BadConversation, NoChatTemplate
from residscope.session import Session
from residscope.world.loaded import Loaded
from residscope.world.values import Chat
from session import worlds
from tiny_models import tiny_llama

TOY = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
HELLO = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]


def talker(template: str | None, *, habit: bool) -> Any:
    """A tiny model that reads characters; habit: it puts BOS in front of texts."""
    reader = worlds.tokenizer()
    if habit:
        reader._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    reader.chat_template = template
    return rs.load((tiny_llama(), reader))


@pytest.fixture
def session() -> Iterator[Session]:
    with worlds.session(talker(TOY, habit=False)) as opened:
        yield opened


@pytest.mark.parametrize("writes", ["", "<s>", "<s><s>"])
@pytest.mark.parametrize("habit", [False, True])
def test_a_bos_of_the_models_stands_there_once(writes: str, habit: bool) -> None:
    model = talker(writes + TOY, habit=habit)
    assert model.bos == habit
    ids = model.chat(HELLO)[0].tolist()
    begins = [i for i in ids if i == model.tokenizer.bos_token_id]
    assert len(begins) == (1 if habit or writes else 0)
    assert ids[len(begins) :] == model.encode("[system] be brief</s>[user] hello</s>[assistant] ", bos=False)
    chat = Chat(tuple((turn["role"], turn["content"]) for turn in HELLO))
    assert [*Loaded.of(model).conversation(chat).ids] == ids


def test_the_prompt_is_the_templates_text_with_its_roles(session: Session) -> None:
    session.intent("set_chat", {"messages": HELLO})
    assert session.wait(60)
    shown = session.snapshot()[1]["prompt"]
    assert shown["text"] == "[system] be brief</s>[user] hello</s>[assistant] "
    assert shown["chat"] == {"messages": HELLO, "answer": True}
    model = session.model
    said = model.tokenizer.apply_chat_template(HELLO, tokenize=True, add_generation_prompt=True)
    expected = said if isinstance(said, list) else said["input_ids"]
    assert [token["id"] for token in shown["tokens"]] == expected
    state = session.state
    with torch.no_grad():
        logits = model.hf(torch.tensor([expected])).logits[0, -1].float()
    torch.testing.assert_close(state.run(state.baseline).last, logits, atol=1e-4, rtol=1e-4)
    session.intent("set_chat", {"messages": HELLO, "answer": False})
    assert session.snapshot()[1]["prompt"]["text"].endswith("hello</s>")
    session.intent("set_prompt", {"text": "plain"})
    assert session.snapshot()[1]["prompt"]["chat"] is None


def test_the_copied_python_says_the_conversation(session: Session) -> None:
    session.intent("set_chat", {"messages": HELLO})
    assert session.wait(60)
    code = session.intent("python")["code"]
    assert f"prompt = model.chat({HELLO!r})" in code
    model = session.model
    names: dict[str, Any] = {"model": model}
    (line,) = [line for line in code.splitlines() if line.startswith("prompt = ")]
    exec(line, names)
    last = session.state.run(session.state.baseline).last
    assert torch.equal(model.run(names["prompt"]).logits_at(-1)[0].float(), last)


def test_what_cannot_be_a_conversation_is_refused() -> None:
    with worlds.session(talker(None, habit=False)) as session:
        assert session.snapshot()[1]["model"]["template"] is None
        with pytest.raises(NoChatTemplate):
            session.intent("set_chat", {"messages": HELLO})
    with worlds.session(talker("{{ raise_exception('no system turn') }}", habit=False)) as session:
        assert "own template" in session.snapshot()[1]["model"]["template"]
        with pytest.raises(BadConversation, match="no system turn"):
            session.intent("set_chat", {"messages": HELLO})
