"""python -m bench.peers.check_saes: do dictionaries mean the same here and in the libraries that wrote them, and the other way?

Each library writes its own kinds in its own process; what we make of them must be what it makes of them. Then we write SAELens'
format, and SAELens must give our activations. Over 1e-5, and it fails; so it does where nothing is active or all is.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import residscope as rs
from residscope.directions import EncoderDictionary

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".bench-venv-sae" / "bin" / "python"
TOLERANCE = 1e-5


def peer(python: Path, *words: str) -> str:
    """What `saes.py` says, run by the peers' own Python."""
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [str(python), str(HERE / "saes.py"), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **quiet}).stdout


def theirs(folder: Path) -> Iterator[tuple[str, float, bool]]:
    """Of each dictionary that a library wrote: its name, the largest difference, whether some features are on and some off."""
    for expected in sorted(folder.rglob("expected.safetensors")):
        told, sae = load_file(expected), rs.sae.load(expected.parent)
        assert isinstance(sae, EncoderDictionary)
        yield expected.parent.relative_to(folder).as_posix(), _far(sae, told["x"], told), _lively(told["features"])


def ours(folder: Path, python: Path) -> Iterator[tuple[str, float, bool]]:
    """The same of dictionaries of ours, as SAELens reads what `rs.sae.save` wrote."""
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(1)) * 2
    made = dict(_made())
    for name, sae in made.items():
        rs.sae.save(sae, folder / name)
    save_file({"x": x}, folder / "x.safetensors")
    peer(python, "read", str(folder))
    for name, sae in made.items():
        told = load_file(folder / name / "theirs.safetensors")
        yield f"ours: {name}", _far(sae, x, told), _lively(told["features"])


def _made() -> Iterator[tuple[str, EncoderDictionary]]:
    draw = torch.Generator().manual_seed(2)

    def new(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * (32**-0.5 if len(shape) == 2 else 0.3)

    kinds = {
        "relu": {}, "topk": {"activation": "topk", "k": 5}, "jumprelu": {"activation": "jumprelu", "threshold": new(24).abs()},
        "gated": {"activation": "gated", "gate_bias": new(24), "gate_scale": new(24)}, "layer norm": {"normalise": "layer_norm"},
        "constant norm": {"normalise": "constant_norm"}, "transcoder": {"written": "mlp_out.3"},
        "skip transcoder": {"written": "mlp_out.3", "skip": new(32, 32)},
        "jumprelu skip": {"written": "mlp_out.3", "skip": new(32, 32), "activation": "jumprelu", "threshold": new(24).abs()},
    }  # fmt: skip
    for name, kind in kinds.items():
        parts = {"read": new(24, 32), "write": new(24, 32), "mean": new(32), "bias": new(24), "base": new(32)}
        yield name, EncoderDictionary("sae", "mlp_in.3", **{**parts, **kind})


def _far(sae: EncoderDictionary, x: Tensor, told: dict[str, Tensor]) -> float:
    features, output = sae.encode(x), sae.reconstruct(x)
    return max(float((features - told["features"]).abs().max()), float((output - told["output"]).abs().max()))


def _lively(features: Tensor) -> bool:
    return 0.02 < float((features > 0).float().mean()) < 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, default=PYTHON, help="the peers' own (make peers-sae)")
    python = parser.parse_args().python
    print(peer(python, "versions").strip())
    with TemporaryDirectory() as folder:
        peer(python, "write", f"{folder}/theirs")
        Path(folder, "ours").mkdir()
        rows = [*theirs(Path(folder, "theirs")), *ours(Path(folder, "ours"), python)]
    for name, far, lively in rows:
        print(f"{name:50} {far:.2e}{'' if lively else '  nothing active, or all'}")
    bad = [name for name, far, lively in rows if far > TOLERANCE or not lively]
    print(f"{len(rows)} dictionaries, the largest difference {max(far for _, far, _ in rows):.2e}")
    sys.exit(f"over {TOLERANCE:g}: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
