"""The family that a look gives: a description of the kind that a data file has."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from residscope.engine.attention import register
from residscope.engine.look.blocks import Branch, Chain, find_branches, find_chain
from residscope.engine.look.ends import End, Start, fed, find_end, find_start, numbers_of
from residscope.engine.look.equal import CLOSE, flat, same
from residscope.engine.look.first import first_trace, require_causal
from residscope.engine.look.heads import Heads, Mixed, find_heads
from residscope.engine.look.neurons import Neurons, Router, find_neurons, find_router
from residscope.engine.look.norms import Found
from residscope.engine.look.trace import Trace
from residscope.engine.look.voiced import voiced
from residscope.engine.structure import uncompiled
from residscope.errors import ResidscopeError, UnknownFamily
from residscope.model.families import Block, Family
from residscope.model.families._common import (
    ALIBI,
    DENSE,
    EXPERTS,
    NO_GATE,
    NO_POST_NORM,
    NO_PRE_NORM,
    NO_QK_NORM,
    ROTARY,
)

PATTERN_SITES = ("q", "k", "v", "scores", "pattern")
HEAD_SITES = (*PATTERN_SITES, "z", "result")
NEURON_SITES = ("mlp_pre", "mlp_gate", "mlp_post")
MIXER_SITES = ("attn_scale", "attn_in", "attn_raw", "attn_post_scale", "attn_out", *HEAD_SITES, "q_scale", "k_scale")
MLP_SITES = ("mlp_scale", "mlp_in", *NEURON_SITES, "router", "mlp_raw", "mlp_post_scale", "mlp_out")
BESIDE = "two modules side by side write what the MLP adds, each with neurons of its own"


@dataclass(frozen=True)
class Seen:
    """One block: its branches, the stream between them, and what of their insides can be seen, or why it cannot."""

    attn: Branch | None
    mlp: Branch | None
    between: bool
    heads: Heads | Mixed | str
    neurons: Neurons | str
    router: Router | str


def look(hf: Any) -> Family:
    """The family of a model, found by one forward over a few tokens and a second call of some of its modules.

    Raises:
        UnknownFamily: its stream is not what a decoder's is; the message says which part was not found.
    """
    register()
    modes = [module for module in hf.modules() if module.training]
    for module in modes:
        module.training = False
    try:
        with torch.no_grad(), uncompiled(), voiced(hf):
            return _look(hf)
    except ResidscopeError:
        raise
    except Exception as error:  # a model may do anything with a short prompt, or with one of its modules called again
        raise UnknownFamily(
            "looking at this model broke off",
            received=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            allowed="a decoder whose forward runs on a few token ids alone",
            fix="add a family file (docs/families.md)",
        ) from error
    finally:
        for module in modes:
            module.training = True


def _look(hf: Any) -> Family:
    seen = first_trace(hf)
    require_causal(seen)
    close = CLOSE.get(hf.get_input_embeddings().weight.dtype, 2e-2)
    chain = find_chain(seen, close)
    start, end = find_start(seen, chain, close), find_end(seen, chain, close)
    blocks = [_seen(seen, chain, layer, close) for layer in range(len(chain.calls))]
    return replace(_Described(seen, chain, start, end, blocks, close).family(), fed=fed(seen, chain))


def _seen(trace: Trace, chain: Chain, layer: int, close: float) -> Seen:
    attn, mlp, mid = find_branches(trace, chain, layer, close)
    heads: Heads | Mixed | str = "nothing in the block mixes tokens" if attn is None else find_heads(trace, attn, close)
    if attn is not None and isinstance(heads, Heads):
        _at_core(trace, attn, heads, close)
    neurons: Neurons | str = "the block has no MLP"
    router: Router | str = "the block has no MLP"
    if mlp is not None:
        inside = _within(trace, chain, layer, mlp)
        neurons = BESIDE if mlp.beside is not None else find_neurons(trace, mlp, inside, close)
        alone = isinstance(neurons, str) and mlp.beside is None
        router = find_router(trace, mlp, inside, close) if alone else BESIDE if mlp.beside else DENSE["router"]
    return Seen(attn, mlp, mid is not None, heads, neurons, router)


def _at_core(trace: Trace, attn: Branch, heads: Heads, close: float) -> None:
    """Let a branch's module be the one that asks for the attention, where that reads and gives the same."""
    core = trace.call(heads.core)
    if core is not None and core.read is not None and core.wrote is not None and attn.module.wrote is not None:
        length = len(attn.read)
        alike = same(flat(core.read, length), attn.read, close)
        if alike and same(flat(core.wrote, length), flat(attn.module.wrote, length), close):
            own = attn.writer is attn.module
            attn.raw = core if attn.raw is attn.module else attn.raw
            attn.module, attn.writer = core, core if own else attn.writer


