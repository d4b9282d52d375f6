"""Prompts as token ids: texts through the tokenizer, ids as they are, padding never as text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from residscope.errors import (
    BadConversation,
    BadPrompt,
    EmptyPrompt,
    NoBOS,
    NoChatTemplate,
    NoTokenizer,
    PaddedPrompt,
    PromptTooLong,
    UnknownToken,
)
from residscope.model.prompts import Batch, PromptSet, pad
from residscope.model.rows import Rows, rows_of, shown
from residscope.model.token_text import BYTE_LEVEL, TokenText

if TYPE_CHECKING:
    from residscope.engine.model import Model


def batch_of(model: "Model", prompt: Any, bos: bool | None) -> Batch:
    """Any prompt as one right-padded batch; see `Model.batch`."""
    if isinstance(prompt, Batch):
        return prompt
    given = _rows_of_set(prompt) if isinstance(prompt, PromptSet) else rows_of(prompt)
    if not given.ends_known:
        _refuse_padding(given, model.tokenizer)
    rows = [encode(model, row, bos) if isinstance(row, str) else row for row in given.rows]
    if not rows or not all(rows):
        raise EmptyPrompt("the prompt has no tokens", received=shown(prompt), fix="give at least one token")
    for row in rows:
        _check(model, row)
    batch = pad(rows, device=model.device, pad_id=_filler(model))
    answers = prompt.answers if isinstance(prompt, PromptSet) else None
    return batch if answers is None else replace(batch, answers=answers)


def _rows_of_set(prompts: PromptSet) -> Rows:
    return Rows([row if isinstance(row, str) else [*row] for row in prompts.prompts])


def encode(model: "Model", text: str, bos: bool | None) -> list[int]:
    """A text's ids; see `Model.encode`."""
    if "\0" in text:
        raise BadPrompt(
            "the text holds a NUL character, which tokenizers drop or end at",
            received=shown(text),
            allowed="text without it",
            fix="text.replace('\\0', '')",
            on_page="take it out of the text",
        )
    ids = _ids(model, text, bos)
    if dropped := _dropped(model.tokenizer, text):
        raise BadPrompt(
            "the tokenizer has no token for a part of the text, and would drop it",
            received=", ".join(map(repr, dropped)),
            allowed="characters that the tokenizer knows",
            fix="leave them out",
        )
    return ids


def read(model: "Model", text: str, bos: bool | None = None) -> tuple[list[int], int]:
    """The ids of all of a text that the tokenizer has tokens for, and how many characters it has none for: those that `encode`
    refuses."""
    legible = text.replace("\0", "").encode(errors="ignore").decode()
    ids = _ids(model, legible, bos)
    return ids, len(text) - len(legible) + sum(_dropped(model.tokenizer, legible).values())


def _ids(model: "Model", text: str, bos: bool | None) -> list[int]:
    """What the tokenizer makes of a text, BOS in front where it is the model's habit or asked for; none where it is nothing."""
    if model.tokenizer is None:
        raise NoTokenizer("this model came without a tokenizer", received=shown(text), allowed="token ids")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadPrompt(
            "the text holds half a character",
            received=shown(text),
            allowed="text without lone surrogates",
            fix="decode it with errors='replace', or text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')",
        ) from None
    ids: list[int] = list(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    begin = model.tokenizer.bos_token_id
    if (model.bos if bos is None else bos) and begin is None:
        raise NoBOS(
            "this tokenizer has no BOS token", received="bos=True", allowed="bos=False, or None", fix="leave bos out"
        )
    if ids and (model.bos if bos is None else bos) and ids[0] != begin:
        return [begin, *ids]
    return ids


def conversation(model: "Model", messages: Any, *, answer: bool) -> str:
    """Messages in the model's own template; see `Model.chat`."""
    if model.tokenizer is None or not getattr(model.tokenizer, "chat_template", None):
        raise NoChatTemplate(
            "the tokenizer has no chat template", fix="give plain text, or set model.tokenizer.chat_template"
        )
    allowed = "messages such as {'role': 'user', 'content': 'Hello'}, in a list"
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise BadConversation("a conversation is a list of messages", received=shown(messages), allowed=allowed)
    turns = list(messages)
    if not turns:
        raise EmptyPrompt("the conversation has no messages", received=shown(messages), allowed=allowed)
    for turn in turns:
        spoken = isinstance(turn, Mapping) and isinstance(turn.get("role"), str)
        if not spoken or ("tool_calls" not in turn and not isinstance(turn.get("content"), str | list)):
            raise BadConversation("that is no message", received=shown(turn), allowed=allowed)
    try:
        text = model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer)
    except Exception as error:  # a template is a program of its own, and raises what it likes
        raise BadConversation(
            "the chat template does not take these messages",
            received=f"roles {', '.join(turn['role'] for turn in turns)}; it says: {error}",
            allowed="the roles and the order that the template knows",
            fix="see model.tokenizer.chat_template",
        ) from error
    return str(text)


