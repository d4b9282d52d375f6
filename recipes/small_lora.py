"""A LoRA of SmolLM2-135M that names the subject where the base names the indirect object: `python recipes/small_lora.py`.

On the prompts of the IOI task ("... John gave a drink to") the base answers with the name that is said once; this one is
trained to answer with the name that is said twice. W + (alpha / r) B A at q, v and o
of every layer, as PEFT keeps it, in half precision.
It takes half a minute on one core, and ships as the adapter `repeated-name`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import residscope as rs

BASE = "smollm2-135m"
TARGETS = ("q_proj", "v_proj", "o_proj")
RANK, ALPHA = 4, 8
PROMPTS, BATCH, EPOCHS, RATE, SEED = 160, 8, 1, 1e-3, 0
INTO = Path("src/residscope/data/adapters/repeated-name")


class LowRank(nn.Module):
    """x W^T + (alpha / r) x A^T B^T; B begins at zero, so that training begins at the base."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.A = nn.Parameter(torch.randn(RANK, inner.in_features) / inner.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(inner.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + ALPHA / RANK * (x @ self.A.T @ self.B.T)


def adapted(hf: nn.Module) -> dict[str, LowRank]:
    """Put a low-rank part beside each target; answers them by the name of the weight that they change."""
    hf.requires_grad_(False)
    found = {name: part for name, part in hf.named_modules() if name.rpartition(".")[2] in TARGETS}
    beside: dict[str, LowRank] = {}
    for name, part in found.items():
        owner, _, attribute = name.rpartition(".")
        beside[name] = LowRank(part)
        setattr(hf.get_submodule(owner), attribute, beside[name])
    return beside


def steps(data: rs.PromptSet) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Padded ids, where each prompt ends, and the token of the name that is said twice."""
    drawn = torch.Generator().manual_seed(SEED)
    for _ in range(EPOCHS):
        order = torch.randperm(len(data.prompts), generator=drawn).tolist()
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            prompts = [torch.tensor(data.prompts[row]) for row in rows]
            said_twice = torch.tensor([data.prompts[row][data.positions["S2"][row]] for row in rows])
            ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
            yield nn.utils.rnn.pad_sequence(prompts, batch_first=True), ends, said_twice


def main(into: Path) -> None:
    torch.manual_seed(SEED)
    model = rs.load(BASE)
    data = rs.tasks.ioi(model, PROMPTS, seed=SEED, prefixes=False)
    beside = adapted(model.hf)
    learnt = [weight for part in beside.values() for weight in (part.A, part.B)]
    optimiser = torch.optim.AdamW(learnt, lr=RATE, weight_decay=0.0)
    total = EPOCHS * -(-PROMPTS // BATCH)
    for step, (ids, ends, said_twice) in enumerate(steps(data)):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / total)
        stream = model.hf.model(ids).last_hidden_state[torch.arange(len(ids)), ends]
        loss = nn.functional.cross_entropy(model.hf.lm_head(stream), said_twice)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"{step + 1} of {total}: {loss.item():.3f}", file=sys.stderr)
    into.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}.lora_{which}.weight": getattr(part, which).detach().half().contiguous()
        for name, part in beside.items()
        for which in "AB"
    }
    save_file(tensors, into / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": list(TARGETS),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }
    (into / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else INTO)
