"""python -m bench.peers.check_methods [FOLDER]: are our measuring techniques TransformerLens' own, wherever it has them?

By default on SmolLM2; a folder holds another model as `save_pretrained` writes it, with its tokenizer. Each comparison is the
greatest difference as a share of the greatest value. Over 1e-4 and it fails.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import residscope as rs
from bench.peers import Peer, PeerError, default_folder
from residscope.engine.sinks import kept
from residscope.methods._lib.heads.declared import HEAD_SCORES

TOLERANCE = 1e-4
CLEAN = "When John and Mary went to the store, John gave a bottle of milk to"
CORRUPTED = "When John and Mary went to the store, Mary gave a bottle of milk to"
DETECTORS = {
    "previous_token_head": "previous-token",
    "duplicate_token_head": "duplicate-token",
    "induction_head": "induction",
}
Found = Iterator[tuple[str, float]]


class Case:
    """A model, two prompts of one length, two answers: as ids, which both sides take."""

    def __init__(
        self, model: rs.Model, peer: Peer, clean: list[int], corrupted: list[int], answers: list[int], repeated: str
    ) -> None:
        self.model, self.peer, self.repeated = model, peer, repeated
        self.clean, self.corrupted, self.answers = clean, corrupted, answers
        self.metric = rs.logit_diff(*answers)
        self.given: dict[str, Any] = {"clean": clean, "corrupted": corrupted, "answers": answers}
        self.pair = [clean], [corrupted]

    def apart(self, ours: Any, theirs: Any) -> float:
        ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        largest = float(theirs.abs().max())
        assert largest > 1e-3, largest  # of nothing, equality says nothing
        return float((ours - theirs).abs().max()) / largest


def lens(case: Case) -> Found:
    theirs = case.peer.call("lens", ids=case.clean)
    ours = rs.logit_lens(case.model, [case.clean])
    yield "lens, probabilities", case.apart(ours.probability, theirs["probability"])
    yield "lens, entropy", case.apart(ours.entropy, theirs["entropy"])
    close = theirs["probability"][..., :-1] - theirs["probability"][..., 1:] < 1e-6
    differ = (ours.top.numpy() != theirs["top"])[..., :-1] & ~close & ~_before(close)
    yield "lens, tokens", float(differ.sum())


def _before(close: Any) -> Any:
    moved = close.copy()
    moved[..., 1:] = close[..., :-1]
    moved[..., 0] = False
    return moved


def attribution(case: Case) -> Found:
    n = case.model.n_layers
    ours = rs.direct_attribution(case.model, [case.clean], case.metric, by="head", progress=False)
    theirs = case.peer.call("attribution", ids=case.clean, answers=case.answers, unit="component")
    names = {"embed": "embed", "pos_embed": "pos_embed"}
    names |= {f"{i}_{part}_out": f"{part}_out.{i}" for i in range(n) for part in ("attn", "mlp")}
    own = [float(ours.components.select(component=names[label]).values) for label in theirs.facts["labels"]]
    yield "attribution, components", case.apart(own, theirs["values"])
    theirs = case.peer.call("attribution", ids=case.clean, answers=case.answers, unit="head")
    assert ours.heads is not None
    heads = ours.heads.values.flatten()
    assert theirs.facts["labels"][: len(heads)] == [
        f"L{i}H{j}" for i in range(n) for j in range(case.model.n_heads)
    ]  # and then the rest
    yield "attribution, heads", case.apart(heads, theirs["values"][: len(heads)])


def heads(case: Case) -> Found:
    """Theirs is over all attention; ours over the queries that have such keys, without first tokens and sinks: both ways."""
    for name, ours in DETECTORS.items():
        plain = case.peer.call("heads", text=case.repeated, name=name)
        ids = plain.facts["ids"]
        run = case.model.run([ids], ["resid_pre", "resid_post", "pattern"])
        keep = [kept(run, f"pattern.{i}")[0].nonzero().flatten().tolist() for i in range(case.model.n_layers)]
        own = case.peer.call("heads", text=case.repeated, name=name, keep=keep)
        asked = torch.tensor(own.facts["asked"]).double()[:, None]
        score = rs.head_scores(case.model, prompts=[ids], kinds=ours, draws=1, progress=False).scores.values[0]
        yield f"{name}, over its queries", case.apart(score, torch.as_tensor(own["score"]).double() * len(ids) / asked)

        def all_of_it(pattern: torch.Tensor, tokens: torch.Tensor, kind: str = ours) -> torch.Tensor:
            return (pattern * _meant(tokens, kind)).sum((1, 2)) / pattern.sum((1, 2))

        rs.register_head_score(name)(all_of_it)
        try:
            score = rs.head_scores(case.model, prompts=[ids], kinds=name, draws=1, progress=False).scores.values[0]
        finally:
            del HEAD_SCORES[name]
        yield f"{name}, of all attention", case.apart(score, plain["score"])


def _meant(tokens: torch.Tensor, kind: str) -> torch.Tensor:
    """Which keys each query is asked about, written anew."""
    n = len(tokens)
    found = torch.zeros(n, n)
    for i in range(n):
        for j in range(i + 1):
            copies = kind == "duplicate-token" and j < i and tokens[j] == tokens[i]
            follows = kind == "induction" and j > 0 and tokens[j - 1] == tokens[i]
            found[i, j] = copies or follows or (kind == "previous-token" and j == i - 1)
    return found


def composition(case: Case) -> Found:
    """Every pair of heads; of a model with very many, those of some writing layers."""
    n, many = case.model.n_layers, case.model.n_heads
    writers = [*range(n)] if n * many < 100 else [0, n // 2]
    asked = {} if len(writers) == n else {"writers": writers}
    sites = [f"result.{i}" for i in writers]
    ours = rs.composition(case.model, sites, ["q", "k", "v"], random=20, progress=False).score
    later = torch.tensor([[i < j for j in range(n) for _ in range(many)] for i in writers for _ in range(many)])
    for mode in "QKV":
        theirs = case.peer.call("composition", mode=mode, **asked)["score"]
        reads = [f"{mode.lower()}.{i} head {j}" for i in range(n) for j in range(many)]
        own = ours.values[:, [list(ours.coords["reader"]).index(name) for name in reads]]
        assert bool((own.isnan() == ~later).all())
        flat = torch.as_tensor(theirs).flatten(0, 1).flatten(1, 2)
        yield f"composition, {mode}", case.apart(own[later], flat[later])


def factored(case: Case) -> Found:
    layer, head = case.model.n_layers - 2, 1
    for circuit in ("OV", "QK"):
        theirs = case.peer.call("factored", layer=layer, head=head, circuit=circuit)
        ours = rs.factored(case.model, layer, head, circuit, k=0, progress=False)
        n = case.model.d_head
        yield f"{circuit}, product", case.apart(ours.product, theirs["product"])
        yield f"{circuit}, singular values", case.apart(ours.singular.values[:n], theirs["singular"][:n])
        yield f"{circuit}, eigenvalues", case.apart(ours.eigenvalues.abs(), theirs["moduli"])


def edges(case: Case) -> Found:
    n, many = case.model.n_layers, case.model.n_heads
    first, last = n // 3, n - max(1, n // 6)
    for read in "q" if case.model.n_kv_heads < many else "qkv":
        theirs = case.peer.call("direct_edges", **case.given, sender=[first, 1], read=read)
        ours = rs.edge_patching(
            case.model, *case.pair, case.metric, nodes="heads", read=read, mode="denoise", senders=[first],
            receivers=[first + 1, last], progress=False,
        ).select(sender=f"{first}.1")  # fmt: skip
        metric, base = torch.as_tensor(theirs["metric"])[[first + 1, last]].flatten(), theirs.facts["corrupted"]
        assert float((metric - base).abs().max()) > 1e-4
        yield f"edges by {read}, the metric", case.apart(ours.values + base, metric)


def estimates(case: Case) -> Found:
    try:
        theirs = case.peer.call("edge_estimates", **case.given)
    except PeerError as error:
        if "GQA" in str(error):  # it has no edges of heads that share keys
            return
        raise
    ours = rs.edge_attribution(case.model, *case.pair, case.metric, mode="denoise", sample=0, progress=False)
    senders, receivers = ([*map(str, ours.coords[name])] for name in ("sender", "receiver"))

    def label(node: str) -> str:
        kind, layer, head = node.split("|")
        if kind in ("embed", "logits"):
            return kind
        if kind.startswith("mlp"):
            return f"mlp {layer}"
        return f"{layer}.{head}" + ("" if kind == "attn_head_out" else f" {kind[0]}")

    ends = [(senders.index(label(s)), receivers.index(label(r))) for s, r in theirs.facts["edges"]]
    others = ours.values.clone()
    others[tuple(torch.tensor(ends).T)] = 0
    assert not others.any(), "edges that the other has not"
    yield "edges, attribution patching", case.apart(ours.values[tuple(torch.tensor(ends).T)], theirs["score"])


def integrated(case: Case) -> Found:
    """EAP-IG; of heads that share keys and values theirs has those as one reader: there by query, MLP and logits."""
    n, many, kv = case.model.n_layers, case.model.n_heads, case.model.n_kv_heads
    theirs = -torch.as_tensor(case.peer.call("eap_ig", **case.given, steps=3)["score"])
    values = rs.edge_attribution(case.model, *case.pair, case.metric, steps=3, mode="denoise", sample=0, progress=False)
    own, other, at = [], [], 0
    receivers = [*map(str, values.coords["receiver"])]
    for i in range(n):
        for read, count in (("q", many), ("k", kv), ("v", kv)):
            if count == many:
                own += [receivers.index(f"{i}.{head} {read}") for head in range(many)]
                other += range(at, at + count)
            at += count
        own.append(receivers.index(f"mlp {i}"))
        other.append(at)
        at += 1
    yield "edges, EAP-IG", case.apart(values.values[:, [*own, receivers.index("logits")]], theirs[:, [*other, at]])


def paths(case: Case) -> Found:
    n, many = case.model.n_layers, case.model.n_heads
    cells = [[i, j] for i in sorted({0, n // 2, n - 1}) for j in range(min(many, 3))]
    for receiver in (None, [n - max(1, n // 6), 1]):
        asked = [cell for cell in cells if receiver is None or cell[0] < receiver[0]]
        theirs = case.peer.call("path_patch", **case.given, cells=asked, receiver=receiver)
        ends = None if receiver is None else [(receiver[0], receiver[1])]
        ours = rs.path_patching(case.model, *case.pair, case.metric, receivers=ends, progress=False)
        own = torch.tensor([float(ours.select(layer=i, head=j).values) for i, j in asked])
        where = "the logits" if receiver is None else "a head's query"
        assert abs(theirs["metric"] - theirs.facts["clean"]).max() > 1e-4
        yield f"paths to {where}, the metric", case.apart(own + theirs.facts["clean"], theirs["metric"])


TECHNIQUES: tuple[Callable[[Case], Found], ...] = (
    lens, attribution, heads, composition, factored, edges, estimates, integrated, paths
)  # fmt: skip


def differences(case: Case) -> Found:
    """Each comparison's name and its greatest difference."""
    for technique in TECHNIQUES:
        yield from technique(case)


def real(peer: Peer) -> Case:
    """SmolLM2 and a pair of prompts."""
    model = rs.load("smollm2-135m")
    clean, corrupted = (model.tokens(text)[0].tolist() for text in (CLEAN, CORRUPTED))
    answers = [model.token_id(" Mary"), model.token_id(" John")]
    words = "apple river stone candle garden window silver mountain"
    return Case(model, peer, clean, corrupted, answers, f"{words} {words}")


def main(names: list[str]) -> int:
    failed = 0
    with Peer("transformer_lens", folder=Path(names[0]) if names else default_folder()) as peer:
        if names:
            tiny = rs.load(names[0])
            case = Case(tiny, peer, [5, 9, 3, 17, 8, 2, 11], [5, 9, 4, 30, 8, 21, 11], [5, 7], "t5 t9 t3 t5 t9 t3 t8")
        else:
            case = real(peer)
        for what, worst in differences(case):
            failed += not worst <= TOLERANCE
            print(f"  {what:44} {worst:.1e} {'' if worst <= TOLERANCE else 'DIFFERS'}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
