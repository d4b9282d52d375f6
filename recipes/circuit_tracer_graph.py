"""The graph of tests/graph/peers: made by circuit-tracer 0.5.0's own code on a tiny random model, its JSON and its `.pt`.

In a venv of its own: pip install torch==2.13.0, then circuit-tracer==0.5.0 transformers==4.57.3, and

    python recipes/circuit_tracer_graph.py tests/graph/peers

Two blocks of width 8, transcoders of 32 features of which 4 are active, 6 tokens; all weights uniform, seed 0.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from circuit_tracer import ReplacementModel
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.transcoder import SingleLayerTranscoder, TranscoderSet
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.utils.create_graph_files import create_graph_files
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

WORDS = ["<bos>", "the", "cat", "sat", "on", "a", "mat", "dog", "ran", "to", "it", "and", "or", "in", "of", "red"]
PROMPT = torch.tensor([0, 1, 2, 3, 4, 1])


def main(folder: Path) -> None:
    torch.manual_seed(0)
    with TemporaryDirectory() as place:
        words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<bos>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>", eos_token="<bos>").save_pretrained(place)
        config = HookedTransformerConfig(
            n_layers=2, d_model=8, n_ctx=32, d_head=4, n_heads=2, d_mlp=16, act_fn="gelu_new", d_vocab=len(WORDS), eps=1e-5,
            normalization_type="LN", positional_embedding_type="standard", tokenizer_name=place, model_name="tiny",
            original_architecture="GPT2LMHeadModel", default_prepend_bos=True, device="cpu", seed=0,
        )  # fmt: skip
        transcoders = {layer: SingleLayerTranscoder(8, 32, TopK(4), layer) for layer in range(2)}
        for parameter in (p for transcoder in transcoders.values() for p in transcoder.parameters()):
            torch.nn.init.uniform_(parameter, -1, 1)
        among = TranscoderSet(transcoders, feature_input_hook="ln2.hook_normalized", feature_output_hook="hook_mlp_out")
        model = ReplacementModel.from_config(config, among)
        for parameter in model.parameters():
            torch.nn.init.uniform_(parameter, -1, 1)
        graph = attribute(PROMPT, model, max_n_logits=3)
        graph.scan = "tiny"
        folder.mkdir(parents=True, exist_ok=True)
        graph.to_pt(str(folder / "circuit_tracer-0.5.0.pt"))
        create_graph_files(
            graph, "circuit_tracer-0.5.0", str(folder), scan="tiny", node_threshold=0.95, edge_threshold=0.99
        )
        (folder / "graph-metadata.json").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