def _within(trace: Trace, chain: Chain, layer: int, branch: Branch) -> list[Any]:
    """The calls of a branch: those in its module, or, where its matrices stand in the block, in the block."""
    own = [branch.module, *trace.inside(branch.module.path)]
    return (
        own
        if branch.raw in own
        else [c for c in trace.inside(chain.calls[layer].path) if c.began >= branch.module.began]
    )


class _Described:
    """What was found of one model, as a family."""

    def __init__(
        self, trace: Trace, chain: Chain, start: Start, end: End, blocks: Sequence[Seen], close: float
    ) -> None:
        self.hf, self.chain, self.start, self.end, self.seen = trace.hf, chain, start, end, blocks
        self.close = close
        self.heads = [s.heads for s in blocks if isinstance(s.heads, Heads)]
        mixed = [s.heads for s in blocks if isinstance(s.heads, Mixed)]
        shapes = Counter(h.shape for h in self.heads or mixed)
        self.shape = shapes.most_common(1)[0][0] if shapes else None
        widths = Counter(s.neurons.d_mlp for s in blocks if isinstance(s.neurons, Neurons))
        self.d_mlp = widths.most_common(1)[0][0] if widths else None
        self.way = Counter(h.way for h in self.heads).most_common(1)[0][0] if self.heads else "interface"
        self.experts = Counter(s.router.count for s in blocks if isinstance(s.router, Router)).most_common(1)
        self.norms = self._norms()
        self.vocab = 0 if trace.logits is None else trace.logits.shape[-1]

    def family(self) -> Family:
        blocks = [self._block(layer, seen) for layer, seen in enumerate(self.seen)]
        usual = Counter(blocks).most_common(1)[0][0]
        kind, eps, offset = self._usual()
        name = str(getattr(self.hf.config, "model_type", "") or type(self.hf).__name__)
        heads = next((h for h in self.heads), None)
        return Family(
            name=name,
            model_types=(name,),
            embed=self.start.embed,
            embed_norm=self.start.writer.path if self.start.writer.path != self.start.embed else None,
            pos_embed=None if self.start.pos is None else self.start.pos.path,
            blocks=self.chain.path,
            block=usual,
            others={layer: block for layer, block in enumerate(blocks) if block != usual},
            final_norm=self.end.norm.path,
            unembed=self.end.unembed,
            norm=kind,
            norm_eps=eps,
            norm_gain_offset=offset,
            norms={role: found for role, found in self.norms.items() if found != (kind, eps, offset)},
            softmax_dtype="float32" if heads is None or heads.wide else "own",
            attention=self.way,
            positions=self._positions(),
            scores_scale=self._scale(),
            query_scale=None if heads is None else heads.query_scale,
            activation=next((s.neurons.activation for s in self.seen if isinstance(s.neurons, Neurons)), "act"),
            sizes=self._sizes(),
            config={},
            factors=self._factors(),
            absent=self._absent(),
            found=True,
        )

    def _block(self, layer: int, seen: Seen) -> Block:
        root = f"{self.chain.calls[layer].path}."

        def path(value: str | None) -> str | None:
            return None if value is None else value.removeprefix(root)

        def called(call: Any) -> str | None:
            return None if call is None else path(call.path)

        attn, mlp = seen.attn, seen.mlp
        heads = seen.heads if isinstance(seen.heads, Heads) else None
        mixing = seen.heads if isinstance(seen.heads, Heads | Mixed) else None
        neurons = seen.neurons if isinstance(seen.neurons, Neurons) and seen.neurons.d_mlp == self.d_mlp else None
        router = seen.router if isinstance(seen.router, Router) else None
        usual = ("none", "added") if self._positions() == "added" else (self._positions(),)
        positions = None if heads is None or heads.positions in usual else heads.positions
        shared = mlp is not None and attn is not None and mlp.norm is attn.norm
        return Block(
            attn=called(attn and attn.module),
            attn_norm=called(attn and attn.norm),
            attn_proj=path(mixing.proj) if mixing else None,
            attn_post_norm=called(attn and attn.post),
            attn_writer=_writer(attn, called),
            mlp=called(mlp and mlp.module),
            mlp_norm=None if shared else called(mlp and mlp.norm),
            mlp_up=path(neurons.up) if neurons else None,
            mlp_down=path(neurons.down) if neurons else None,
            mlp_gate=path(neurons.gate) if neurons else None,
            mlp_post_norm=called(mlp and mlp.post),
            mlp_writer=_writer(mlp, called),
            q_norm=path(heads.q_norm) if heads else None,
            k_norm=path(heads.k_norm) if heads else None,
            qk_norm_axes=heads.axes if heads else "pos head d_head",
            sinks=path(heads.sinks) if heads else None,
            router=path(router.router) if router else None,
            experts=path(router.experts) if router else None,
            mlp_added_in_place=mlp is not None and mlp.writer.overwritten,
            attn_beside=called(attn and attn.beside),
            mlp_beside=called(mlp and mlp.beside),
            z_changed=isinstance(mixing, Mixed) or (heads is not None and heads.changed),
            core=path(heads.core) if heads and attn and heads.core != attn.module.path else None,
            positions=positions,
            heads=mixing.shape if mixing and mixing.shape != self.shape else None,
        )

    def _norms(self) -> dict[str, tuple[str, str | float, float]]:
        """The norms by their role: one kind each. An eps that no module names is the first block's, whose stream is shortest.

        Raises:
            UnknownFamily: they are of several kinds.
        """
        found: dict[str, tuple[str, str | float, float]] = {}

        def add(role: str, norm: Found | None) -> None:
            if norm is not None:
                told = (norm.kind, norm.eps, norm.offset)
                first = found.setdefault(role, told)
                unnamed = isinstance(first[1], float) and isinstance(norm.eps, float)
                if first != told and not (unnamed and (first[0], first[2]) == (norm.kind, norm.offset)):
                    raise UnknownFamily(
                        f"not every block's {role} is of one kind", received=f"{found[role]} and {told}",
                        allowed="one kind, eps and offset of a norm in every block",
                    )  # fmt: skip

        for seen in self.seen:
            for name, branch in (("attn", seen.attn), ("mlp", seen.mlp)):
                if branch is not None:
                    add(f"{name}_norm", branch.norms.get("norm"))
                    add(f"{name}_post_norm", branch.norms.get("post"))
            if isinstance(seen.heads, Heads):
                for role, path in (("q_norm", seen.heads.q_norm), ("k_norm", seen.heads.k_norm)):
                    add(role, seen.heads.norm if path else None)
        add("final_norm", self.end.kind)
        return found

    def _usual(self) -> tuple[str, str | float, float]:
        return Counter(self.norms.values()).most_common(1)[0][0]

    def _positions(self) -> str:
        if self.start.pos is not None:
            return "added"
        ways = Counter(h.positions for h in self.heads)
        return "rotary" if ways["rotary"] else ways.most_common(1)[0][0] if ways else "none"

    def _scale(self) -> str | float:
        return Counter(h.scale for h in self.heads).most_common(1)[0][0] if self.heads else "scaling"

    def _sizes(self) -> Mapping[str, str | int]:
        heads, kv_heads, d_qk, d_head = self.shape or (1, 1, self.chain.d_model, self.chain.d_model)
        embed = self.hf.get_input_embeddings()
        return {
            "n_layers": len(self.chain.calls),
            "n_heads": heads,
            "n_kv_heads": kv_heads,
            "d_model": self.chain.d_model,
            "d_head": d_head,
            "d_qk": d_qk if d_qk != d_head else 0,
            "d_mlp": self.d_mlp or self._width_of_experts(),
            "d_vocab": min(self.vocab, embed.weight.shape[0]),
            "context": _context(self.hf.config),
            "n_experts": self.experts[0][0] if self.experts else 0,
        }

    def _width_of_experts(self) -> str | int:
        """What the configuration calls the width of MLPs whose neurons cannot be seen; 0 where there are none."""
        name, there = "intermediate_size", any(s.mlp is not None for s in self.seen)
        if there and hasattr(self.hf.config, name):
            return name
        return getattr(self.hf.config.get_text_config(), name, 0) if there else 0

    def _factors(self) -> dict[str, str | float]:
        """The model's constants. Raises UnknownFamily: what branches add has no one factor, or scores no one cap."""
        factors: dict[str, str | float] = {}
        every = sorted(b.factor for s in self.seen for b in (s.attn, s.mlp) if b is not None)
        if every[-1] - every[0] > max(1e-4, self.close) * abs(every[0]):
            raise UnknownFamily(
                "what the branches add to the stream is not multiplied by one factor",
                received=f"factors from {every[0]:.4g} to {every[-1]:.4g}",
                allowed="one factor for every branch of every block",
            )
        told = {"residual": every[len(every) // 2], "embed": self.start.factor, "logits": self.end.scale}
        numbers = [1.0, *numbers_of(self.hf.config.to_dict())]
        told = {name: _round(value, numbers, self.close / 5) for name, value in told.items()}
        factors |= {name: value for name, value in told.items() if value != 1}
        if self.end.cap is not None:
            factors["logits_cap"] = self.end.cap
        caps = {h.softcap for h in self.heads}
        if len(caps) == 1 and (cap := next(iter(caps))) is not None:
            factors["scores_cap"] = float(cap)
        return factors

    def _absent(self) -> dict[str, str]:
        n, by_layer = len(self.seen), [self._absent_at(layer) for layer in range(len(self.seen))]
        absent: dict[str, str] = {}
        if self.start.pos is None:
            positions = self._positions()
            absent |= ROTARY if positions == "rotary" else ALIBI if positions == "slopes" else _NO_POSITIONS
        for name in dict.fromkeys(name for layer in by_layer for name in layer):
            reasons = [layer[name] for layer in by_layer if name in layer]
            if len(reasons) == n:
                absent[name] = " / ".join(dict.fromkeys(reasons))
            else:
                absent |= {f"{name}.{i}": layer[name] for i, layer in enumerate(by_layer) if name in layer}
        return absent

    def _absent_at(self, layer: int) -> dict[str, str]:
        seen = self.seen[layer]
        absent: dict[str, str] = {}
        if seen.attn is None:
            absent |= dict.fromkeys(
                (*MIXER_SITES, "resid_mid"), "the block has one branch, and it reads each token by itself"
            )
        else:
            absent |= self._absent_heads(seen)
            if seen.attn.norm is None:
                absent["attn_scale"] = NO_PRE_NORM["attn_scale"]
            if seen.attn.post is None:
                absent["attn_post_scale"] = NO_POST_NORM["attn_post_scale"]
        if seen.mlp is None:
            alone = "the block has one branch, and it is no MLP"
            return (
                absent | dict.fromkeys(MLP_SITES, alone) | {"resid_mid": f"{alone}: what stands after it is resid_post"}
            )
        if seen.attn is not None and not seen.between:
            absent["resid_mid"] = "attention and MLP read the same stream side by side: nothing stands between them"
        if seen.mlp.norm is None:
            absent["mlp_scale"] = NO_PRE_NORM["mlp_scale"]
        elif seen.attn is not None and seen.mlp.norm is seen.attn.norm:
            absent["mlp_scale"] = "attention and MLP read the output of one norm: its divisor is attn_scale"
        if seen.mlp.post is None:
            absent["mlp_post_scale"] = NO_POST_NORM["mlp_post_scale"]
        return absent | self._absent_neurons(seen)

    def _absent_heads(self, seen: Seen) -> dict[str, str]:
        if isinstance(seen.heads, str):
            return dict.fromkeys((*HEAD_SITES, "q_scale", "k_scale"), seen.heads)
        if isinstance(seen.heads, Mixed):
            return dict.fromkeys((*PATTERN_SITES, "q_scale", "k_scale"), seen.heads.why)
        unread = dict.fromkeys(("z", "result"), "no one matrix reads what every head gives")
        absent = unread if seen.heads.proj is None else {}
        if seen.heads.q_norm is None:
            absent["q_scale"] = NO_QK_NORM["q_scale"]
        if seen.heads.k_norm is None:
            absent["k_scale"] = NO_QK_NORM["k_scale"]
        return absent

    def _absent_neurons(self, seen: Seen) -> dict[str, str]:
        if isinstance(seen.neurons, str):
            fused = isinstance(seen.router, Router) and seen.router.experts is not None
            absent = dict(EXPERTS) if fused else dict.fromkeys(NEURON_SITES, seen.neurons)
            return absent | ({"router": seen.router} if isinstance(seen.router, str) else {})
        if seen.neurons.d_mlp != self.d_mlp:
            why = f"this layer has {seen.neurons.d_mlp} neurons, other than most layers"
            return {**dict.fromkeys(NEURON_SITES, why), **DENSE}
        return {**DENSE, **(NO_GATE if seen.neurons.gate is None else {})}


_NO_POSITIONS = {"pos_embed": "no position vector is added to the stream, and queries are not turned"}


def _writer(branch: Branch | None, called: Callable[[Any], str | None]) -> str | None:
    """The module whose output is added, where it is neither the post-norm nor the branch's own module."""
    if branch is None or branch.post is not None or branch.writer.path == branch.module.path:
        return None
    return called(branch.writer)


def _round(value: float, numbers: Sequence[float], close: float) -> float:
    """A factor without the rounding of what it was found from: a number of the configuration, or the shortest as good as it."""
    near = min((n for number in numbers if number for n in (number, 1 / number)), key=lambda n: abs(n - value))
    if abs(near - value) <= close * abs(value):
        return near
    shortened = (float(f"{value:.{digits}g}") for digits in range(1, 17))
    return next((short for short in shortened if abs(short - value) <= 1e-7 * abs(value)), value)


def _context(config: Any) -> int:
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "max_sequence_length")
    for part in (config, config.get_text_config()):
        for name in names:
            if isinstance(value := getattr(part, name, None), int):
                return value
    return 2**20
