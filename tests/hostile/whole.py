"""A reader, and what is whole to begin with: a tiny model, and files that something writes."""

import random
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from residscope.engine.model import Model
from tokenizers_of_every_kind import byte_level

VOCAB = 404
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Reader:
    """files: makes what is whole. read: of a folder with them. changed: those that a random draw may change; all unless said."""

    files: Callable[[], Files]
    read: Callable[[Path], Any]
    changed: tuple[str, ...] = ()
    sealed: bool = False
    draw: Callable[[random.Random], bytes] | None = (
        None  # draws the only file anew, where changes of one say too little
    )
    held: bool = False  # given as a value: that its file is no file is not the reader's

    def start(self) -> Files:
        return made(self.files)


@cache
def made(files: Callable[[], Files]) -> Files:
    return files()


@cache
def hf(vocab: int = VOCAB) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


@cache
def model() -> Model:
    words = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>")
    return Model(hf(), words, name="tiny")


def folder_of(write: Callable[[Path], Any]) -> Files:
    """The files that something writes into an empty folder."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(Path(folder))
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def put(files: Files, folder: Path) -> int:
    """Write files; the bytes of all."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return sum(map(len, files.values()))