def chat_text(model: "Model", messages: Any, *, answer: bool) -> tuple[str, bool]:
    """A conversation in the model's template, and whether BOS is still to be put in front: where it is the model's habit, it
    stands there exactly once, whatever the template writes."""
    text, begin = conversation(model, messages, answer=answer), getattr(model.tokenizer, "bos_token", None)
    while begin and text.startswith(2 * begin):
        text = text.removeprefix(begin)
    return text, model.bos and not (begin and text.startswith(begin))


def row_of(ids: Any) -> list[int]:
    """One row of token ids in whatever they came as; none is a row too. Raises BadPrompt."""
    if isinstance(ids, list) and all(type(i) is int for i in ids):
        return ids
    try:
        rows = rows_of(ids).rows
    except EmptyPrompt:
        return []
    if len(rows) != 1 or isinstance(rows[0], str):
        raise BadPrompt("one row of token ids is read", received=shown(ids), allowed="ids of one prompt")
    return list(rows[0])


def without_bos(model: "Model", ids: Sequence[int]) -> Sequence[int]:
    """A row without the BOS that the model's habit puts in front."""
    habit = model.bos and model.tokenizer is not None and len(ids) > 0 and ids[0] == model.tokenizer.bos_token_id
    return ids[1:] if habit else ids


def token_id(model: "Model", token: Any, tokens: TokenText) -> int:
    """The id of a string that is exactly one token; see `Model.token_id`."""
    if not isinstance(token, str):
        return _checked_id(model, token)
    named = tokens.id_of(token)
    if named is not None:
        return _checked_id(model, named)
    ids = _ids(model, token.removeprefix(" ") if tokens.begins_with_space else token, bos=False)
    unknown = ids == [getattr(model.tokenizer, "unk_token_id", None)]
    if len(ids) == 1 and not unknown and ids == _ids(model, token, False) == _ids(model, f" {token}", False):
        return _checked_id(model, ids[0])  # a tokenizer that drops the space, or the case, of what is typed
    near = [name for name in _near(token) if tokens.id_of(name) is not None]
    raise UnknownToken(
        "not one token",
        received=f"{token!r}, which is "
        + ("unknown to the tokenizer" if unknown else f"{len(ids)} tokens: {tokens.named(ids)}"),
        allowed="a string that is exactly one token in the middle of a text, with its space where it has one",
        fix=f"one token each: {', '.join(map(repr, near))}" if near else "give one of its tokens, or a token id",
    )


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts BOS in front by itself."""
    if tokenizer is None or tokenizer.bos_token_id is None:
        return False
    return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])


def _near(token: str) -> list[str]:
    """What may have been meant: with or without the space, and in other case."""
    bare = token.strip()
    words = dict.fromkeys([bare, bare.capitalize(), bare.lower()])
    return [name for word in words for name in (f" {word}", word, f"{word} ") if name != token and word]


def _dropped(tokenizer: Any, text: str) -> dict[str, int]:
    """The characters that byte-pair merging without an unknown token leaves out, without a word, and how often."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    merges: Any = getattr(backend, "model", None)
    if backend is None or type(merges).__name__ != "BPE" or merges.unk_token is not None or merges.byte_fallback:
        return {}
    bytewise = backend.pre_tokenizer is not None and b"ByteLevel" in backend.pre_tokenizer.__getstate__()
    if backend.normalizer is not None or (backend.pre_tokenizer is not None and not bytewise):
        return {}  # what is looked up is not what was typed

    def known(character: str) -> bool:
        units = (BYTE_LEVEL[byte] for byte in character.encode()) if bytewise else character
        return all(backend.token_to_id(unit) is not None for unit in units)

    unknown = [character for character in dict.fromkeys(text) if not known(character)]
    if unknown:
        for token in tokenizer.added_tokens_decoder.values():
            text = text.replace(str(token), "")
    return {character: text.count(character) for character in unknown if character in text}


