"""A hub on the loopback with dictionaries, and a cache of the test's own."""

import threading

import pytest

from loopback_hub import Hub
from sae.written import saelens, weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    saelens(tmp_path / "written", weights())
    one = {name: (tmp_path / "written" / name).read_bytes() for name in ("cfg.json", "sae_weights.safetensors")}
    several = {f"{layer}/{name}": body for layer in ("3", "4") for name, body in one.items()}
    many = {f"layer_{i}/{name}": body for i in range(70) for name, body in one.items()}
    server.repositories = {
        "someone/one": {"README.md": b"# one", **one}, "someone/several": several, "someone/many": many,
        "someone/other": {"model.safetensors": b"-"}, "someone/secret": {},
    }  # fmt: skip
    server.gated.add("someone/secret")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield server
    server.shutdown()
    server.server_close()
