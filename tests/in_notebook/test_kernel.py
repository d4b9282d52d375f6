"""The widget's channel of a real ipykernel, spoken as a front end does: beside a running cell on a subshell, else after it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from safetensors.torch import load

SOURCES = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")])
SET_UP = """
import residscope as rs, time
from residscope import edits
from session import worlds
from tiny_models import tiny_llama
model = rs.load((tiny_llama(), worlds.tokenizer()))
wb = rs.workbench(model, prompt="a small prompt")
wb.wait()
wb
"""


class Kernel:
    """A front end with one page of the workbench's."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        self.heard: list[dict[str, Any]] = []
        self.comm = ""

    def run(self, source: str) -> None:
        reply = self.client.execute_interactive(source, timeout=60, output_hook=self.hear)
        assert reply["content"]["status"] == "ok", reply["content"]

    def hear(self, message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "comm_open" and "place" in content["data"].get("state", {}):
            self.comm = content["comm_id"]
        if (
            message["msg_type"] == "comm_msg"
            and content["comm_id"] == self.comm
            and content["data"]["method"] == "custom"
        ):
            octets = [bytes(buffer) for buffer in message["buffers"]]
            self.heard.append({**content["data"]["content"], "octets": octets})
        if message["msg_type"] in ("display_data", "update_display_data"):
            self.heard.append({"display": content["data"], "update": message["msg_type"] == "update_display_data"})

    def say(self, subshell: str | None = None, **content: Any) -> None:
        data = {"comm_id": self.comm, "data": {"method": "custom", "content": {"page": "p", **content}}}
        message = self.client.session.msg("comm_msg", data)
        message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)

    def until(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while (found := next((one for one in self.heard if wanted(one)), None)) is None:
            self.hear(self.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic())))
        return found

    def subshell(self) -> str:
        message = self.client.session.msg("create_subshell_request")
        self.client.control_channel.send(message)
        while (reply := self.client.get_control_msg(timeout=30))["msg_type"] != "create_subshell_reply":
            pass
        return str(reply["content"]["subshell_id"])


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("kernel")
    own = {
        "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1", "RESIDSCOPE_DATA": str(folder), "IPYTHONDIR": str(folder),
        "JPY_SESSION_NAME": "a.ipynb",
    }  # fmt: skip
    manager, client = start_new_kernel(kernel_name="python3", env={**os.environ, **own}, startup_timeout=60)
    try:
        made = Kernel(client)
        made.run(SET_UP)
        yield made
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)


def test_a_widget_is_small_and_brings_the_page_once_it_is_asked(kernel: Kernel) -> None:
    assert kernel.comm
    shown = [one["display"] for one in kernel.heard if "display" in one]
    assert [sorted(data) for data in shown] == [
        ["application/vnd.jupyter.widget-view+json"],
        ["text/html", "text/plain"],
    ]
    kernel.say(bundle=True)
    script, style = kernel.until(lambda one: "bundle" in one)["octets"]
    assert len(script) > 100_000
    assert b".residscope" in style


def test_hello_news_and_answers(kernel: Kernel) -> None:
    kernel.say(hello=True)
    told = kernel.until(lambda one: "state" in one)
    assert told["state"]["prompt"]["text"] == "a small prompt"
    run = told["state"]["current"]["a"]
    kernel.say(id=1, query="stream", args={"run": run})
    assert "norm" in load(kernel.until(lambda one: one.get("id") == 1)["octets"][0])
    kernel.say(id=2, intent="set_prompt", args={"text": "from the page"})
    kernel.until(lambda one: one.get("id") == 2)
    kernel.heard.clear()
    kernel.run("print(wb.prompt)\nassert wb.prompt == 'from the page'")
    kernel.run("wb.edits = (edits.ablate('z.1', head=2),)")
    patch = kernel.until(lambda one: "edits" in one.get("patch", {}))
    assert patch["patch"]["edits"][0]["site"] == "z.1"


def test_the_picture_below_is_drawn_again(kernel: Kernel) -> None:
    kernel.heard.clear()
    kernel.run("wb.prompt = 'another prompt'; wb.wait(); time.sleep(2)")
    drawn = kernel.until(lambda one: one.get("update", False))
    assert "another prompt" in json.dumps(drawn["display"])


def test_beside_a_running_cell_on_a_subshell(kernel: Kernel) -> None:
    subshell = kernel.subshell()
    kernel.heard.clear()
    kernel.client.execute("time.sleep(3)")
    began = time.monotonic()
    kernel.say(subshell, id=20, intent="set_prompt", args={"text": "while it sleeps"})
    assert "error" not in kernel.until(lambda one: one.get("id") == 20)
    assert time.monotonic() - began < 2
    kernel.run("assert wb.prompt == 'while it sleeps'")


def test_after_the_cell_where_there_is_none(kernel: Kernel) -> None:
    kernel.heard.clear()
    kernel.client.execute("time.sleep(2)")
    began = time.monotonic()
    for id in range(30, 35):
        kernel.say(id=id, intent="set_prompt", args={"text": f"prompt {id}"})
    kernel.until(lambda one: one.get("id") == 34)
    assert time.monotonic() - began > 1.5
    assert [one["id"] for one in kernel.heard if "id" in one] == [*range(30, 35)]
    kernel.run("assert wb.prompt == 'prompt 34'; wb.wait()")


def test_the_library_is_on_the_page_too(kernel: Kernel) -> None:
    kernel.say(id=40, query="library_search", args={})
    assert kernel.until(lambda one: one.get("id") == 40)["value"]["entries"] == []
    kernel.say(id=41, intent="library_sign_in", args={"name": "Ada"})
    assert kernel.until(lambda one: one.get("id") == 41)["value"] == {"name": "Ada"}
    kernel.say(id=42, query="library_me", args={})
    assert kernel.until(lambda one: one.get("id") == 42)["value"] == {"name": "Ada"}


def test_its_end_is_told(kernel: Kernel) -> None:
    kernel.heard.clear()
    kernel.run("wb.close()")
    kernel.until(lambda one: one.get("ended", False))
    kernel.run("again = rs.workbench(model)\nassert again is not wb and again.prompt == 'prompt 34'")
