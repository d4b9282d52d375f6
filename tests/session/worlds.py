"""A tiny certified model that reads text, with made-up components, and sessions on it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import residscope as rs
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.session import Session
from tiny_models import VOCAB, tiny_gpt2, tiny_llama

N_COMPONENTS = 3


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character."""
    characters = [chr(c) for c in range(32, 127)]
    vocab = {text: i for i, text in enumerate(["<s>", "</s>", *characters])}
    assert len(vocab) == VOCAB
    inner = Tokenizer(models.BPE(vocab, []))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@cache
def model(family: str = "llama") -> Model:
    return rs.load(({"llama": tiny_llama, "gpt2": tiny_gpt2}[family](), tokenizer()))


@cache
def tuned() -> Model:
    """The tiny llama with other weights in its last layer."""
    hf = deepcopy(model().hf)
    with torch.no_grad():
        hf.model.layers[-1].mlp.down_proj.weight.mul_(1.5)
    return rs.load((hf, tokenizer()))


@cache
def components(of: Model) -> dict[str, Dictionary]:
    torch.manual_seed(3)
    sites = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(of.n_layers))]
    found = {}
    for site in sites:
        basis = torch.linalg.qr(torch.randn(of.d_model, N_COMPONENTS))[0].T
        found[site] = Dictionary(
            "pca",
            site,
            basis,
            basis,
            torch.randn(of.d_model),
            sd=torch.tensor([3.0, 2.0, 1.0]),
            variance=torch.tensor([0.5, 0.3, 0.1]),
            provenance={"corpus": "noise", "tokens": 7},
        )
    return found


class Slow:
    """A model whose runs wait for leave, so that a test can be between two of them."""

    def __init__(self, of: Model) -> None:
        self._of = of
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.runs = 0

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self.runs += 1
        self.entered.set()
        assert self.gate.wait(30)
        return self._of.run(*args, **kwargs)

    @property
    def __class__(self) -> type:  # signatures are checked under test: it passes for the model it is
        return Model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


@contextmanager
def session(of: Any = None, *, folder: Path | None = None, load: Callable[..., Any] | None = None) -> Iterator[Session]:
    of = model() if of is None else of
    opened = Session(load=load or (lambda name, **_: of), folder=folder)
    try:
        opened.load(of)
        assert opened.wait(60)
        yield opened
    finally:
        opened.close()
