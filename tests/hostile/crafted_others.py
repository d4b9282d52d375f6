"""Cases made by hand of other programs' files: torch's, GGUF, YAML. Each is what it is and its bytes."""

import io
from collections.abc import Iterator
from typing import Any

import torch

YAMLS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "!!python/object/apply:os.system [touch /tmp/hostile-was-run]",
    "a: &a {b: *a}",
    "[" * 3000,
    "k: 1e999\nmodel_name: 2001-01-01",
    "k: .inf\nfeature_input_hook: [x]",
    "? [a]\n: b",
    "k: 0o7\nactivation: !!binary eA==",
    "k: " + "9" * 5000,
    "feature_input_hook: hook_nowhere",
)


class Marks:
    """A pickle whose opening makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("/tmp/hostile-was-run", "w")


def torch_files() -> Iterator[tuple[str, bytes]]:
    """Other values in the place of tensors by name: code, none, larger than what is stored, within each other."""
    ring: list[Any] = []
    ring.append(ring)
    deepest: list[Any] = []
    for _ in range(150):
        deepest = [deepest]
    one = torch.ones(4, 4)
    whole: tuple[Any, ...] = (
        None, 3, [], {}, ring, deepest, one, {1: one}, {"": one}, {"a": None}, {"a": ring}, {"a": "x" * 10**6}, {"a": Marks()},
        {"0.weight": torch.ones(1).expand(1 << 40)}, {"0.weight": torch.ones(1).expand(1 << 20, 1 << 20), "0.bias": one},
        {"encoder.weight": torch.ones(1, 1).expand(1 << 20, 1 << 20)}, {"pre_bias": one, "latent_bias": one, "encoder.weight": 3},
        {"0.weight": one.to_sparse()}, {"0.weight": one.to(torch.complex64)}, {"0.weight": one * float("nan")},
        {"0.weight": torch.empty(4, 4, device="meta")}, {"0.weight": torch.zeros(0, 1 << 40)}, {"blocks.0.attn.W_Q": one},
        {"adjacency_matrix": torch.ones(1, 1).expand(1 << 20, 1 << 20)}, {"adjacency_matrix": one, "input_tokens": ring},
    )  # fmt: skip
    for number, value in enumerate(whole):
        for new in (True, False):
            made = io.BytesIO()
            torch.save(value, made, _use_new_zipfile_serialization=new)
            yield f"it holds {number}, {'a zip' if new else 'as torch 1 wrote it'}", made.getvalue()


def gguf_files(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Counts and lengths that the file has no room for, and sizes that its weights have not."""
    for place, what in ((4, "version"), (8, "tensors"), (16, "keys"), (24, "the first key's length")):
        for count in (0, 1, 2**20, 2**40, 2**63, 2**64 - 1):
            data = whole[:place] + count.to_bytes(8, "little") + whole[place + 8 :]
            yield f"{what} {count}", data
    for key in (
        b"block_count",
        b"embedding_length",
        b"feed_forward_length",
        b"attention.head_count",
        b"context_length",
        b"vocab_size",
    ):
        end = whole.index(key) + len(key) + 4
        for size in (0, 1, 3, 10**5, 2**31, 2**32 - 1):
            yield (
                f"{key.decode()} {size}",
                whole[:end] + size.to_bytes(4, "little") + whole[end + 4 :],
            )
    start = whole.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens")
    for inner, count in ((0, 2**60), (8, 2**60), (9, 2**60), (9, 3), (77, 1), (7, 2**22), (8, 0)):
        array = (9).to_bytes(4, "little") + inner.to_bytes(4, "little") + count.to_bytes(8, "little")
        yield f"an array of {count} of type {inner}", whole[:start] + array + whole[start + 16 :]
