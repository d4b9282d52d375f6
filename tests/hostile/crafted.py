"""Cases made by hand, for each reader by what its files are."""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hostile.crafted_others import YAMLS, gguf_files, torch_files
from hostile.mutations import deep, joined, parts, zipped
from hostile.whole import Reader, put

Make = Callable[[Path, Reader], int]
"""Makes a case in a folder; the bytes of it."""

ODD = (
    b"",
    b"\0",
    b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf{}",
    b"null",
    b"[]",
    b"{}",
    b"0",
    b'"x"',
    b"{",
    b'{"a":1,"a":2}',
    b"NaN",
    b"1e999",
    b'{"version": 1e999}',
    b'["\\ud800"]',
    b'{"\\ud800": 1}',
    deep(3000).encode(),
    deep(3000, of="{").encode(),
    deep(150).encode(),
    b"9" * 5000,
    b"[" + b"9" * 5000 + b"]",
    b"[1180591620717411303424]",
    b"\xed\xa0\x80",
    b"[[[[" * 50000,
)
CUTS, PLACES = 20, 8
HEADS: tuple[Any, ...] = (
    {},
    [],
    None,
    3,
    {"a": None},
    {"a": {}},
    {"__metadata__": 3},
    {"__metadata__": {"residscope": 3}},
    {"__metadata__": {"a": "\ud800"}},
    {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}},
    {"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}},
    {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
    {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**64]}},
    {"a": {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 2**72]}},
    {
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    },
    {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    {"a": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": "08"}},
    {"a": {"dtype": "F32", "shape": [1] * 3000, "data_offsets": [0, 4]}},
)

SAID: tuple[tuple[str, str, Any], ...] = (
    ("intent", "library_undo", {"event": 2**70}),
    ("intent", "library_undo", {"event": -1}),
    ("intent", "library_undo", {"event": 2**63}),
    ("query", "library_read", {"id": float("inf")}),
    ("query", "library_read", {"id": "\0"}),
    ("query", "library_read", {"id": "x\0y"}),
    ("query", "library_search", {"text": "\0"}),
    ("query", "library_search", {"user": "\0"}),
    ("query", "library_search", {"after": "\0"}),
    ("query", "library_search", {"after": "W10="}),
    ("query", "library_search", {"limit": 2**70}),
    ("query", "library_search", {"site": "\0"}),
    ("intent", "library_sign_in", {"name": "a\0b"}),
    ("intent", "library_sign_in", {"name": "\ud800"}),
    ("intent", "library_sign_in", {"name": ""}),
    ("intent", "library_vote", {"id": "\0", "value": 1}),
    ("intent", "library_rename", {"id": "x", "name": "\0", "seen": 2**70}),
    ("intent", "set_prompt", {"text": "\0"}),
    ("intent", "set_prompt", {"text": "a\0b" * 10}),
    ("intent", "no such", {}),
    ("query", "no such", {}),
    ("intent", "set_prompt", []),
    ("intent", "set_prompt", None),
    ("intent", "set_prompt", 3),
)


def crafted(name: str) -> Iterator[tuple[str, Make]]:
    """The cases of a reader by name."""
    from hostile.readers import READERS

    reader = READERS[name]
    for at in sorted(reader.changed or reader.start()):
        for number, data in enumerate(ODD):
            yield f"{at} is odd {number}, {data[:20]!r}", _in_place(at, data)
        for kind in (
            "a pipe",
            "a folder",
            "a device",
            "a link to nothing",
            "a link to itself",
            "no file",
            "a link elsewhere",
        ):
            if reader.held:
                break
            yield f"{at} is {kind}", _other(at, kind)
        whole = reader.start()[at]
        for size in (1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
            yield f"{at} ends after {size}", _in_place(at, whole[:size])
        yield from as_files(at, _everywhere(whole))
        if at.endswith(".safetensors"):
            for number, head in enumerate(HEADS):
                yield f"{at} has head {number}", _in_place(at, joined(json.dumps(head).encode(), b"\0" * 8))
            yield f"{at} has 70,000 tensors", _in_place(at, _many())
        if at.endswith(".zip"):
            yield from _zips(at)
        if at.endswith((".pt", ".pth")):
            yield from as_files(at, torch_files())
        if at.endswith(".gguf"):
            yield from as_files(at, gguf_files(whole))
        if at.endswith(".yaml"):
            yield from as_files(at, ((text[:40], text.encode()) for text in YAMLS))
    for kind, asked, args in SAID if name.startswith(("the page", "the notebook")) else ():
        data = json.dumps({"kind": kind, "name": asked, "args": args}).encode()
        yield f"{asked} {str(args)[:60]}", _in_place("it.json", data)
    if name == "a model's folder":
        yield from _models()


def _everywhere(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """A file that ends at each twentieth of it, and that has something else at each eighth."""
    for part in range(1, CUTS):
        yield f"ends after {part} of {CUTS} parts", whole[: len(whole) * part // CUTS]
    for place in range(PLACES):
        first = len(whole) * place // PLACES
        last = first + max(1, min(16, len(whole) // PLACES))
        there = whole[first:last]
        for what, other in (
            ("zeros", b"\0" * len(there)),
            ("ones", b"\xff" * len(there)),
            ("nothing", b""),
            ("it twice", 2 * there),
            ("blanks", b" " * len(there)),
            ("quotes", b'"' * len(there)),
            ("other bits", bytes(octet ^ 1 for octet in there)),
        ):
            yield f"{what} at {place} of {PLACES} parts", whole[:first] + other + whole[last:]


def _in_place(at: str, data: bytes) -> Make:
    def make(folder: Path, reader: Reader) -> int:
        return put({**reader.start(), at: data}, folder)

    return make


def as_files(at: str, cases: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Make]]:
    yield from ((f"{at}: {what}", _in_place(at, data)) for what, data in cases)


def _other(at: str, kind: str) -> Make:
    def make(folder: Path, reader: Reader) -> int:
        size = put(reader.start(), folder)
        (folder / at).unlink()
        match kind:
            case "a pipe":
                os.mkfifo(folder / at)
            case "a folder":
                (folder / at).mkdir()
            case "a device":
                (folder / at).symlink_to("/dev/zero")
            case "a link to nothing":
                (folder / at).symlink_to(folder / "nothing")
            case "a link to itself":
                (folder / at).symlink_to(folder / at)
            case "a link elsewhere":
                (folder / at).symlink_to("/etc/passwd")
        return size

    return make


def _many() -> bytes:
    head = {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(70_000)}
    return joined(json.dumps(head).encode(), b"")


def _zips(at: str) -> Iterator[tuple[str, Make]]:
    import zipfile

    from hostile.readers import READERS

    whole = READERS["a backup"].start()["it.zip"]
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])

    def with_manifest(**changes: Any) -> dict[str, bytes]:
        return {**members, "manifest.json": json.dumps(manifest | changes).encode()}

    def with_rows(table: str, change: Callable[[list[Any]], Any]) -> dict[str, bytes]:
        """A table with other rows, its sum right again."""
        import hashlib

        rows = [json.loads(line) for line in members[f"tables/{table}.jsonl"].splitlines()]
        changed = change(rows) or rows
        data = changed if isinstance(changed, bytes) else "".join(f"{json.dumps(row)}\n" for row in changed).encode()
        sums = {**manifest["sha256"], f"tables/{table}.jsonl": hashlib.sha256(data).hexdigest()}
        return {**with_manifest(sha256=sums), f"tables/{table}.jsonl": data}

    def set_all(**values: Any) -> Callable[[list[Any]], None]:
        return lambda rows: [row.update(values) for row in rows] and None

    yield "a bomb for a manifest", _in_place(at, zipped({**members, "manifest.json": b" " * 2_000_000_000}))
    yield "a bomb beside", _in_place(at, zipped({**members, "tables/users.jsonl": b"\0" * 1_000_000_000}))
    for number, changes in enumerate(
        (
            {"format": 3},
            {"revision": None},
            {"revision": [1]},
            {"rows": None},
            {"rows": {}},
            {"sha256": []},
            {"sha256": None},
            {"rows": {"tensors": "x"}},
            {"revision": "0001"},
            {"sha256": {"../x": 1}},
        )
    ):
        yield f"manifest {number} {changes}", _in_place(at, zipped(with_manifest(**changes)))
    rows: dict[str, tuple[str, Callable[[list[Any]], Any]]] = {
        "no mappings": ("users", lambda rows: [1, None]),
        "no columns": ("users", lambda rows: [{}]),
        "another column": ("users", set_all(other=1)),
        "a name of another type": ("users", set_all(name=[1])),
        "a name of nothing": ("users", set_all(name=None)),
        "a number beyond 64 bits": ("users", set_all(created_at=2**70)),
        "a half character": ("users", set_all(name="\ud800")),
        "one key twice": ("users", set_all(id=1)),
        "a tensor that leads outside": ("tensors", set_all(sha256="../../outside")),
        "a tensor without a hash": ("tensors", set_all(sha256=None)),
        "a provenance that is a list": ("directions", set_all(provenance=[1])),
        "a provenance that is a text": ("directions", set_all(provenance="x")),
        "a site that is none": ("directions", set_all(site="nowhere.9")),
        "a space that is none": ("directions", set_all(space="x")),
        "an offset that is a text": ("directions", set_all(offset="x")),
        "a head of a text": ("directions", set_all(head="x")),
        "a time that is a text": ("directions", set_all(created_at="now")),
        "a time of no year": ("directions", set_all(created_at=2**62)),
        "an owner that is nobody": ("directions", set_all(owner_id=99)),
        "a signature that is no base64": ("models", set_all(signature="é")),
        "a signature of 3 bytes": ("models", set_all(signature="AAAA")),
        "deep": ("users", lambda rows: deep(3000).encode()),
        "no JSON": ("users", lambda rows: b"{"),
        "a vote of 7": ("votes", set_all(value=7)),
    }
    for what, (table, change) in rows.items():
        yield f"rows: {what}", _in_place(at, zipped(with_rows(table, change)))


def _models() -> Iterator[tuple[str, Make]]:
    """Configurations that promise what the weights do not have, and what they cannot."""
    from hostile.readers import READERS

    start = READERS["a model's folder"].start()
    config = json.loads(start["config.json"])
    lies: list[dict[str, Any]] = [
        {"num_hidden_layers": 10**5},
        {"num_hidden_layers": 3 * 10**5},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 2**70},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": None},
        {"num_hidden_layers": 1.5},
        {"vocab_size": 2**31},
        {"vocab_size": 10**12},
        {"vocab_size": 0},
        {"vocab_size": -5},
        {"vocab_size": 403},
        {"hidden_size": 2**20},
        {"hidden_size": 0},
        {"hidden_size": 17},
        {"intermediate_size": 2**40},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
        {"num_key_value_heads": 0},
        {"num_attention_heads": 10**9},
        {"head_dim": 2**40},
        {"head_dim": 0},
        {"max_position_embeddings": 2**62},
        {"max_position_embeddings": 0},
        {"max_position_embeddings": -1},
        {"rope_parameters": {"rope_type": "x"}},
        {"rope_parameters": 3},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 0}},
        {"rms_norm_eps": "x"},
        {"rms_norm_eps": None},
        {"rms_norm_eps": float("nan")},
        {"hidden_act": "x"},
        {"hidden_act": ["x"]},
        {"model_type": "x"},
        {"model_type": None},
        {"model_type": 3},
        {"model_type": ["llama"]},
        {"model_type": "gpt2"},
        {"model_type": "bert"},
        {"model_type": "t5"},
        {"model_type": "mamba"},
        {"architectures": 3},
        {"architectures": ["X"]},
        {"auto_map": {"AutoModelForCausalLM": "x.Y"}},
        {"auto_map": 3},
        {"auto_map": ["x"]},
        {"auto_map": {"AutoConfig": 3}},
        {"quantization_config": {}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"quantization_config": 3},
        {"quantization_config": {"quant_method": "x"}},
        {"text_config": 3},
        {"text_config": {}},
        {"bos_token_id": 10**9},
        {"bos_token_id": "x"},
        {"bos_token_id": -7},
        {"eos_token_id": [[]]},
        {"pad_token_id": 10**9},
        {"dtype": "x"},
        {"dtype": 3},
        {"torch_dtype": "float3"},
        {"attn_implementation": "x"},
        {"_attn_implementation": "x/y"},
        {"tie_word_embeddings": "x"},
        {"attention_bias": True},
        {"is_encoder_decoder": True},
        {"layer_types": ["x"] * 2},
        {"pretraining_tp": 0},
        {"use_cache": "x"},
        {"initializer_range": "x"},
        {"attention_dropout": 7},
        {"d_model": 4, "n_layers": 1, "n_ctx": 2, "act_fn": "x"},
        {"tokenizer_class": "x"},
        {"transformers_version": 3},
        {"id2label": 3},
        {"num_labels": 10**9},
        {"\0": 1},
        {"": 1},
        {"return_dict": False},
        {"output_attentions": True},
        {"base_model_tp_plan": 3},
        {"chunk_size_feed_forward": -1},
    ]
    for lie in lies:
        yield f"config {str(lie)[:100]}", _in_place("config.json", json.dumps(config | lie).encode())
    removed = [key for key in config if key not in ("transformers_version",)]
    for key in removed:
        rest = {name: value for name, value in config.items() if name != key}
        yield f"config without {key}", _in_place("config.json", json.dumps(rest).encode())
    indices: list[Any] = [
        {},
        {"weight_map": 3},
        {"weight_map": []},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": "../../etc/passwd"}},
        {"weight_map": {"a": "x\0"}},
        {"weight_map": {"a": "model.safetensors"}, "metadata": 3},
        {"weight_map": {"a": "/dev/zero"}},
    ]
    for index in indices:
        yield f"index {index}", _in_place("model.safetensors.index.json", json.dumps(index).encode())
    head, body = parts(start["model.safetensors"])
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"):
        entry = head[name]
        turned = {**head, name: {**entry, "shape": entry["shape"][::-1]}}
        yield f"{name} the other way", _in_place("model.safetensors", joined(json.dumps(turned).encode(), body))
        whole = {**head, name: {**entry, "dtype": "I32"}}
        yield f"{name} of whole numbers", _in_place("model.safetensors", joined(json.dumps(whole).encode(), body))
        gone = {("x" if key == name else key): value for key, value in head.items()}
        yield f"{name} under another name", _in_place("model.safetensors", joined(json.dumps(gone).encode(), body))
    words = json.loads(start["tokenizer.json"])
    for path, value in (
        (("model", "type"), "X"),
        (("model", "vocab"), {}),
        (("model", "merges"), [["a", "b"]]),
        (("added_tokens",), [{"id": 2**31}]),
        (("pre_tokenizer",), {"type": "Split"}),
        (("decoder",), 3),
        (("normalizer",), {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
        (("model", "unk_token"), "nothing"),
        (("truncation",), {"max_length": 0}),
        (("padding",), 3),
        (("version",), 9),
    ):
        changed = json.loads(json.dumps(words))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        yield f"tokenizer {path} {str(value)[:40]}", _in_place("tokenizer.json", json.dumps(changed).encode())
