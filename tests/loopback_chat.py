"""A chat completions service on the loopback: a real server that answers by rule, with the faults of real ones."""

import http.server
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

KEY = "sk-not-a-real-key"
_QUOTED = re.compile(r"^\d+: (\".*\")$", re.MULTILINE)


class Chat(http.server.ThreadingHTTPServer):
    """Answers questions about features from their text alone. key: what it asks for. mode: a fault. asked: bodies that came.

    A name is the text that is marked most often; a name fits where an excerpt holds that text. say: answers in place of the rule.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.key, self.mode, self.busy = "", "", 0
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.say: Any = rule
        self.stop = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who does not wait for an answer has gone."""


class Answer(http.server.BaseHTTPRequestHandler):
    server: Chat

    def do_POST(self) -> None:
        chat = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        chat.asked.append(body)
        chat.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.path != "/v1/chat/completions":
            self.answer(404, {"error": "no such path"})
        elif chat.key and self.headers["authorization"] != f"Bearer {chat.key}":
            self.answer(401, {"error": {"message": f"wrong key: {self.headers['authorization']}"}})
        elif chat.busy > 0:
            chat.busy -= 1
            self.answer(429, {"error": "busy"}, **{"Retry-After": "0"})
        elif chat.mode == "redirect":
            self.answer(307, {}, Location=f"{chat.url}/elsewhere")
        elif chat.mode == "silent":
            chat.stop.wait(20)
        elif chat.mode == "dripping":
            self.send_response(200)
            self.end_headers()
            while not chat.stop.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
        elif chat.mode == "endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b"x" * (1 << 16))
        elif chat.mode in ("html", "empty", "list"):
            self.answer(200, {"html": "<h1>hello \x1b[31m</h1>", "empty": "", "list": "[]"}[chat.mode])
        else:
            content = chat.say(body["messages"][0]["content"])
            self.answer(200, {"choices": [{"message": {"role": "assistant", "content": content}}]})

    def answer(self, status: int, body: Any, **headers: str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Tests have the requests themselves."""


@contextmanager
def chat() -> Iterator[Chat]:
    with Chat() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield running
        finally:
            running.stop.set()
            running.shutdown()


def excerpts(question: str) -> list[str]:
    return [json.loads(text) for text in _QUOTED.findall(question)]


def rule(question: str) -> str:
    """What the marked tokens are; or which excerpts hold what the name says."""
    if "is said to be active at: " not in question:
        marked = Counter(text for one in excerpts(question) for text in re.findall(r"⟦(.*?)⟧", one, re.DOTALL))
        text = marked.most_common(1)[0][0] if marked else "nothing"
        return f"Name: the text {json.dumps(text)}"
    name = json.loads(question.split("is said to be active at: ", 1)[1].split("\n", 1)[0])
    found = re.search(r"the text (\".*\")", name)
    if found is None:
        return "[]"
    text = re.compile(re.escape(json.loads(found[1])) + r"(?![A-Za-z])")
    return f"They are {[i for i, one in enumerate(excerpts(question), 1) if text.search(one)]}."


class ByRule:
    """The same without a server between."""

    told = MappingProxyType({"endpoint model": "by rule"})

    def ask(self, question: str) -> str:
        return rule(question)


def slowly(question: str) -> str:
    time.sleep(0.02)
    return rule(question)
