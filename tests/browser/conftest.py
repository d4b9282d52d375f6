"""A real server on the real default model, and Debian's Chromium."""

import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, WebSocket, expect

from browser.steps import IOI, LOAD_MS, ROWS, SERVED, Traffic, settled

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests last: synchronous Playwright leaves a running event loop behind."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing: `make test` installs it (apt-get install chromium)", pytrace=False)
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return {"executable_path": str(CHROMIUM), "args": FLAGS + sandbox}


@pytest.fixture(scope="session")
def browser_context_args() -> dict[str, Any]:
    return {"viewport": {"width": 1280, "height": 720}, "color_scheme": "light"}


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for each file, so that no file finds the runs, probes or items of another."""
    import_module(
        "anyio._core._fileio"
    )  # else in the server's thread, where pytest parses it while a session parses docstrings
    from residscope.engine.loading import load
    from residscope.server import Server
    from residscope.server.listen import offers
    from residscope.session import Session
    from residscope.store import open_library

    session = Session(load=load, offers=offers, folder=tmp_path_factory.mktemp("data"))
    session.load("smollm2-135m")
    with Server(session, port=0, library=open_library(folder=tmp_path_factory.mktemp("library"))) as server:
        SERVED[f":{server.port}/"] = session
        yield server
        del SERVED[f":{server.port}/"]
    session.close()


@pytest.fixture
def traffic(page: Page) -> Traffic:
    seen = Traffic()

    def request(asked: Request) -> None:
        seen.urls.append(asked.url)

    def socket(opened: WebSocket) -> None:
        seen.urls.append(opened.url)
        opened.on("framesent", lambda frame: seen.sent.append(frame))

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.complaints.append(f"{message.text} {message.location.get('url', '')}".strip())

    page.on("request", request)
    page.on("websocket", socket)
    page.on("console", console)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    return seen


@pytest.fixture
def bench(page: Page, workbench: Any, traffic: Traffic) -> Iterator[Page]:
    """The page, with the model loaded and no edits; afterwards: nothing from elsewhere, nothing complained of."""
    page.goto(workbench.url)
    expect(page.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=LOAD_MS)
    workbench.session.intent("set_edits", {"edits": []})
    workbench.session.intent("set_metric", {})  # the guess, whatever an earlier test chose
    workbench.session.intent("set_prompt", {"text": IOI})
    workbench.session.intent("set_companion", {})
    at = workbench.session.state.selection[1]
    workbench.session.intent("select", {"layer": ROWS - 2, "pos": at})  # whatever row an earlier test left
    settled(page)
    yield page
    own = re.compile(rf"(http|ws)://127\.0\.0\.1:{workbench.port}/|data:|blob:http://127\.0\.0\.1:{workbench.port}/")
    assert [url for url in traffic.urls if not own.match(url)] == []
    assert traffic.complaints == []


def byte_tokenizer(path: Path) -> list[str]:
    """A tokenizer that reads bytes, saved; answers its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>").save_pretrained(path)
    return alphabet


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model saved as anybody would, reading bytes; nothing ships for it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("models") / "little"
    alphabet = byte_tokenizer(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random GPT-2, reading bytes; whoever wants components fits them."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    path = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    alphabet = byte_tokenizer(path)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(alphabet), n_embd=32, n_layer=4, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def bare_server(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server on the tiny GPT-2."""
    from residscope.engine.loading import load
    from residscope.server import Server
    from residscope.session import Session

    session = Session(load=load, folder=tmp_path_factory.mktemp("bare"))
    session.load(str(tiny_gpt2))
    with Server(session, port=0) as server:
        SERVED[f":{server.port}/"] = session
        yield server
        del SERVED[f":{server.port}/"]
    session.close()


@pytest.fixture
def bare(page: Page, bare_server: Any, traffic: Traffic) -> Iterator[Page]:
    """The page on the tiny GPT-2, with nothing fitted and a prompt of eleven tokens."""
    session = bare_server.session
    assert session.wait(LOAD_MS / 1000)
    for job in session.snapshot()[1]["jobs"]:
        session.intent("cancel", {"job": job["id"]})
    assert session.wait(LOAD_MS / 1000)
    for row in session.snapshot()[1]["model"]["dictionaries"]:
        session.intent("forget_dictionary", {"id": row["id"]})
    session.intent("set_edits", {"edits": []})
    session.intent("set_prompt", {"text": "hello world"})
    page.goto(bare_server.url)
    settled(page)
    yield page
    assert traffic.complaints == []
