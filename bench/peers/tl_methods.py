"""TransformerLens 4.3's measuring techniques, for `bench.peers.transformer_lens`: its own calls wherever it has one.

Raw: the bridge on the weights as they are. Folded: the same in compatibility mode, where the gains of norms are in the matrices
behind them and the unembedding is centred. What is written keeps its mean, which no LayerNorm reads but which has a length, and
values keep their biases, so that a head is z W_O.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from transformer_lens import head_detector
from transformer_lens.patching import get_act_patch_direct_path
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch
from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution
from transformer_lens.tools.analysis.logit_lens import logit_lens
from transformer_lens.utilities import composition_scores
from wire import Clock

raw: Any = None
folded: Callable[[], Any]


def use(bridge: Any, again: Callable[[], Any]) -> None:
    """The bridge, and how to make another, which is folded when something asks for it."""
    global raw, folded
    made: list[Any] = []

    def once() -> Any:
        if not made:
            made.append(again())
            made[0].enable_compatibility_mode(
                disable_warnings=True, center_writing_weights=False, fold_value_biases=False
            )
        return made[0]

    raw, folded = bridge, once


def difference(answers: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda logits: logits[0, -1, answers[0]] - logits[0, -1, answers[1]]


def lens(clock: Clock, ids: list[int], k: int = 5) -> dict[str, Any]:
    """Every row and position: the k largest probabilities, the entropy; and the rows' names."""
    with clock.running():
        found = logit_lens(raw, torch.tensor([ids]), positions=None, return_type="probs", top_k=k)
    readout = found.readout
    assert readout.top_ids is not None
    return {
        "probability": readout.values[:, 0].numpy(),
        "top": readout.top_ids[:, 0].numpy(),
        "entropy": readout.entropy[:, 0].numpy(),
        "rows": list(found.labels),
    }


def attribution(clock: Clock, ids: list[int], answers: list[int], unit: str) -> dict[str, Any]:
    """The difference of two logits at the end by component or by head; and the parts' names."""
    model, one, other = folded(), *answers
    with clock.running():
        found = direct_logit_attribution(model, torch.tensor([ids]), one, other, unit=unit)
    return {"values": found.attribution[:, 0].numpy(), "labels": list(found.labels)}


def heads(clock: Clock, text: str, name: str, keep: list[list[int]] | None = None) -> dict[str, Any]:
    """Each head's score of one of the three kinds; with `keep`, its pattern over the queries and keys kept in each layer."""
    tokens = raw.to_tokens(text)
    pattern = getattr(head_detector, f"get_{name}_detection_pattern")(tokens)
    if keep is None:
        with clock.running():
            score = head_detector.detect_head(raw, text, name)
        return {"score": score.numpy(), "ids": tokens[0].tolist()}
    rows, asked = [], []
    _, cache = raw.run_with_cache(tokens, remove_batch_dim=True)
    for layer, kept in enumerate(keep):
        mask = torch.zeros(tokens.shape[1], dtype=torch.bool)
        mask[kept] = True
        own = pattern * mask[:, None] * mask
        with clock.running():
            score = head_detector.detect_head(raw, text, own, heads={layer: [*range(raw.cfg.n_heads)]}, cache=cache)
        rows.append(score[layer].numpy())
        asked.append(int(own.any(1).sum()))
    return {"score": np.stack(rows), "asked": asked, "ids": tokens[0].tolist()}


def composition(clock: Clock, mode: str, writers: list[int] | None = None) -> dict[str, Any]:
    """[layer head layer head], 0 where the reader is not of a later layer; of some writing layers, one at a time, all readers.

    All at once its call holds two copies of d_model x d_head for each pair of heads: 21 GB of SmolLM2.
    """
    model = folded()
    with clock.running():
        if writers is None:
            return {"score": model.all_composition_scores(mode).scores.detach().numpy()}
        OV, QK = model.OV, model.QK
        right = {"Q": QK, "K": QK.T, "V": OV}[mode]
        found = [composition_scores(OV[layer], right, broadcast_dims=True) for layer in writers]
    return {"score": torch.stack(found).detach().numpy()}


def factored(clock: Clock, layer: int, head: int, circuit: str) -> dict[str, Any]:
    """One head's OV or QK: the product, its singular values, the moduli of its eigenvalues."""
    model = folded()
    with clock.running():
        matrix = getattr(model, circuit)[layer, head]
        S = matrix.S
    return {
        "product": matrix.AB.detach().numpy(),
        "singular": S.detach().numpy(),
        "moduli": matrix.eigenvalues.abs().sort(descending=True).values.detach().numpy(),
    }


def direct_edges(
    clock: Clock, clean: list[int], corrupted: list[int], answers: list[int], sender: list[int], read: str
) -> dict[str, Any]:
    """The metric of the corrupted run with one head's clean write as each later head alone reads it: [layer head], 0 before."""
    one, other, names = torch.tensor([clean]), torch.tensor([corrupted]), f"blocks.{sender[0]}.attn.hook_z"
    (_, here), (_, there) = (raw.run_with_cache(x, names_filter=names) for x in (one, other))
    with clock.running():
        found = get_act_patch_direct_path(
            raw, other, here, there, difference(answers), *sender, component=read, verbose=False
        )
    return {"metric": found.numpy(), "corrupted": float(difference(answers)(raw(other)))}


def edge_estimates(clock: Clock, clean: list[int], corrupted: list[int], answers: list[int]) -> dict[str, Any]:
    """Edge attribution patching, summed over positions: the ends of each edge and its score."""
    config = EdgeAttributionConfig(granularity="edge")
    with torch.enable_grad(), clock.running():
        found = attribution_patch(raw, torch.tensor([clean]), torch.tensor([corrupted]), difference(answers), config)
    total: dict[tuple[str, str], float] = {}
    for ends, score in found.edge_scores.items():
        pair = tuple("|".join(str(x) for x in (node.kind, node.layer, node.head)) for node in ends)
        total[pair] = total.get(pair, 0.0) + score
    return {"edges": [list(pair) for pair in total], "score": np.array([*total.values()])}


