"""A small tokenizer of each kind, built offline, and tiny models that read with them."""

from functools import cache
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from residscope.engine.model import Model

WORDS = ("Mary", "John", "the", "store", "bottle", "of", "milk", "to", "went", "gave", "and")
CHARACTERS = [chr(c) for c in range(33, 127)]
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]
BEYOND = 5  # ids that a model has and its tokenizer has not


def merged(words: tuple[str, ...]) -> tuple[list[str], list[tuple[str, str]]]:
    """What is needed to put words together from the left, a character at a time."""
    tokens: dict[str, None] = {}
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for i in range(1, len(word)):
            merges[word[:i], word[i]] = None
            tokens[word[: i + 1]] = None
    return list(tokens), list(merges)


def sentencepiece(*, prepend: str, fallback: bool = True, unigram: bool = False) -> Tokenizer:
    """As Llama 2 ("prepend"), later Llamas ("first", "always") and Gemma ("never") have them."""
    pieces, merges = merged((*(f"▁{word}" for word in WORDS), "Mary"))
    singles = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    tokens = [*SPECIALS, *singles, "▁", *CHARACTERS, *(p for p in pieces if len(p) > 1), "▁▁"]
    if unigram:
        inner = Tokenizer(models.Unigram([(t, -float(len(t) < 3) - 1) for t in tokens], 0, byte_fallback=fallback))
    else:
        vocab = {token: i for i, token in enumerate(tokens)}
        inner = Tokenizer(
            models.BPE(vocab, [*merges, ("▁", "▁")], unk_token="<unk>", byte_fallback=fallback, fuse_unk=True)
        )
    if prepend in ("first", "always"):
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    else:
        before = [normalizers.Prepend("▁")] if prepend == "prepend" else []
        inner.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    strip = [] if prepend == "never" else [decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return inner


def byte_level() -> Tokenizer:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIALS, show_progress=False
    )
    inner.train_from_iterator(["the store, Mary and John gave the milk — naïve “日本” 👩‍🚀  \n\n"] * 9, trainer)
    return inner


def wordpiece() -> Tokenizer:
    words = [word.lower() for word in WORDS]
    letters = [chr(c) for c in range(97, 123)]
    tokens = [*SPECIALS, *letters, *(f"##{a}" for a in letters), *words, ",", ".", "##,", "'", "##ing"]
    inner = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def word_level() -> Tokenizer:
    tokens = [*SPECIALS, *WORDS, ",", "."]
    inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


def word_ends() -> Tokenizer:
    """As the first GPT had it: a word's last piece ends in </w>."""
    ended = [f"{c}</w>" for c in CHARACTERS]
    merges = [(w[:-1], f"{w[-1]}</w>") for w in WORDS]
    pieces, inner_merges = merged(tuple(w[:-1] for w in WORDS if len(w) > 2))
    tokens = dict.fromkeys([*SPECIALS, *CHARACTERS, *ended, *pieces, *(f"{w}</w>" for w in WORDS)])
    model = models.BPE(
        {token: i for i, token in enumerate(tokens)}, [*inner_merges, *merges], unk_token="<unk>",
        end_of_word_suffix="</w>",
    )  # fmt: skip
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    inner.decoder = decoders.BPEDecoder("</w>")
    return inner


KINDS: dict[str, Any] = {
    "byte level": byte_level,
    "llama 2": lambda: sentencepiece(prepend="prepend"),
    "metaspace first": lambda: sentencepiece(prepend="first"),
    "metaspace always": lambda: sentencepiece(prepend="always"),
    "gemma": lambda: sentencepiece(prepend="never"),
    "unigram": lambda: sentencepiece(prepend="first", unigram=True),
    "no fallback": lambda: sentencepiece(prepend="never", fallback=False),
    "wordpiece": wordpiece,
    "word level": word_level,
    "word ends": word_ends,
}


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


@cache
def reader(kind: str, *, bos: bool = False) -> Model:
    """A tiny model with that tokenizer, and a few ids more than it."""
    torch.manual_seed(0)
    words = tokenizer(kind)
    config = LlamaConfig(
        vocab_size=len(words) + BEYOND, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return Model(LlamaForCausalLM(config).double().eval(), words, name=kind, bos=bos)
