"""dictionary_learning and SAELens as trainers: BatchTopK on activations that are given, in an environment of their own.

Started by `Peer("sae_training", python=...)`. Each library's own trainer takes each step, with its own defaults but for the rate,
its warm-up and decay, which are given.
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path).resolve() != HERE]  # files here are named after libraries
sys.modules["torchvision"] = None  # type: ignore[assignment]  # not made for the CPU's torch; nothing here needs it

import numpy as np  # noqa: E402
import torch  # noqa: E402

sys.path.append(str(HERE))
from wire import Clock, serve  # noqa: E402

sys.path.remove(str(HERE))
held: dict[str, Any] = {}


def load(clock: Clock, *, folder: str, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    return {"threads": threads, **{name: version(name) for name in ("sae-lens", "dictionary-learning", "torch")}}


def start(
    clock: Clock, *, library: str, file: str, features: int, k: int, batch: int, steps: int, lr: float
) -> dict[str, Any]:
    """file: a .npy of vectors whose mean square length is 1."""
    held.clear()
    x = torch.from_numpy(np.load(file))
    held.update(library=library, x=x, batch=batch, done=0)
    make = {"dictionary_learning": of_dictionary_learning, "sae_lens": of_sae_lens}[library]
    held["step"], held["rebuilt"] = make(x.shape[1], features, k, batch, steps, lr)
    return {}


def of_dictionary_learning(d: int, features: int, k: int, batch: int, steps: int, lr: float) -> Any:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    warm = max(1, steps // 10)
    trainer = BatchTopKTrainer(
        steps=steps, activation_dim=d, dict_size=features, k=k, layer=8, lm_name="", lr=lr, warmup_steps=warm,
        decay_start=max(warm + 1, steps - steps // 5), threshold_start_step=warm, seed=0, device="cpu",
    )  # fmt: skip
    return trainer.update, lambda x: (trainer.ae(x), trainer.ae.encode(x))


def of_sae_lens(d: int, features: int, k: int, batch: int, steps: int, lr: float) -> Any:
    from sae_lens import SAE
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=d, d_sae=features, k=k, device="cpu"))
    config = SAETrainerConfig(
        total_training_samples=steps * batch, train_batch_size_samples=batch, lr=lr, lr_end=lr / 10,
        lr_warm_up_steps=max(1, steps // 10), lr_decay_steps=steps // 5,
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    scale = d**0.5  # as its `expected_average_only_in` has it

    def step(number: int, x: torch.Tensor) -> None:
        trainer.step(x * scale)
        trainer.n_training_steps += 1

    def rebuilt(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            saved = SAE.load_from_disk(folder)
        a = saved.encode(x * scale)
        return saved.decode(a) / scale, a

    return step, rebuilt


def train(clock: Clock, *, count: int) -> dict[str, Any]:
    """So many more steps, on the vectors in their order, over and over."""
    x, batch = held["x"], held["batch"]
    for number in range(held["done"], held["done"] + count):
        at = number * batch % (len(x) - batch + 1)
        with clock.running():
            held["step"](number, x[at : at + batch])
    held["done"] += count
    return {}


def measure(clock: Clock, *, file: str) -> dict[str, Any]:
    """FVU and L0 of what was trained, as it would be saved, on other vectors."""
    x = torch.from_numpy(np.load(file))
    with torch.no_grad():
        given, a = held["rebuilt"](x)
    fvu = float((x - given).square().sum() / (x - x.mean(0)).square().sum())
    return {"fvu": fvu, "l0": float((a > 0).sum(1).float().mean())}


if __name__ == "__main__":
    serve({"load": load, "start": start, "train": train, "measure": measure})
