"""A hub on the loopback with data sets, and a cache of the test's own."""

import json
import threading

import pytest

from loopback_hub import Hub


def lines(*texts: object, field: str = "text") -> bytes:
    return "".join(json.dumps({field: text}) + "\n" for text in texts).encode()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.repositories = {
        "someone/stories": {
            "README.md": b"# stories",
            "data/train-00001.jsonl": lines("a third story", None, ""),
            "data/train-00000.jsonl": lines("one story", "another story"),
            "data/validation.jsonl": lines("held out"),
            "notes.txt": b"not this",
        },
        "someone/mixed": {
            "en/part.txt": b"first paragraph\n\n\n\nsecond paragraph",
            "de/part.txt": b"ein Absatz",
            "en/test.txt": b"held out",
        },
        "someone/content": {"all.jsonl": lines("under another name", field="content")},
        "someone/broken": {"all.jsonl": lines("fine") + b"{not json\n"},
        "someone/numbers": {"all.jsonl": lines(7)},
        "someone/pictures": {"a.png": b"-"},
        "someone/table": {"train.parquet": b"PAR1"},
    }
    server.branches["someone/stories@old"] = ("b" * 40, {"train.jsonl": lines("an old story")})
    server.gated.add("someone/secret")
    server.repositories["someone/secret"] = {}
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield server
    server.shutdown()
    server.server_close()
