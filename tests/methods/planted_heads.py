"""A model of attention alone whose heads are set by hand: previous token, duplicate token, induction of either kind."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from residscope.engine.model import Model

VOCAB, PLACES, D_HEAD, HEADS = 40, 64, 112, 3
D = D_HEAD * HEADS
TOKEN, PLACE, BEFORE, COPY = (0, VOCAB, VOCAB + PLACES, 2 * VOCAB + PLACES)  # where each part of the stream begins
SHARP = 60.0  # of scores: a norm makes each part of the stream about 9 long
PREVIOUS, DUPLICATE, FIRST = (0, 0), (0, 1), (0, 2)
BY_KEYS, BY_QUERIES, AGAINST = (1, 0), (1, 1), (1, 2)


def planted() -> Model:
    """GPT-2's modules with no MLPs, two layers of three heads; the stream: token, place, the token before, the place of its copy.

    0.0 writes the token before; 0.1 the place of the earlier copy; 0.2 looks at the first token. 1.0 and 1.2 look at keys whose
    token before is the query's token, and write that key's token, 1.2 with a minus; 1.1 looks at the place after the copy's.
    """
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=D, n_layer=2, n_head=HEADS, n_positions=PLACES, n_inner=4, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            weight.fill_(1.0 if ".ln" in name and name.endswith("weight") else 0.0)
        tokens, places = torch.eye(VOCAB), torch.eye(PLACES)
        hf.transformer.wte.weight[:, TOKEN : TOKEN + VOCAB] = tokens.double()
        hf.transformer.wpe.weight[:, PLACE : PLACE + PLACES] = places.double()
        hf.lm_head.weight[:, TOKEN : TOKEN + VOCAB] = tokens.double()
        token, place = (TOKEN, VOCAB), (PLACE, PLACES)
        before, copy = (BEFORE, VOCAB), (COPY, PLACES)
        one_on = torch.diag(torch.ones(PLACES - 1), 1)  # row p gives p + 1
        _set(hf, PREVIOUS, query=[(place, one_on.T, 0)], key=[(place, places, 0)], value=(token, tokens), to=before)
        _set(
            hf, DUPLICATE, value=(place, places), to=copy, times=2.0,
            query=[(token, tokens, 0), (place, -places, VOCAB)], key=[(token, tokens, 0), (place, places, VOCAB)],
        )  # fmt: skip
        first = torch.zeros(PLACES, PLACES)
        first[:, 0] = 1
        _set(hf, FIRST, query=[(place, first, 0)], key=[(place, places, 0)], value=(token, 0 * tokens), to=before)
        for head, sign in ((BY_KEYS, 1.0), (AGAINST, -1.0)):
            _set(
                hf, head, query=[(token, tokens, 0)], key=[(before, tokens, 0)], value=(token, sign * tokens), to=token
            )
        _set(hf, BY_QUERIES, query=[(copy, one_on, 0)], key=[(place, places, 0)], value=(token, tokens), to=token)
    return Model(hf, name="planted heads")


def _set(hf, at, *, query, key, value, to, times=1.0):
    """Parts of the stream, each through a matrix, as a head's queries and keys; one as its values, written to another."""
    layer, head = at
    attn, own = hf.transformer.h[layer].attn, head * D_HEAD
    for which, parts in (("q", query), ("k", key)):
        begin = own + (D if which == "k" else 0)
        for (start, size), matrix, shift in parts:
            columns = slice(begin + shift, begin + shift + matrix.shape[1])
            scale = SHARP**0.5 / 4
            attn.c_attn.weight[start : start + size, columns] += scale * matrix.double()
    (start, size), matrix = value
    begin = 2 * D + own
    attn.c_attn.weight[start : start + size, begin : begin + matrix.shape[1]] = matrix.double()
    rows = slice(own, own + matrix.shape[1])
    attn.c_proj.weight[rows, to[0] : to[0] + to[1]] = times * torch.eye(matrix.shape[1]).double() / 9
