"""Dictionaries written, and read, by the libraries whose formats we read: run in an environment of its own (`make peers-sae`).

    python bench/peers/saes.py write FOLDER     a folder for each, with what that library makes of `x` beside it
    python bench/peers/saes.py read FOLDER      what sae-lens makes of `x` with each dictionary that Residscope wrote there
    python bench/peers/saes.py versions

It imports nothing of Residscope's.
"""

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path).resolve() != HERE]  # files here are named after libraries

sys.modules["torchvision"] = None  # of PyPI, and not made for the CPU's torch; nothing here needs it

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

D, F, K = 32, 24, 5
CONSTANT = {"normalize_activations": "constant_norm_rescale"}
PEERS = ("sae-lens", "dictionary-learning", "eai-sparsify", "torch")


def shaken(module, seed):
    """Every weight random, biases and thresholds too, so that a forgotten one shows."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            scale = 1 / D**0.5 if weight.ndim == 2 else 0.3
            value = torch.randn(weight.shape, generator=draw) * scale
            weight.copy_(value.abs() if "threshold" in name else value)
    return module.eval()


def inputs():
    draw = torch.Generator().manual_seed(7)
    return torch.randn(12, D, generator=draw) * 1.5 + torch.randn(D, generator=draw) * 0.5


def keep(folder, features, output):
    told = {"x": inputs(), "features": features.detach().float(), "output": output.detach().float()}
    save_file({name: x.contiguous().clone() for name, x in told.items()}, str(folder / "expected.safetensors"))


def saelens(into):
    from sae_lens import saes as S
    from sae_lens.saes.sae import SAEMetadata

    names = {"model_name": "gpt2-small", "hook_name": "blocks.2.hook_resid_pre", "prepend_bos": True}
    names |= {"sae_lens_version": version("sae-lens")}
    across = names | {"hook_name": "blocks.2.ln2.hook_normalized", "hook_name_out": "blocks.2.hook_mlp_out"}
    plain, coder = {"d_in": D, "d_sae": F}, {"d_in": D, "d_sae": F, "d_out": D, "apply_b_dec_to_input": False}
    made = {
        "standard": (S.StandardSAE, S.StandardSAEConfig, plain, names),
        "standard-unsubtracted": (S.StandardSAE, S.StandardSAEConfig, plain | {"apply_b_dec_to_input": False}, names),
        "standard-constant": (S.StandardSAE, S.StandardSAEConfig, plain | CONSTANT, names),
        "topk-rescaled": (S.TopKSAE, S.TopKSAEConfig, plain | {"k": K, "rescale_acts_by_decoder_norm": True}, names),
        "topk-layernorm": (S.TopKSAE, S.TopKSAEConfig, plain | {"k": K, "normalize_activations": "layer_norm"}, names),
        "jumprelu": (S.JumpReLUSAE, S.JumpReLUSAEConfig, plain, names),
        "gated": (S.GatedSAE, S.GatedSAEConfig, plain, names),
        "transcoder": (S.Transcoder, S.TranscoderConfig, coder, across),
        "skip-transcoder": (S.SkipTranscoder, S.SkipTranscoderConfig, coder, across),
        "jumprelu-transcoder": (S.JumpReLUTranscoder, S.JumpReLUTranscoderConfig, coder, across),
        "jumprelu-skip-transcoder": (S.JumpReLUSkipTranscoder, S.JumpReLUSkipTranscoderConfig, coder, across),
    }  # fmt: skip
    for seed, (name, (sae, config, kwargs, metadata)) in enumerate(made.items()):
        folder = into / f"saelens-{name}"
        sae = shaken(sae(config(**kwargs, metadata=SAEMetadata(**metadata))), seed)
        sae.save_model(folder)
        keep(folder, sae.encode(inputs()), sae(inputs()))
    trained = {
        "batchtopk": (S.BatchTopKTrainingSAE, S.BatchTopKTrainingSAEConfig, {}),
        "matryoshka": (S.MatryoshkaBatchTopKTrainingSAE, S.MatryoshkaBatchTopKTrainingSAEConfig, {"matryoshka_widths": [8, F]}),
    }  # fmt: skip
    for seed, (name, (sae, config, kwargs)) in enumerate(trained.items(), 20):
        sae = shaken(sae(config(**plain, k=K, **kwargs, metadata=SAEMetadata(**names))), seed)
        sae.topk_threshold.fill_(0.4)
        sae.save_inference_model(into / f"saelens-{name}")
        again = S.SAE.load_from_disk(into / f"saelens-{name}")
        keep(into / f"saelens-{name}", again.encode(inputs()), again(inputs()))
        sae.save_model(into / f"saelens-{name}-checkpoint")
        keep(into / f"saelens-{name}-checkpoint", again.encode(inputs()), again(inputs()))
    before_six(into, S)


def before_six(into, S):
    """As version 5 and those before it wrote them; what version 6 makes of such a folder is what is expected."""
    flat = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "model_name": "gpt2-small", "prepend_bos": True}
    flat |= {"hook_point": "blocks.2.hook_resid_pre", "hook_point_layer": 2, "hook_point_head_index": None}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    heads = {"hook_point": "blocks.2.attn.hook_z"}
    gates = {"b_gate": (F,), "b_mag": (F,), "r_mag": (F,)}
    made = {
        "standard": ("standard", flat | {"normalize_activations": False, "activation_fn_str": "relu"}, {}),
        "topk": ("standard", flat | topk | {"architecture": "standard"}, {}),
        "jumprelu": ("jumprelu", flat | {"architecture": "jumprelu", "apply_b_dec_to_input": False}, {"threshold": (F,)}),
        "gated": ("gated", flat | {"architecture": "gated", "activation_fn_str": "relu"}, gates),
        "heads": ("standard", flat | heads, {}),
        "scaling-factor": ("standard", flat | {"finetuning_scaling_factor": False}, {"scaling_factor": None}),
    }  # fmt: skip
    for seed, (name, (kind, cfg, more)) in enumerate(made.items(), 40):
        draw = torch.Generator().manual_seed(seed)
        shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_dec": (D,)} | ({} if kind == "gated" else {"b_enc": (F,)}) | more
        weights = {
            k: torch.ones(F)
            if shape is None
            else torch.randn(shape, generator=draw) * (D**-0.5 if len(shape) == 2 else 0.3)
            for k, shape in shapes.items()
        }
        weights |= {"threshold": weights["threshold"].abs()} if "threshold" in weights else {}
        folder = into / f"saelens5-{name}"
        folder.mkdir()
        save_file(weights, str(folder / "sae_weights.safetensors"))
        (folder / "cfg.json").write_text(json.dumps(cfg))
        sae = S.SAE.load_from_disk(folder)
        x = inputs().reshape(12, 4, D // 4) if name == "heads" else inputs()
        keep(folder, sae.encode(x), sae(x).reshape(12, D))


def dictionary_learning(into):
    from dictionary_learning import dictionary as dl
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK
    from dictionary_learning.utils import load_dictionary

    made = {
        "AutoEncoder": dl.AutoEncoder(D, F), "AutoEncoderNew": dl.AutoEncoderNew(D, F),
        "GatedAutoEncoder": dl.GatedAutoEncoder(D, F), "JumpReluAutoEncoder": dl.JumpReluAutoEncoder(D, F),
        "AutoEncoderTopK": AutoEncoderTopK(D, F, K), "BatchTopKSAE": BatchTopKSAE(D, F, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(D, F, K, [8, F - 8]),
    }  # fmt: skip
    for seed, (name, ae) in enumerate(made.items(), 60):
        shaken(ae, seed)
        if hasattr(ae, "k"):
            ae.threshold.fill_(0.35)
        folder = into / f"dictionary_learning-{name}"
        folder.mkdir()
        torch.save(ae.state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": name,
            "activation_dim": D,
            "dict_size": F,
            "layer": 2,
            "lm_name": "openai-community/gpt2",
        }
        trainer |= {"submodule_name": "resid_post_layer_2"} | ({"k": K} if hasattr(ae, "k") else {})
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
        again, _ = load_dictionary(str(folder), "cpu")
        keep(folder, again.encode(inputs()), again(inputs()))


def sparsify(into):
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    made = {
        "layers.2": SparseCoderConfig(num_latents=F, k=K),
        "layers.1.mlp": SparseCoderConfig(num_latents=F, k=K, transcode=True),
        "layers.3.mlp": SparseCoderConfig(num_latents=F, k=K, transcode=True, skip_connection=True),
    }
    for seed, (module, config) in enumerate(made.items(), 80):
        folder = into / f"sparsify-{seed}" / module
        coder = shaken(SparseCoder(D, config), seed)
        coder.save_to_disk(folder)
        found = coder(inputs())
        features = torch.zeros(12, F).scatter(1, found.latent_indices, found.latent_acts)
        keep(folder, features, found.sae_out)


def write(into):
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    with torch.no_grad():
        for library in (saelens, dictionary_learning, sparsify):
            library(into)
    (into / "versions.json").write_text(json.dumps({name: version(name) for name in PEERS}, indent=1) + "\n")


def read(folder):
    from sae_lens import SAE

    x = load_file(str(folder / "x.safetensors"))["x"]
    for cfg in sorted(folder.glob("*/cfg.json")):
        sae = SAE.load_from_disk(cfg.parent)
        with torch.no_grad():
            told = {"features": sae.encode(x), "output": sae(x)}
        save_file({name: value.contiguous() for name, value in told.items()}, str(cfg.parent / "theirs.safetensors"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder]:
            write(Path(folder))
        case ["read", folder]:
            read(Path(folder))
        case _:
            print(json.dumps({name: version(name) for name in PEERS}))
