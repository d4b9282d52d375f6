"""python -m bench.peers.check [PEER ...]: do the peers compute what plain Hugging Face hooks compute, from the same weights?

Every number that a timing is reported beside is compared: logits, streams, patterns, patched logit differences at sampled
cells, steered tokens. Over 1e-3 of a logit, or another token, and it fails; a cell that moves nothing would prove nothing,
so the sampled cells must also differ from the unpatched run.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.peers import PEERS, Peer, default_folder

CLEAN = "When John and Mary went to the store, John gave a bottle of milk to"
CORRUPTED = "When Anna and Paul met in the park, Paul showed a picture of home to"
CELLS = [[0, 1], [3, 9], [10, 8], [17, 12], [29, 15]]
HEADS = [[0, 0], [5, 3], [12, 8], [20, 4], [29, 1]]
STRENGTH = 200.0  # about the stream's own norm at that layer, so that words change
TOLERANCE = 1e-3


class Plain:
    """The reference: a stock model and forward hooks, nothing else."""

    def __init__(self) -> None:
        folder = default_folder()
        self.hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.layers = self.hf.model.layers

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    def logits(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.hf(torch.tensor([ids]), use_cache=False).logits[0, -1]

    @contextmanager
    def entering(self, module: Any, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            new = change(x)
            return (
                None
                if new is None
                else ((new, *args[1:]), kwargs)
                if args
                else (args, {**kwargs, "hidden_states": new})
            )

        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def seen(self, module: Any, ids: list[int]) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        with self.entering(module, lambda x: kept.append(x.clone())):
            self.logits(ids)
        return kept[0]

    def patched(self, module: Any, clean: list[int], corrupted: list[int], where: Any) -> torch.Tensor:
        source = self.seen(module, clean)

        def put(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[where] = source[where]
            return x

        with self.entering(module, put):
            return self.logits(corrupted)


def differences(peer: Peer, plain: Plain) -> Iterator[tuple[str, float]]:
    """Each comparison's name and greatest absolute difference."""
    clean, corrupted = plain.ids(CLEAN), plain.ids(CORRUPTED)
    assert len(clean) == len(corrupted)
    answers = [plain.ids(" Mary")[0], plain.ids(" John")[0]]

    def metric(logits: torch.Tensor) -> float:
        return float(logits[answers[0]] - logits[answers[1]])

    logits = plain.logits(clean)
    yield "forward", float(np.abs(peer.call("forward", ids=[clean])["logits"][0] - logits.numpy()).max())
    record = peer.call("record", ids=[clean], everything=False)
    streams = np.stack([plain.seen(layer, clean).numpy() for layer in plain.layers])
    yield (
        "record, stream",
        float((np.abs(record["resid_pre"] - streams) / np.abs(streams).max((1, 3), keepdims=True)).max()),
    )
    with torch.no_grad():
        pattern = plain.hf(torch.tensor([clean]), output_attentions=True, use_cache=False).attentions[-1].numpy()
    yield "record, pattern", float(np.abs(record["pattern"] - pattern).max())
    given = {"clean": clean, "corrupted": corrupted, "answers": answers}
    base, d_head = metric(plain.logits(corrupted)), plain.hf.config.head_dim
    for op, cells, module, where in (
        ("residual_patch", CELLS, lambda layer: layer, lambda i: np.s_[:, i]),
        (
            "head_patch",
            HEADS,
            lambda layer: layer.self_attn.o_proj,
            lambda i: np.s_[..., i * d_head : (i + 1) * d_head],
        ),
    ):
        expected = [metric(plain.patched(module(plain.layers[at]), clean, corrupted, where(i))) for at, i in cells]
        assert np.abs(np.array(expected) - base).max() > 0.1
        yield op, float(np.abs(peer.call(op, **given, cells=cells)["metric"] - expected).max())
    if peer.name == "nnsight":
        many = peer.call("residual_patch", **given, cells=CELLS, batch=2)["metric"]
        yield (
            "residual_patch, invokes",
            float(np.abs(many - peer.call("residual_patch", **given, cells=CELLS)["metric"]).max()),
        )
    if peer.name == "transformer_lens":
        yield "generate", _generated(peer, plain, clean)


def _generated(peer: Peer, plain: Plain, ids: list[int]) -> float:
    """How many steered tokens differ; steering must change some, so that a hook that never ran would show."""
    vector = torch.randn(plain.hf.config.hidden_size, generator=torch.Generator().manual_seed(0))
    step = STRENGTH * vector / vector.norm()

    def greedy() -> np.ndarray:
        tokens = list(ids)
        for _ in range(12):
            tokens.append(int(plain.logits(tokens).argmax()))
        return np.array(tokens)

    with plain.entering(plain.layers[15], lambda x: x + step):
        steered = greedy()
    assert (steered != greedy()).any()
    given = {"layer": 15, "direction": vector.tolist(), "strength": STRENGTH, "new_tokens": 12}
    return float((peer.call("generate", ids=ids, **given)["tokens"] != steered).sum())


def main(names: list[str]) -> int:
    plain, failed = Plain(), 0
    for name in names or PEERS:
        with Peer(name) as peer:
            print(f"{name} {peer.about['version']}, {peer.about['threads']} threads")
            for what, worst in differences(peer, plain):
                failed += not worst <= TOLERANCE
                print(f"  {what:26} {worst:.1e} {'' if worst <= TOLERANCE else 'DIFFERS'}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
