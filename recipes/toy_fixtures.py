"""What TransformerLens itself computes on tiny toys of every published kind: the reference that our class is held to.

    python -m venv /tmp/tl3
    /tmp/tl3/bin/pip install torch==2.13.0 transformer-lens==3.2.1 transformers==4.57.3
    /tmp/tl3/bin/python recipes/toy_fixtures.py       seconds; writes tests/model/toys.safetensors

Each kind is a configuration as published on the hub, read by TransformerLens' own reader, with random weights (norms and
biases too). Kept are the checkpoint in the published layout, tokens, and in float64 the logits and some activations.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as loading
from transformer_lens.pretrained.weight_conversions.neel_solu_old import convert_neel_solu_old_weights

OUT = Path(__file__).parent.parent / "tests/model/toys.safetensors"
SIZES = {"d_model": 10, "d_head": 3, "n_heads": 2, "n_ctx": 8, "d_vocab": 17, "d_mlp": 14}
ATTENTION = {**SIZES, "attn_only": True, "act_fn": "gelu"}
MLP = {**SIZES, "attn_only": False}
KINDS = {  # the published names are those whose layout each kind has
    "NeelNanda/Attn_Only_1L512W_C4_Code": {**ATTENTION, "n_layers": 1, "normalization": "LNPre"},
    "NeelNanda/Attn_Only_2L512W_C4_Code": {**ATTENTION, "n_layers": 2, "normalization": "LN"},
    "NeelNanda/Attn-Only-2L512W-Shortformer-6B-big-lr": {
        **ATTENTION, "n_layers": 2, "normalization": "LN", "shortformer_pos": True,
    },
    "NeelNanda/GELU_2L512W_C4_Code": {**MLP, "n_layers": 2, "act_fn": "gelu", "normalization": "LN"},
    "NeelNanda/SoLU_2L512W_C4_Code": {**MLP, "n_layers": 2, "act_fn": "solu_ln", "normalization": "LN"},
    "NeelNanda/SoLU_1L512W_C4_Code": {**MLP, "n_layers": 1, "act_fn": "solu_ln", "normalization": "LNPre"},
    "NeelNanda/SoLU_1L_v9_old": {
        **MLP, "n_layers": 1, "act_fn": "solu_ln", "normalization_type": "LN", "final_rms": True,
    },
}  # fmt: skip
KEPT = ("hook_resid_post", "attn.hook_pattern", "attn.hook_z", "mlp.hook_post")


def as_read(name: str, published: dict[str, object]) -> HookedTransformerConfig:
    """The configuration TransformerLens makes of a published one."""
    loading.utils.download_file_from_hf = lambda *_, **__: dict(published)
    fields = loading.convert_neel_model_config(name)
    return HookedTransformerConfig.from_dict(
        {**fields, "dtype": torch.float64, "device": "cpu", "tokenizer_name": None}
    )


def in_old_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint of the first SoLU models: matrices the other way round, norms under another name."""
    turned = {k: v.transpose(-2, -1) if "W_" in k else v for k, v in state.items()}
    return {k.replace("ln_final", "norm").replace("ln", "norm"): v.contiguous() for k, v in turned.items()}


def main() -> None:
    kept: dict[str, torch.Tensor] = {}
    configs = {}
    for seed, (name, published) in enumerate(KINDS.items()):
        generator = torch.Generator().manual_seed(seed)
        model = HookedTransformer(as_read(name, published))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                scale = 0.5 if "W_" in key else 0.2
                drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float32) * scale
                weight.copy_(drawn + (1.0 if key.endswith(".w") else 0.0))
        tokens = torch.randint(0, SIZES["d_vocab"], (2, 6), generator=generator)
        logits, cache = model.run_with_cache(tokens)
        parameters = {key for key, _ in model.named_parameters()}
        state = {k: v.float() if k in parameters else v for k, v in model.state_dict().items()}
        if name.endswith("_old"):
            new, state = state, in_old_layout(state)
            again = convert_neel_solu_old_weights(dict(state), model.cfg)
            assert new.keys() == again.keys()
            assert all(torch.equal(new[k], again[k]) for k in new)
        configs[name] = json.dumps(published)
        last = f"blocks.{published['n_layers'] - 1}."
        seen = {k: cache[k] for k in (last + hook for hook in KEPT) if k in cache}
        for part, tensors in (("state", state), ("seen", {"tokens": tokens, "logits": logits, **seen})):
            kept |= {f"{name}:{part}:{key}": value.detach().contiguous() for key, value in tensors.items()}
    save_file(kept, OUT, metadata=configs)
    print(f"{OUT}: {OUT.stat().st_size / 1e3:.0f} kB, {len(configs)} kinds")


if __name__ == "__main__":
    main()