def path_patch(
    clock: Clock, clean: list[int], corrupted: list[int], answers: list[int], cells: list[list[int]],
    receiver: list[int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The metric of the clean run along each head's paths to the logits, or to one head's query, through no other head.

    It has no call for this. Each cell is what its users write: a run with every head's z put back but the sender's, which is
    the corrupted run's; with a receiver, a second run in which its query is what it was in the first.
    """
    metric = difference(answers)
    is_z = lambda name: name.endswith("hook_z")  # noqa: E731
    _, here = raw.run_with_cache(torch.tensor([clean]), names_filter=is_z)
    _, there = raw.run_with_cache(torch.tensor([corrupted]), names_filter=is_z)
    tokens, found = torch.tensor([clean]), []

    def held(z: torch.Tensor, hook: Any, layer: int, sender: Sequence[int]) -> torch.Tensor:
        own = here["z", layer]
        if layer == sender[0]:
            own = own.clone()
            own[:, :, sender[1]] = there["z", layer][:, :, sender[1]]
        return own

    with clock.running():
        for sender in cells:
            hooks: list[Any] = [
                (f"blocks.{layer}.attn.hook_z", partial(held, layer=layer, sender=sender))
                for layer in range(raw.cfg.n_layers)
            ]
            if receiver is None:
                found.append(metric(raw.run_with_hooks(tokens, fwd_hooks=hooks)))
                continue
            name, kept = f"blocks.{receiver[0]}.attn.hook_q", []
            raw.run_with_hooks(tokens, fwd_hooks=[*hooks, (name, lambda q, hook, kept=kept: kept.append(q.clone()))])

            def put(q: torch.Tensor, hook: Any, kept: list[torch.Tensor] = kept) -> torch.Tensor:
                q = q.clone()
                q[:, :, receiver[1]] = kept[0][:, :, receiver[1]]
                return q

            found.append(metric(raw.run_with_hooks(tokens, fwd_hooks=[(name, put)])))
    return {"metric": torch.stack(found).numpy(), "clean": float(metric(raw(tokens)))}


@contextmanager
def forked() -> Iterator[None]:
    """Each head's query, key and value input and its result, and the MLPs' inputs, as tensors of their own."""
    switches = (raw.set_use_split_qkv_input, raw.set_use_attn_result, raw.set_use_hook_mlp_in)
    for switch in switches:
        switch(True)
    try:
        yield
    finally:
        for switch in switches:
            switch(False)


def eap_ig(clock: Clock, clean: list[int], corrupted: list[int], answers: list[int], steps: int) -> dict[str, Any]:
    """EAP-IG as its authors run it on this library: one backward pass a step, a hook on every reader that scores its edges there.

        score(s -> r) = (w_s' - w_s) . mean over k = 0 ... m - 1 of dm/dx_r at e' + k/m (e - e')      ' of the corrupted prompt

    Written anew from Hanna et al. 2024 (2403.17806): their code runs on no bridge. Gives [writer reader]:
    the embedding, then each layer's heads and MLP; each layer's queries, keys and values (as many as there are), MLP, the logits.
    """
    here, there = torch.tensor([clean]), torch.tensor([corrupted])
    layers, metric = range(raw.cfg.n_layers), difference(answers)
    writers = ["hook_embed", *(f"blocks.{i}.{x}" for i in layers for x in ("attn.hook_result", "hook_mlp_out"))]
    found: dict[str, torch.Tensor] = {}

    def score(grad: torch.Tensor, hook: Any, name: str, before: int) -> None:
        grad = grad if grad.ndim == 4 else grad[:, :, None]
        found[name] = found.get(name, 0) + torch.einsum("spd,prd->sr", changes[:before], grad[0]) / steps

    def moved(embed: torch.Tensor, hook: Any, k: int) -> torch.Tensor:
        return (there_writes[0][:, :, 0] + k / steps * (here_writes[0] - there_writes[0])[:, :, 0]).requires_grad_()

    def written(tokens: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            _, cache = raw.run_with_cache(tokens, names_filter=writers)
        return [(x if x.ndim == 4 else x[:, :, None]).clone() for x in (cache[name] for name in writers)]

    with forked(), clock.running():
        there_writes, here_writes = written(there), written(here)
        changes = torch.cat([a - b for a, b in zip(there_writes, here_writes, strict=True)], 2)[0].movedim(1, 0)
        readers, before = [], 1
        for i in layers:
            readers += [(f"blocks.{i}.hook_{x}_input", before) for x in "qkv"]
            readers += [(f"blocks.{i}.hook_mlp_in", before + raw.cfg.n_heads)]
            before += raw.cfg.n_heads + 1
        readers.append((f"blocks.{layers[-1]}.hook_resid_post", before))
        hooks = [(name, partial(score, name=name, before=before)) for name, before in readers]
        for k in range(steps):
            with torch.enable_grad(), raw.hooks([("hook_embed", partial(moved, k=k))], hooks):
                metric(raw(here)).backward()
    rows = len(changes)
    padded = [torch.nn.functional.pad(found[name], (0, 0, 0, rows - len(found[name]))) for name, _ in readers]
    return {"score": torch.cat(padded, 1).numpy(), "readers": [x.shape[1] for x in padded]}


OPS = (lens, attribution, heads, composition, factored, direct_edges, edge_estimates, eap_ig, path_patch)
