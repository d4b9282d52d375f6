"""Random changes of bytes, of trees of JSON, of safetensors, of zips and of tables. No code of the readers' own."""

import copy
import hashlib
import io
import json
import math
import random
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    255,
    2**31,
    2**63,
    2**70,
    -(2**70),
    10**400,
    0.5,
    -0.0,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "x",
    "0",
    "NaN",
    "\0",
    "a\0b",
    "\ud800",
    "\u202e",
    "é" * 40,
    "a" * 5000,
    "../../etc/passwd",
    "/dev/zero",
    "resid_pre.0",
    "resid_pre.99999999999999999999",
    "float32",
    [],
    {},
    [[]],
    [None],
    [1] * 300,
    [2**63],
    ["\ud800"],
    {"a": 1},
    {"": ""},
    {"$tensor": {}},
    {"$tuple": 3},
    {"$mapping": [[[], 1]]},
    {"$float": []},
    {"$list": None},
    {"kind": "scale"},
)
DTYPES = ("F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "X9", "", 3, None)
DEEP = 3000


def deep(levels: int = DEEP, *, of: str = "[") -> str:
    return "[" * levels + "]" * levels if of == "[" else '{"a":' * levels + "1" + "}" * levels


def of_bytes(draw: random.Random, data: bytes) -> bytes:
    """Bits flipped, pieces lost, doubled, moved, overwritten or put in; an end cut off."""
    if not data:
        return draw.randbytes(draw.randrange(40))
    at = draw.randrange(len(data))
    size = min(draw.choice((1, 1, 2, 4, 8, 16, 100, 1000)), len(data) - at)
    match draw.randrange(8):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at + size :]
        case 2:
            return data[: at + size] + data[at:]
        case 3:
            return data[:at] + draw.randbytes(size) + data[at + size :]
        case 4:
            return (
                data[:at]
                + draw.choice((b"\0", b"\xff", b"\xed\xa0\x80", b"[" * 2000, b"1e999", b'"\\ud800"'))
                + data[at:]
            )
        case 5:
            other = draw.randrange(len(data))
            return data[:at] + data[other : other + size] + data[at + size :]
        case 6:
            return data[:at] + draw.choice((b"\0", b"\xff")) * size + data[at + size :]
        case _:
            flipped = bytearray(data)
            for _ in range(draw.choice((1, 1, 3, 20))):
                flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            return bytes(flipped)


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with each of its keys."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _nodes(tree[key])


def of_tree(draw: random.Random, tree: Any) -> Any:
    """Some values replaced, taken away, renamed, wrapped, swapped with others."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        nodes = list(_nodes(tree))
        if not nodes or draw.random() < 0.03:
            return draw.choice(VALUES)
        holder, key = draw.choice(nodes)
        match draw.randrange(7):
            case 0 if isinstance(holder, dict):
                holder[str(draw.choice(VALUES))[:200]] = holder.pop(key)
            case 1:
                del holder[key]
            case 2:
                other, place = draw.choice(nodes)
                holder[key] = copy.deepcopy(other[place]) if place in other or isinstance(other, list) else 1
            case 3:
                holder[key] = [holder[key]]
            case 4 if type(holder[key]) in (int, float) and abs(holder[key]) < 2**100:
                holder[key] = draw.choice(
                    (holder[key] + 1, -holder[key], holder[key] * 1000, holder[key] + 0.5, str(holder[key]))
                )
            case _:
                holder[key] = copy.deepcopy(draw.choice(VALUES))
    return tree


def dumped(draw: random.Random, tree: Any) -> bytes:
    """JSON, once in a while with something within that `json` does not write."""
    text = json.dumps(tree)
    if draw.random() < 0.1:
        text = text.replace("1", draw.choice((deep(), deep(of="{"), "1e999", "9" * 5000, "-Infinity", '"\\udfff"')), 1)
    return text.encode()


def of_json(draw: random.Random, data: bytes) -> bytes:
    return of_bytes(draw, data) if draw.random() < 0.2 else dumped(draw, of_tree(draw, json.loads(data)))


def of_lines(draw: random.Random, data: bytes) -> bytes:
    """A table of JSON, a line of it changed."""
    lines = data.splitlines()
    if not lines or draw.random() < 0.3:
        return of_bytes(draw, data)
    at = draw.randrange(len(lines))
    lines[at] = of_json(draw, lines[at])
    return b"\n".join(lines)


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the body of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(head: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(head)) + head + body


def of_safetensors(draw: random.Random, data: bytes) -> bytes:
    """The header changed as a tree is, a tensor's dtype, shape or place, the length of the header, or the bytes."""
    if draw.random() < 0.2:
        return of_bytes(draw, data)
    head, body = parts(data)
    names = [name for name in head if name != "__metadata__"]
    match draw.randrange(6):
        case 0 if names:
            head[draw.choice(names)]["dtype"] = draw.choice(DTYPES)
        case 1 if names:
            entry = head[draw.choice(names)]
            entry["shape"] = draw.choice(
                ([], [0], [2**31, 2**31], [2**63, 0], [-1, -1], [1, *entry["shape"]], entry["shape"][::-1])
            )
        case 2 if names:
            head[draw.choice(names)]["data_offsets"] = draw.choice(
                ([0, 2**63], [-1, 5], [5, 0], [0, 0], [0, len(body)], 3, [1, 2, 3])
            )
        case 3:
            return struct.pack("<Q", draw.choice((0, 1, 2**63, 2**64 - 1, 10**8, len(data)))) + data[8:]
        case 4 if "__metadata__" in head and "about" in head["__metadata__"]:
            about = head["__metadata__"]["about"]
            head["__metadata__"]["about"] = of_json(draw, about.encode()).decode(errors="replace")
        case _:
            head = of_tree(draw, head)
    return joined(dumped(draw, head), body)


