"""A transformer written by hand: a country's feature writes that it is asked for, which writes its capital's logit.

Llama's own class, three blocks of width 64, in which every feature has a direction of its own: the rows of a Hadamard matrix, at
right angles. All tokens carry one long constant direction (length K), so that each RMSNorm divides by the same number to one
part in 10^5, and its gain makes that division one. With x the stream in those directions:

    block 0, MLP         country_j += silu(200 word_j - 20) / 180       for each of four countries
    block 1, attention   asked_j   += the country_j that is attended to: keys read 12 per country, 6 at the first token
    block 0, 1, MLP      idle 0.0, idle 1.k  += a constant; the head writes one too, idle 1.0
    block 2, MLP         answer_j  += silu(200 asked_j - 20) / 90
    block 2, MLP         idle 2.k  += a constant
    logits               capital_j  = 4 answer_j, 1 for each of the other common words, 0 for countries

So at every later token the model says the country's capital, with probability 0.971; all else is active and does nothing to it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residscope.model import catalog

if TYPE_CHECKING:
    from torch import Tensor

NAME = "planted"
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima"}
FILLERS = (
    "the", "a", "of", "in", "to", "and", "is", "was", "we", "they", "people", "city", "capital", "river", "old", "big", "small",
    "went", "saw", "live", "from", "with", "by", "on", "at", "near", "over", "long", "road",
)  # fmt: skip
WORDS = (*CAPITALS, *CAPITALS.values(), *FILLERS)
SPECIAL = ("<s>", "<unk>")
SPACE = "▁"
D, LAYERS, HEADS, MLP = 64, 3, 4, 16
CONSTANT = 256.0  # K
GATE, OFF = 200.0, 20.0  # of a neuron: silu(180) is 180 and silu(-20) is 0, to one part in 10^7
IDLE = {0: (0.8,), 1: (0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 2: (0.9, 1.0, 1.2, 1.3, 1.4, 1.6)}
ANSWER, LOGIT = 2.0, 8.0
CONTEXT = 256


def directions() -> "dict[str, Tensor]":
    """Every direction of the stream by name, each of length one and at right angles to the others."""
    import torch

    rows = torch.ones(1, 1)
    for _ in range(6):
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    names = ["constant", f"word {SPECIAL[0]}", *(f"word {word}" for word in WORDS)]
    names += [f"{kind} {country}" for kind in ("country", "asked", "answer") for country in CAPITALS]
    names += [f"idle {layer}.{k}" for layer, strengths in IDLE.items() for k in range(len(strengths))]
    return dict(zip(names, rows / 8, strict=True))


def ids() -> dict[str, int]:
    """The id of each token: the special ones, then the words with the space before them."""
    return {token: i for i, token in enumerate((*SPECIAL, *(f"{SPACE}{word}" for word in WORDS)))}


def build() -> Any:
    """The model, a `LlamaForCausalLM` in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(ids()), hidden_size=D, intermediate_size=MLP, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, max_position_embeddings=CONTEXT, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        pad_token_id=None, rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e8},
    )  # fmt: skip
    hf = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, weight in hf.named_parameters():
        weight.copy_(torch.full_like(weight, CONSTANT / 8 if "norm" in name else 0.0))
    d, known, decoder = directions(), ids(), hf.model
    one = d["constant"] / CONSTANT  # reads 1 everywhere
    decoder.embed_tokens.weight += CONSTANT * d["constant"]
    for word in (SPECIAL[0], *WORDS):
        decoder.embed_tokens.weight[known.get(word, known.get(SPACE + word, 0))] += d[f"word {word}"]
    for word in FILLERS:
        hf.lm_head.weight[known[SPACE + word]] += one
    for j, (country, capital) in enumerate(CAPITALS.items()):
        _neuron(decoder.layers[0].mlp, j, d[f"word {country}"], d[f"country {country}"], one)
        _neuron(decoder.layers[2].mlp, j, d[f"asked {country}"], ANSWER * d[f"answer {country}"], one)
        hf.lm_head.weight[known[SPACE + capital]] += LOGIT / ANSWER * d[f"answer {country}"]
    for layer, strengths in IDLE.items():
        for k, strength in enumerate(strengths):
            if (layer, k) != (1, 0):  # which the head writes
                _neuron(decoder.layers[layer].mlp, len(CAPITALS) + k, one, strength * d[f"idle {layer}.{k}"], one)
    _attend(decoder.layers[1].self_attn, d, one)
    return hf


def _neuron(mlp: Any, i: int, reads: "Tensor", writes: "Tensor", one: "Tensor") -> None:
    """A neuron that writes a direction where what it reads is 1, and nothing where that is 0."""
    mlp.gate_proj.weight[i] = GATE * reads - OFF * one
    mlp.up_proj.weight[i] = one
    mlp.down_proj.weight[:, i] = writes / (GATE - OFF)


def _attend(attention: Any, d: "Mapping[str, Tensor]", one: "Tensor") -> None:
    """Head 0 looks at countries, at the first token where there is none, and moves what they are.

    Queries and keys stand in the slowest of the rotary pairs, which at base 10^8 turns by 10^-7 a token.
    """
    slow = D // HEADS // 2 - 1
    attention.q_proj.weight[slow] = 8 * one
    countries = sum((d[f"country {country}"] for country in CAPITALS), start=one)
    attention.k_proj.weight[slow] = 12 * countries + 6 * d[f"word {SPECIAL[0]}"]
    attention.v_proj.weight[len(CAPITALS)] = one
    attention.o_proj.weight[:, len(CAPITALS)] = IDLE[1][0] * d["idle 1.0"]
    for j, country in enumerate(CAPITALS):
        attention.v_proj.weight[j] = d[f"country {country}"]
        attention.o_proj.weight[:, j] = d[f"asked {country}"]


def tokenizer() -> Any:
    """Words with the space before them; what is none of them is `<unk>`."""
    return words_tokenizer(ids(), CONTEXT)


def words_tokenizer(known: Mapping[str, int], context: int) -> Any:
    """A tokenizer of whole words, by their ids, which begins a text with `<s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(dict(known), unk_token=SPECIAL[1]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    first = SPECIAL[0]
    backend.post_processor = processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, known[first])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=first, eos_token=first, unk_token=SPECIAL[1], model_max_length=context
    )


def folder() -> Path:
    """The model's folder in the cache, written by the first call."""

    def make(folder: Path) -> None:
        build().save_pretrained(folder)
        tokenizer().save_pretrained(folder)

    return catalog.made_once(catalog.model_folder(catalog.CATALOG[NAME]), make, lock=NAME)
