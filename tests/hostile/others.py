"""Readers of other programs' files: models, adapters, dictionaries, graphs, tables, texts, plugins."""

import gzip
import importlib
import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

import residscope as rs
from hostile.whole import Files, Reader, folder_of, hf, model
from residscope.corpus.sources.files import documents_of
from residscope.declare import METHODS, plugins
from residscope.model.adapters import find_adapter, merge
from sae.written import saelens, weights
from tiny_gguf import gguf_of

TESTS = Path(__file__).parent.parent
NEURONPEDIA = TESTS / "graph" / "peers" / "circuit_tracer-0.5.0.json"

# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _model_folder() -> Files:
    def write(folder: Path) -> None:
        hf().save_pretrained(folder)
        model().tokenizer.save_pretrained(folder)

    return folder_of(write)


def _toy() -> Files:
    """A checkpoint as TransformerLens publishes it."""
    name = "NeelNanda/Attn-Only-2L512W-Shortformer-6B-big-lr"
    with safe_open(TESTS / "model" / "toys.safetensors", "pt") as file:
        start = f"{name}:state:"
        state = {key.removeprefix(start): file.get_tensor(key) for key in [*file.keys()] if key.startswith(start)}
        config = file.metadata()[name]

    def write(folder: Path) -> None:
        torch.save(state, folder / "model_final.pth")
        (folder / "config.json").write_text(config)

    return folder_of(write)


def _gguf() -> Files:
    return folder_of(lambda folder: gguf_of(hf(300), folder / "it.gguf"))


def _load_model(at: str = ".") -> Callable[[Path], Any]:
    return lambda folder: rs.load(str(folder / at))


def _adapter() -> Files:
    name = "base_model.model.model.layers.0.self_attn.o_proj.lora_"
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "base_model_name_or_path": "tiny"}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save({f"{name}A.weight": torch.ones(2, 16), f"{name}B.weight": torch.ones(16, 2)}),
    }


def _merge(folder: Path) -> None:
    merge(deepcopy(hf()), find_adapter(str(folder)))


def _tuned_lens() -> Files:
    state = {f"{i}.weight": torch.ones(16, 16) for i in range(2)} | {f"{i}.bias": torch.ones(16) for i in range(2)}
    config = {"num_hidden_layers": 2, "d_model": 16, "lens_type": "linear_tuned_lens"}

    def write(folder: Path) -> None:
        torch.save(state, folder / "params.pt")
        (folder / "config.json").write_text(json.dumps(config))

    return folder_of(write)


# ── dictionaries and graphs ─────────────────────────────────────────────────────────────────────────────────────


def _peer(name: str) -> Callable[[], Files]:
    """A folder that another program wrote, without what its tests expect of it."""

    def files() -> Files:
        place = TESTS / "sae" / "peers" / name
        found = {str(path.relative_to(place.parent)): path for path in place.rglob("*") if path.is_file()}
        return {at: path.read_bytes() for at, path in found.items() if path.name != "expected.safetensors"}

    return files


def _saelens() -> Files:
    return folder_of(lambda folder: saelens(folder, weights()))


def _gemma_scope() -> Files:
    parts = {name: part.numpy() for name, part in weights().items() if name != "W_skip"}

    def write(folder: Path) -> None:
        (place := folder / "gemma-scope-2b-pt-res" / "layer_1").mkdir(parents=True)
        np.savez(place / "params.npz", **parts)

    return folder_of(write)


def _openai() -> Files:
    w = weights()
    state = {"pre_bias": w["b_dec"], "latent_bias": w["b_enc"], "encoder.weight": w["W_enc"].T.contiguous()}
    more = {"activation": "TopK", "activation_state_dict": {"k": 4, "postact_fn": "ReLU"}}
    return folder_of(lambda folder: torch.save(state | more, folder / "layer_1.pt"))


CONFIG = "model_name: tiny\nfeature_input_hook: hook_resid_mid\n"


def _transcoders() -> Files:
    w = weights()
    parts = {"W_enc": w["W_enc"].T.contiguous()} | {name: w[name] for name in ("W_dec", "b_enc", "b_dec", "W_skip")}

    def write(folder: Path) -> None:
        save_file(parts, folder / "layer_0.safetensors")
        (folder / "config.yaml").write_text(f"{CONFIG}activation: topk\nk: 4\n")

    return folder_of(write)


def _cross_layer() -> Files:
    w = weights()

    def write(folder: Path) -> None:
        for i in range(2):
            encoder = {f"W_enc_{i}": w["W_enc"].T.contiguous(), f"b_enc_{i}": w["b_enc"], f"b_dec_{i}": w["b_dec"]}
            save_file(encoder, folder / f"W_enc_{i}.safetensors")
            save_file({f"W_dec_{i}": torch.stack([w["W_dec"]] * (2 - i), 1)}, folder / f"W_dec_{i}.safetensors")
        (folder / "config.yaml").write_text(CONFIG)

    return folder_of(write)


