"""The prompts in whatever was handed over: text, or token ids as Python, numpy, torch and Hugging Face have them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import IOBase
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from residscope.errors import BadPrompt, EmptyPrompt, PaddedPrompt

Row = str | list[int]
INERT = ("special_tokens_mask", "offset_mapping", "length", "overflow_to_sample_mapping", "labels")
SEEN_OR_HEARD = ("pixel", "image", "video", "audio", "input_features", "feature_attention")
KEYS = ("input_ids", "attention_mask", "token_type_ids", *INERT)
FORMS = "text, token ids, several of either, what a tokenizer returns, or a PromptSet"


@dataclass(frozen=True)
class Rows:
    """The prompts, all texts or all token ids, and how sure it is where they end.

    ends_known: a mask or lengths said so. array: they came as one rectangle, where short rows must have been padded.
    """

    rows: list[Row]
    ends_known: bool = False
    array: bool = False


def rows_of(prompt: Any) -> Rows:
    """The prompts of whatever was given.

    Raises:
        BadPrompt: neither text nor token ids, or both at once. EmptyPrompt. PaddedPrompt: a mask with holes.
    """
    if isinstance(prompt, str):
        return Rows([prompt], ends_known=True)
    if isinstance(prompt, Mapping):
        return _tokenized(prompt)
    if _is_encoding(prompt):
        return _tokenized({"input_ids": prompt.ids, "attention_mask": prompt.attention_mask})
    if isinstance(prompt, Tensor | np.ndarray):
        return _array(prompt)
    items = _items(prompt)
    if not items:
        raise EmptyPrompt("the prompt is empty", received=shown(prompt), fix="give text, or at least one token id")
    if all(isinstance(item, str) for item in items):
        return Rows(items, ends_known=True)
    if all(map(_is_number, items)):
        return Rows([[*map(_id, items)]])
    parts = [_one(item) for item in items]
    return Rows([part.rows[0] for part in parts], ends_known=all(part.ends_known for part in parts))


def _one(item: Any) -> Rows:
    """One prompt of several, which are token ids: texts stand among texts."""
    if isinstance(item, str) or _is_number(item):
        raise BadPrompt(
            "texts and token ids, or ids and lists of them, are mixed",
            received=shown(item),
            allowed="texts alone, token ids alone, or lists of token ids alone",
            fix="turn the texts into ids with model.tokens(text)[0].tolist()",
        )
    if isinstance(item, Tensor | np.ndarray | Mapping) or _is_encoding(item):
        single = rows_of(item)
        if len(single.rows) == 1 and not isinstance(single.rows[0], str):
            return single
    else:
        ids = _items(item)
        if all(map(_is_number, ids)):
            return Rows([[*map(_id, ids)]])
    raise BadPrompt(
        "the prompt is nested too deep", received=shown(item), allowed=FORMS, fix="give one list of ids a row"
    )


def _items(value: Any) -> list[Any]:
    if isinstance(value, bytes | bytearray | memoryview):
        _refuse(value, fix="decode it: data.decode()")
    if isinstance(value, set | frozenset):
        _refuse(value, fix="give a list: a set has no order")
    if isinstance(value, IOBase) or hasattr(value, "columns"):
        _refuse(value, fix="give the text, or a list of the texts, of the file or table")
    if not isinstance(value, Iterable) and not hasattr(value, "__getitem__"):
        _refuse(value)
    try:
        return list(value)
    except (TypeError, KeyError, ValueError, RuntimeError):
        _refuse(value)


def _array(values: Any) -> Rows:
    """A tensor or an array: one row of ids, or a rectangle of them."""
    if isinstance(values, np.ndarray) and (values.dtype.kind in "UTO"):
        return rows_of(_items(values))
    if values.ndim == 0:
        _refuse(values, fix="give a list of one id: [5]" if _is_number(values) else None)
    if 0 in values.shape:
        raise EmptyPrompt("the prompt has no tokens", received=f"shape {tuple(values.shape)}", fix="give at least one")
    kind = str(values.dtype).removeprefix("torch.")
    if not kind.startswith(("int", "uint")) or values.ndim > 2:
        raise BadPrompt(
            "an array of token ids holds integers, in one row or in rows",
            received=f"{type(values).__name__} of {values.dtype}, shape {tuple(values.shape)}",
            allowed="integers of any width, shape [pos] or [batch, pos]",
        )
    try:
        rows = values.tolist()
    except (RuntimeError, NotImplementedError):
        _refuse(values)
    rows = rows if values.ndim == 2 else [rows]
    if any(i is None for row in rows for i in row):
        raise BadPrompt("entries of the array are masked", received=shown(values), allowed=FORMS)
    lengths = _lengths(values, rows)
    if lengths is None:
        return Rows(rows, array=True)
    return Rows([row[:end] for row, end in zip(rows, lengths, strict=True)], ends_known=True)


def mark(ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """Padded ids that know where their rows end, as long as they are handed on as they are."""
    marked: Any = ids
    marked.lengths, marked.padding = tuple(lengths), _padding(ids.tolist(), lengths)
    return ids


def _lengths(ids: Any, rows: list[list[int]]) -> tuple[int, ...] | None:
    """What `mark` wrote, where it is still true of these ids."""
    lengths, padding = getattr(ids, "lengths", None), getattr(ids, "padding", None)
    if not isinstance(lengths, tuple) or len(lengths) != len(rows):
        return None
    return lengths if _padding(rows, lengths) == padding else None


def _padding(rows: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    return [row[end:] for row, end in zip(rows, lengths, strict=True)]


def _tokenized(encoded: Mapping[Any, Any]) -> Rows:
    """What a tokenizer returns: ids, without the padding that their mask names."""
    strange = [key for key in encoded if key not in KEYS]
    if media := [key for key in strange if str(key).startswith(SEEN_OR_HEARD)]:
        raise BadPrompt(
            "images and sound are not taken: of a model that reads them, the text decoder is served",
            received=f"keys {', '.join(media)}",
            allowed="text, or its token ids",
            fix="give the text without its images",
        )
    if "input_ids" not in encoded or strange:
        fix = f"leave out {', '.join(map(str, strange))}" if "input_ids" in encoded else None
        raise BadPrompt(
            "a mapping is read as what a tokenizer returns",
            received=f"keys {', '.join(map(str, encoded)) or 'none'}",
            allowed=f"input_ids, and perhaps {', '.join(KEYS[1:])}",
            fix="a conversation goes through model.chat([...])" if "role" in encoded or "messages" in encoded else fix,
        )
    mask, given = encoded.get("attention_mask"), encoded["input_ids"]
    ids = rows_of(given.detach() if isinstance(given, Tensor) and mask is not None else given)
    if any(isinstance(row, str) for row in ids.rows):
        raise BadPrompt("input_ids are numbers", received=shown(given), allowed=FORMS)
    types = encoded.get("token_type_ids")
    if types is not None and any(value != 0 for row in _nested(types) for value in row):
        raise BadPrompt(
            "a decoder reads one text, of token type 0",
            received="token_type_ids that are not all 0",
            fix="leave them out",
        )
    if mask is None:
        return ids if ids.ends_known else Rows(ids.rows, array=True)
    masks = _nested(mask)
    if [*map(len, masks)] != [*map(len, ids.rows)]:
        raise BadPrompt(
            "the attention mask is of another shape than the ids",
            received=f"rows of {[*map(len, masks)]} for rows of {[*map(len, ids.rows)]}",
            allowed="one 0 or 1 for each id",
        )
    return Rows([_unpadded(row, own) for row, own in zip(ids.rows, masks, strict=True)], ends_known=True)


def _unpadded(ids: Row, mask: list[Any]) -> Row:
    """The ids that a row's mask keeps, which must stand together."""
    if not all(isinstance(value, bool | int | float) and value in (0, 1) for value in mask):
        raise BadPrompt("an attention mask holds numbers", received=shown(mask), allowed="0 and 1")
    real = [i for i, value in enumerate(mask) if value]
    if not real:
        raise EmptyPrompt("the attention mask leaves nothing of a row", received=shown(mask), fix="leave the row out")
    if real[-1] - real[0] + 1 != len(real):
        raise PaddedPrompt(
            "the attention mask has holes",
            received=shown(mask),
            allowed="padding before or after the tokens, not between them",
            fix="leave the masked tokens out, or cut attention with edits at pattern or scores",
        )
    return ids[real[0] : real[-1] + 1]


def _nested(values: Any) -> list[list[Any]]:
    """A mask in rows, whatever it came as."""
    rows = values.tolist() if isinstance(values, Tensor | np.ndarray) else _items(values)
    rows = [row.tolist() if isinstance(row, Tensor | np.ndarray) else row for row in rows]
    if not any(isinstance(row, Iterable) for row in rows):
        return [rows]
    return [_items(row) for row in rows]


def _is_encoding(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "tokenizers" and hasattr(value, "attention_mask")


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0
    return isinstance(value, int | float | complex | np.generic) and not isinstance(value, str | bytes)


def _id(value: Any) -> int:
    if type(value) is int:
        return value
    number = value.item() if isinstance(value, Tensor | np.ndarray | np.integer) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadPrompt("a token id is a whole number", received=shown(value), allowed="integers")
    return int(number)


def _refuse(value: Any, fix: str | None = None) -> NoReturn:
    raise BadPrompt("that is no prompt", received=shown(value), allowed=FORMS, fix=fix)


def shown(value: Any) -> str:
    """What came, on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
