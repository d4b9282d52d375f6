"""What is kept of version 0.1, as plain data: the little model's parts, the edits, and what the page says to a session.

Only `make.py` reads it. What the tests check against is in the files beside the kept ones.
"""

import json
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

D, LAYERS, MLP = 32, 3, 48
WORDS = ("Mary", "John", "Anna", "Paul", "David", "Alice", "store", "book", "friend", "he", "she")
PROMPT = "Then, Mary and John went to the store. John gave a book to"
ROWS = [[5, 9, 2, 7, 7, 3, 40], [4, 8, 6, 11, 50], [60, 61, 62, 63, 64, 65, 66]]
MORE = [[9, 8, 7, 6, 5, 4, 3, 2], [30, 31, 32, 33, 34, 35, 36, 37], [70, 71, 72, 73, 74, 75, 76, 77]]
ONE = [12, 31, 44, 9, 58, 71, 23]


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each printable ASCII character, and for some words after a space."""
    vocab = {text: i for i, text in enumerate(["<s>", "</s>", *map(chr, range(32, 127))])}
    merges: list[tuple[str, str]] = []
    for word in sorted(WORDS, key=len):
        left = " "
        for letter in word:
            if left + letter not in vocab:
                vocab[left + letter] = len(vocab)
                merges.append((left, letter))
            left += letter
    inner = Tokenizer(models.BPE(vocab, merges))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def hf_model(vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=D, intermediate_size=MLP, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=192, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    hf = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.2)
            else:
                weight.mul_(20 if "embed" in name else 9)
    return hf.float().eval()


def vectors(n: int, seed: int, width: int = D) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).double()


def direction(seed: int, **facts: Any) -> dict[str, Any]:
    """A direction as the reference of `tests/attack` says it."""
    read = vectors(1, seed)[0]
    write = read + vectors(1, seed + 1)[0] / 4
    return {"read": read, "write": write, "vector": False, "space": "raw", "offset": 0.0, "scale": None} | facts


DICTIONARY = {"read": vectors(4, 7), "write": vectors(4, 8), "mean": vectors(1, 9)[0]}

# one line or more for each kind of edit, as plain data
SPECS: dict[str, dict[str, Any]] = {
    "ablate zero": {"kind": "ablate", "site": "z.1", "head": [0, 2], "pos": [3], "to": "zero"},
    "ablate mean": {"kind": "ablate", "site": "mlp_out.1", "to": "mean", "over": MORE},
    "ablate tensor": {"kind": "ablate", "site": "mlp_out.2", "pos": [-1, 2], "to": vectors(1, 1)[0].float().double()},
    "scale": {"kind": "scale", "site": "resid_mid.1", "factor": 0.3, "pos": [-1]},
    "scale neurons": {"kind": "scale", "site": "mlp_post.0", "factor": -2.0, "neuron": [1, 5]},
    "noise": {"kind": "noise", "site": "embed", "sigma": 0.2, "seed": 7, "pos": [4]},
    "steer": {
        "kind": "steer", "site": "resid_pre.2", "strength": 1.5, "unit": "sd", "pos": [6],
        "direction": direction(1, scale=1.5),
    },
    "steer by length": {
        "kind": "steer", "site": "resid_post.0", "strength": -2.0, "unit": "norm", "direction": direction(21),
    },
    "clamp": {
        "kind": "clamp", "site": "resid_mid.2", "value": 2.0, "pos": [-1],
        "direction": direction(1, offset=0.3, space="centred"),
    },
    "project_out": {
        "kind": "project_out", "site": "resid_post.1", "directions": [direction(1), direction(31)], "pos": [6, 2],
    },
    "freeze": {"kind": "freeze", "site": "pattern.1", "head": [1]},
    "isolate": {"kind": "isolate", "site": "z.2", "head": [3, 1], "pos": [6], "to": "zero"},
    "isolate values": {"kind": "isolate", "site": "v.1", "kv_head": [1], "to": "zero"},
    "patch": {"kind": "patch", "site": "resid_pre.1", "source": [ONE[::-1]], "recorded": True, "pos": [2, 3]},
    "patch aligned": {"kind": "patch", "site": "mlp_out.0", "source": [MORE[0][:5]], "align": {6: 0, 1: 3}},
    "patch features": {
        "kind": "patch", "site": "resid_pre.1", "source": [ONE[::-1]], "feature": [0, 2], "dictionary": DICTIONARY,
    },
    "path": {
        "kind": "path", "site": "q.2", "sender": "z.0", "sender_head": [1], "head": [0, 3], "source": [ONE[::-1]],
    },
    "feature": {"kind": "feature", "site": "resid_pre.1", "dictionary": DICTIONARY, "index": [3, 1], "scale": 0.5},
    "resample": {"kind": "resample", "site": "z.2", "to": "resample", "over": MORE, "seed": 4},
    "overlay": {
        "kind": "overlay", "site": "model.layers.1.mlp.down_proj",
        "A": torch.ones(MLP, 1).double() * 0.1, "B": vectors(1, 2),
    },
}  # fmt: skip
# a freeze alone changes nothing: something under it has to
UNDER_FREEZE = {"kind": "scale", "site": "embed", "factor": -4.0, "pos": [2, 4]}

TEXT = {
    "kind": "typed",
    "name": "mine.txt",
    "text": "\n\n".join(f"A paragraph, number {n}: {n * n}." for n in range(60)),
}
OTHER = {
    "kind": "typed",
    "name": "lines.jsonl",
    "text": "\n".join(json.dumps({"text": f"{n} THINGS TO DO?"}) for n in range(90)),
}
TABLE = "text,@KEY,kind,answer,wrong\n" + "".join(
    f"{'efgh'[i % 4]}{'ijkl'[i // 4 % 4]}{'ab'[i % 2]}{'lkji'[i % 3]},2:3,{'ab'[i % 2]},x,y\n" for i in range(48)
)
FILE = {"kind": "file", "name": "made.csv", "text": TABLE}
TASK = {"kind": "task", "task": "ioi", "n": 24, "seed": 0, "prefixes": False}
TASK_PROBE = "order at S2, resid_mid.1"
FILE_PROBE = "kind at KEY, resid_pre.2"
PCA = {"kind": "pca", "site": "resid_post.1", "weights": {"0": 1.0}}
MIX = {
    "kind": "mix", "site": "resid_post.1",
    "terms": [
        {"dictionary": "pca@resid_post.1", "index": 1, "weight": 0.5},
        {"dictionary": "svd@resid_pre.2", "index": 0, "weight": -0.25},
        {"saved": "kept for good", "weight": 0.3},
    ],
}  # fmt: skip
HEAD_PCA = {"kind": "mix", "terms": [{"dictionary": "pca@z.1.h2", "index": 0, "weight": 1.0}]}


def said() -> list[dict[str, Any]]:
    """What the page sends to a session, in order: every intent with every kind of argument, and the files it takes in."""
    edits = [
        {"kind": "ablate", "site": "z.1", "head": 0, "to": "zero", "pos": None},
        {"kind": "ablate", "site": "mlp_out.0", "to": "mean", "pos": [9]},
        {"kind": "scale", "site": "mlp_out.1", "factor": 0.5, "pos": None},
        {"kind": "scale", "site": "v.1", "kv_head": 1, "factor": 1.5, "pos": 4},
        {"kind": "scale", "site": "mlp_post.2", "neuron": [3, 7], "factor": 0.0},
        {"kind": "steer", "site": "resid_post.1", "direction": PCA, "strength": 2, "unit": "sd", "pos": [12]},
        {"kind": "steer", "site": "resid_post.1", "direction": MIX, "strength": 1.5, "unit": "norm", "pos": None},
        {"kind": "steer", "site": "z.1", "direction": HEAD_PCA, "strength": 1, "unit": "norm", "pos": None},
        {
            "kind": "steer", "site": "resid_post.2", "strength": 3, "unit": "norm", "pos": [-1],
            "direction": {"kind": "logit_diff", "positive": " Mary", "negative": " John"},
        },
        {"kind": "project_out", "site": "resid_post.0", "direction": {"kind": "saved", "name": "kept for good"}, "pos": None},
        {"kind": "project_out", "site": "resid_pre.2", "direction": {"kind": "token", "token": " book"}, "pos": [3, 5]},
        {"kind": "freeze", "site": "pattern.2"},
        {"kind": "freeze", "site": "final_scale"},
        {"kind": "lrqp", "site": "resid_mid.1", "probe": TASK_PROBE, "to": "BABA", "log_alpha": 3.5, "covariance": "total",
         "pos": [10]},
        {"kind": "lrqp", "site": "resid_pre.2", "probe": FILE_PROBE, "to": "neutral", "log_alpha": 0,
         "covariance": "within", "pos": [4]},
        {"kind": "set_concept", "site": "resid_mid.1", "probe": TASK_PROBE, "to": "ABBA", "method": "mean_difference",
         "pos": [11]},
        {"kind": "set_concept", "site": "resid_mid.1", "probe": TASK_PROBE, "to": "neutral", "method": "project_out", "pos": [8]},
        {
            "kind": "set_concept", "site": "resid_mid.1", "probe": TASK_PROBE, "to": "BABA", "method": "constant_dose",
            "dose": 2.5, "pos": [12],
        },
    ]  # fmt: skip
    probe = {"site": "resid_mid.1", "position": "S2", "label": "order"}
    fit = {"tokens": 1000, "text": TEXT}
    return [
        {"intent": "load_model", "args": {"name": "kept"}},
        {"intent": "set_prompt", "args": {"text": "a first prompt", "bos": False}},
        {"intent": "set_prompt", "args": {"text": PROMPT}},
        {"intent": "set_metric", "args": {"positive": None, "negative": None}},
        {"intent": "set_metric", "args": {"positive": " Mary", "negative": " John"}},
        {"intent": "select", "args": {"layer": -1, "pos": 3}},
        {"intent": "fit", "args": {"method": "pca", "site": "stream", "n": 3, **fit}},
        {"intent": "fit", "args": {"method": "pca", "site": "z.1", "head": 2, "n": 2, "standardise": True, **fit}},
        {"intent": "fit", "args": {"method": "svd", "site": "resid_pre.2", "n": 2, **fit}},
        {"intent": "fit", "args": {"method": "nmf", "site": "mlp_post.2", "n": 2, "clip": True, **fit}},
        {"intent": "fit", "args": {"method": "mean_difference", "site": "attn_out.1", "second": OTHER, **fit}},
        {"intent": "fit", "args": {"method": "unembedding", "words": [" Mary", "x"]}},
        {
            "intent": "fit",
            "args": {
                "method": "pca", "site": "resid_post.0", "n": 1, "tokens": 1000,
                "text": {"kind": "builtin", "name": "python-docs"},
            },
        },
        {"intent": "cancel_fit", "args": {}},
        {"intent": "forget_dictionary", "args": {"id": "pca@resid_post.0#2"}},
        {"import": "direction.safetensors"},
        {"import": "direction-of-another-program.safetensors"},
        {"intent": "read_data", "args": {"data": FILE}},
        {"intent": "read_data", "args": {"data": TASK}},
        {"intent": "fit_probe", "args": {"data": FILE, "site": "resid_pre.2", "position": "KEY", "label": "kind"}},
        {"intent": "fit_probe", "args": {"data": TASK, **probe}},
        {"intent": "cancel_probe", "args": {}},
        *({"intent": "add_edit", "args": {"edit": edit}} for edit in edits),
        {"intent": "set_edits", "args": {"edits": [{"id": "e1", "enabled": False, **edits[0]}, *edits[1:]]}},
        {"intent": "undo", "args": {}},
        {"intent": "redo", "args": {}},
        {"intent": "save_prompt", "args": {"text": PROMPT}},
        {"intent": "save_prompt", "args": {"text": " no: \"quotes\" & <b> #2?"}},
        {"intent": "save_prompt", "args": {"text": "soon forgotten"}},
        {"intent": "forget_prompt", "args": {"text": "soon forgotten"}},
        {"intent": "gather_evidence", "args": {"direction": PCA, "text": TEXT, "tokens": 1000}},
        {"intent": "cancel_evidence", "args": {}},
        {"intent": "compare_run", "args": {"run": "FIRST"}},
        {"intent": "compare_run", "args": {"run": None}},
        {"intent": "restore_run", "args": {"run": "LAST"}},
        {"intent": "python", "args": {}},
        {"intent": "python", "args": {"direction": MIX}},
    ]  # fmt: skip