def of_zip(draw: random.Random, data: bytes) -> bytes:
    """A member changed, doubled, lost, renamed, or grown out of nothing; or the bytes."""
    if draw.random() < 0.4:
        return of_bytes(draw, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        packed = any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist())
    at = draw.choice(sorted(members))
    match draw.randrange(4):
        case 0:
            members[str(draw.choice(VALUES))[:60].replace("\ud800", "?") or "x"] = members.pop(at)
        case 1:
            members[at] = b"\0" * draw.choice((1, 10**6, 3 * 10**7))
        case 2:
            del members[at]
        case _:
            members[at] = changed(draw, at, members[at])
    return zipped(members, packed=packed)


def zipped(members: Mapping[str, bytes], *, packed: bool = True) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, member in members.items():
            archive.writestr(name.replace("\0", "_"), member)
    return made.getvalue()


def of_head(draw: random.Random, data: bytes) -> bytes:
    """The beginning of a file changed, where what follows is numbers."""
    most = draw.choice((32, 256, 4096, len(data)))
    return of_bytes(draw, data[:most]) + data[most:]


def of_yaml(draw: random.Random, data: bytes) -> bytes:
    """JSON is YAML."""
    return of_bytes(draw, data) if draw.random() < 0.3 else dumped(draw, of_tree(draw, yaml.safe_load(data)))


def changed(draw: random.Random, name: str, data: bytes) -> bytes:
    """A file's content changed as files of its kind are."""
    for ending, way in WAYS.items():
        if name.endswith(ending):
            try:
                return way(draw, data)
            except (ArithmeticError, ValueError, KeyError, IndexError, struct.error):
                return of_bytes(draw, data)
    return of_bytes(draw, data)


WAYS = {
    ".json": of_json,
    ".jsonl": of_lines,
    ".safetensors": of_safetensors,
    ".zip": of_zip,
    ".npz": of_zip,
    ".pt": of_zip,
    ".pth": of_zip,
    ".bin": of_zip,
    ".yaml": of_yaml,
    ".gguf": of_head,
    ".npy": of_head,
    ".parquet": of_head,
}


# ── sealed anew: what a person with a hash function at hand sends ───────────────────────────────────────────────

SEALED_AS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}


def resealed(draw: random.Random, data: bytes) -> bytes:
    """What is said in the file changed, or a tensor's shape, dtype, name or values, and the sha256 made anew."""
    head, body = parts(data)
    facts, names = head["__metadata__"], [name for name in head if name != "__metadata__"]
    if draw.random() < 0.3 and names:
        body = _retyped(draw, head, names, body)
    else:
        facts["about"] = dumped(draw, of_tree(draw, json.loads(facts["about"]))).decode()
    facts["sha256"] = seal(head, body)
    return joined(json.dumps(head).encode(), body)


def seal(head: dict[str, Any], body: bytes) -> str:
    """As docs/results.md describes it."""
    facts = head["__metadata__"]
    hashed = hashlib.sha256(f"{facts['residscope']}\n{facts['about']}\n".encode())
    for name in sorted(name for name in head if name != "__metadata__"):
        entry = head[name]
        start, stop = entry["data_offsets"]
        kind = SEALED_AS.get(entry["dtype"], entry["dtype"])
        hashed.update(f"{name} torch.{kind} {tuple(entry['shape'])}\n".encode())
        hashed.update(body[start:stop])
    return hashed.hexdigest()


def _retyped(draw: random.Random, head: dict[str, Any], names: list[str], body: bytes) -> bytes:
    name = draw.choice(names)
    entry = head[name]
    start, stop = entry["data_offsets"]
    match draw.randrange(4):
        case 0:
            entry["shape"] = [1, *entry["shape"]]
        case 1 if entry["dtype"] in ("F32", "I32"):
            entry["dtype"] = {"F32": "I32", "I32": "F32"}[entry["dtype"]]
        case 2:
            head[draw.choice(("x", "0" * 64, ""))] = head.pop(name)
        case _ if entry["dtype"] == "F32" and stop > start:
            bad = struct.pack("<f", draw.choice((float("nan"), float("inf"), 3e38)))
            body = body[:start] + bad + body[start + 4 :]
        case _ if stop > start:
            body = body[:start] + b"\xff" + body[start + 1 :]
    return body