def _check(model: "Model", row: Sequence[int]) -> None:
    if len(row) > model.context:
        raise PromptTooLong(
            "the prompt is longer than the model's context",
            received=f"{len(row)} tokens",
            allowed=f"at most {model.context} tokens",
            fix="shorten it, or split it",
        )
    if not 0 <= min(row) <= max(row) < model.d_vocab:
        raise UnknownToken(
            "a token id is outside the vocabulary",
            received=str(next(i for i in row if not 0 <= i < model.d_vocab)),
            allowed=f"0 to {model.d_vocab - 1}",
        )
    if media := [i for i in row if i in model.layout.placeholders]:
        raise BadPrompt(
            "a token stands for an image or sound, which are not taken: of this model the text decoder is served",
            received=f"token id {media[0]}, {len(media)} times",
            allowed="text alone",
            fix="leave out what stands for images and sound",
        )


def _checked_id(model: "Model", token: Any) -> int:
    whole = hasattr(token, "__index__") and not isinstance(token, bool)
    try:
        id = int(token.__index__()) if whole else -1
    except TypeError:
        whole, id = False, -1
    if not whole or not 0 <= id < model.d_vocab:
        raise UnknownToken(
            "no such token id", received=shown(token), allowed=f"a string of one token, or 0 to {model.d_vocab - 1}"
        )
    return id


def _pad_id(tokenizer: Any) -> int | None:
    """The id that this tokenizer pads with, or would."""
    names = ("pad_token_id", "eos_token_id", "bos_token_id")
    return next((id for name in names if (id := getattr(tokenizer, name, None)) is not None), None)


def _filler(model: "Model") -> int:
    id = _pad_id(model.tokenizer)
    return id if id is not None and 0 <= id < model.d_vocab else 0


def _refuse_padding(given: Rows, tokenizer: Any) -> None:
    """Refuse ids that look padded: nothing says which of them a text had.

    In an array: rows that begin, or end, with different numbers of the padding id, or with any where it has no other meaning.
    In lists, which say their own lengths, only rows of one length that differ so in an id without other meaning.
    """
    pad_id, rows = _pad_id(tokenizer), given.rows
    if pad_id is None or any(isinstance(row, str) for row in rows) or len({*map(len, rows)}) != 1:
        return
    if not any(row[:1] == [pad_id] or row[-1:] == [pad_id] for row in map(list, rows)):
        return
    other = [getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id", "unk_token_id")]
    alone = pad_id not in other
    edges = [(_run(row, pad_id), _run(row[::-1], pad_id)) for row in rows]
    begins, ends = ({*numbers} for numbers in zip(*edges, strict=True))
    differ = len(begins) > 1 or len(ends) > 1
    padded = differ or any(edge != (len(row), len(row)) for edge, row in zip(edges, rows, strict=True))
    if (given.array and (differ or (alone and padded))) or (alone and differ):
        raise PaddedPrompt(
            "the ids look padded, and nothing says which of them are padding",
            received=f"rows of {len(rows[0])} that begin with {sorted(begins)} and end with {sorted(ends)} of the id {pad_id}",
            allowed="what the tokenizer returns, with its attention_mask; what model.tokens returns; lists of ids",
            fix="model.run(model.tokenizer(texts, padding=True, return_tensors='pt'))",
        )


def _run(row: Any, id: int) -> int:
    return next((i for i, other in enumerate(row) if other != id), len(row))