def _sae(files: Callable[[], Files]) -> Reader:
    """Of the resid_post.1 of any model where nothing says where it reads."""
    return Reader(files, lambda folder: rs.sae.load(folder, site="resid_post.1"))


# ── tables and texts ────────────────────────────────────────────────────────────────────────────────────────────

CSV = 'text,answer,wrong,kind,@S2\n"the store, Mary",a,b,one,Mary\nJohn gave milk,a,b,two,4:8\n'
JSONL = (
    '{"text": "the store", "answer": "a", "wrong": "b", "k": 1, "@S": [0, 3]}\n'
    '{"text": "to", "answer": "a", "wrong": "b", "k": null, "@S": ""}\n'
)


def _table(name: str) -> Callable[[Path], Any]:
    return lambda folder: rs.tasks.from_file(model(), folder / name)


def _documents(name: str) -> Callable[[Path], Any]:
    return lambda folder: [*documents_of(folder / name)]


def _parquet() -> Files:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": ["the store", "to"], "k": [1, 2]})
    return folder_of(lambda folder: parquet.write_table(table, folder / "it.parquet"))


# ── plugins ─────────────────────────────────────────────────────────────────────────────────────────────────────

PLUGIN = '''
from typing import Annotated
from residscope import Result, fields
from residscope.declare import method

@method("hostile-count", title="Count", group="prompts")
def count(model, prompts: Annotated[object, fields.prompts()], *, rounds: Annotated[int, fields.count(low=1)] = 3) -> Result:
    """How many tokens there are."""
    return 3
'''
POINTS = "[residscope.methods]\ncount = hostile_plugin\n[residscope.families]\nfamily = hostile_plugin:count\n"
ABOUT = "Metadata-Version: 2.1\nName: hostile-plugin\nVersion: 1.0\n"
INFO = "hostile_plugin-1.0.dist-info"


def _plugin() -> Files:
    files = {"hostile_plugin.py": PLUGIN, f"{INFO}/entry_points.txt": POINTS, f"{INFO}/METADATA": ABOUT}
    return {name: text.encode() for name, text in files.items()}


def _load_plugins(folder: Path) -> None:
    """As whoever lists what there is does: what fails is named and skipped, and nobody else's is gone."""
    had = dict(METHODS)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        for group in plugins.GROUPS:
            plugins.load_group.__wrapped__(group)  # type: ignore[attr-defined]
        assert all(METHODS.get(name) is one for name, one in had.items())
        for name in METHODS.keys() - had.keys():
            METHODS[name].schema()
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("hostile_plugin", None)
        plugins.BROKEN.clear()
        METHODS.clear()
        METHODS.update(had)


OTHERS = {
    "a model's folder": Reader(_model_folder, _load_model()),
    "a checkpoint of TransformerLens": Reader(_toy, _load_model()),
    "a GGUF file": Reader(_gguf, _load_model("it.gguf"), changed=("it.gguf",)),
    "an adapter": Reader(_adapter, _merge),
    "a tuned lens": Reader(_tuned_lens, lambda folder: rs.load_tuned_lens(model(), str(folder))),
    "a dictionary of SAELens": _sae(_saelens),
    "a dictionary of dictionary_learning": _sae(_peer("dictionary_learning-AutoEncoderTopK")),
    "a dictionary of Gemma Scope": _sae(_gemma_scope),
    "a dictionary of OpenAI": _sae(_openai),
    "a dictionary of sparsify": _sae(_peer("sparsify-80")),
    "transcoders of circuit-tracer": _sae(_transcoders),
    "cross-layer transcoders": Reader(_cross_layer, lambda folder: rs.sae.load(folder)),
    "a graph of Neuronpedia": Reader(
        lambda: {"it.json": NEURONPEDIA.read_bytes()}, lambda folder: rs.load_item(folder / "it.json")
    ),
    "a graph of circuit-tracer": Reader(
        lambda: {"it.pt": NEURONPEDIA.with_suffix(".pt").read_bytes()}, lambda folder: rs.load_item(folder / "it.pt")
    ),
    "a table, CSV": Reader(lambda: {"it.csv": CSV.encode()}, _table("it.csv")),
    "a table, JSON lines": Reader(lambda: {"it.jsonl": JSONL.encode()}, _table("it.jsonl")),
    "texts, JSON lines": Reader(lambda: {"it.jsonl": JSONL.encode()}, _documents("it.jsonl")),
    "texts, packed": Reader(lambda: {"it.jsonl.gz": gzip.compress(JSONL.encode() * 20)}, _documents("it.jsonl.gz")),
    "texts, Parquet": Reader(_parquet, _documents("it.parquet")),
    "a plugin": Reader(_plugin, _load_plugins, held=True),
}
