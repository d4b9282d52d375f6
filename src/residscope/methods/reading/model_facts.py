"""What a model is, in facts that change how its numbers are read: positions, norms, ties, dropout, BOS, windows, blocks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.methods._lib.dropout import dropout_of
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.views import Table, View

Fact = tuple[str, str, str]
_NORMS = {"layer": "LayerNorm", "rms": "RMSNorm"}
_POSITIONS = {
    "rotary": (
        "rotary: queries and keys are turned by their position",
        "no position vector is in the stream: a head's QK circuit depends on the offset, and what reads absolute positions "
        "has them from attention",
    ),
    "added": ("learned, added to the stream", "the stream holds position directions from the start (site pos_embed)"),
    "slopes": (
        "slopes on the attention scores (ALiBi)",
        "no position vector is in the stream; every head looks less at what is further away, each at its own rate",
    ),
    "none": (
        "none that are told to a block",
        "no position vector is in the stream, and no query is turned: what a block knows of order, it has from causality or a "
        "state that it carries",
    ),
    "beside": (
        "added to what queries and keys read",
        "the stream never holds positions: values and MLPs do not see them",
    ),
}


@dataclass(frozen=True, eq=False, repr=False)
class ModelFacts(Report):
    """Facts of one model, each with what follows from it: names[i], values[i] in words, consequences[i]."""

    kind: ClassVar[str] = "report:model_facts"
    names: tuple[str, ...]
    values: tuple[str, ...]
    consequences: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        """The value of a fact, in words. Raises KeyError."""
        return dict(zip(self.names, self.values, strict=True))[name]

    def view(self) -> View:
        """A table: fact, value, consequence."""
        rows = [list(row) for row in zip(self.names, self.values, self.consequences, strict=True)]
        return Table(["fact", "this model", "what follows"], rows, title="What the model is")

    def __repr__(self) -> str:
        width = max(map(len, self.names))
        return "\n".join(f"{name:{width}}  {value}" for name, value in zip(self.names, self.values, strict=True))


@method("model-facts", title="Facts of the model", group="reading")
def model_facts(model: Model, *, progress: Progress = None, cancel: Cancel = None) -> ModelFacts:
    """What a model is, and what each fact means for how its numbers are read; from its modules, weights and configuration.

    Norms, ties, groups of heads, sinks, gates and parallel blocks are read off the modules that run; dropout and the windows of
    local attention off the configuration, which alone tells of them.

    Raises:
        Cancelled.
    """
    parts = (_size, _positions, _norms, _blocks, _attention, _windows, _mlp, _ends, _training)
    facts: list[Fact] = []
    with stage("Reading facts", len(parts), progress, cancel) as tell:
        for done, part in enumerate(parts):
            facts += part(model)
            tell(done + 1)
    names, values, consequences = zip(*facts, strict=True)
    return ModelFacts(names, values, consequences, {**model.provenance, "method": "model_facts"})


def _size(model: Model) -> Iterator[Fact]:
    weights = {w.data_ptr() if not w.is_meta else id(w): w.numel() for w in model.hf.parameters()}
    counted, inside = sum(weights.values()), model.d_vocab * model.d_model
    shape = f"{model.n_layers} layers, {model.n_heads} heads, d_model {model.d_model}, d_head {model.d_head}"
    yield "shape", shape, f"a prompt has at most {model.context:,} tokens"
    about = f"{inside:,} of them are the embedding, which some counts leave out"
    yield "parameters", f"{counted:,}", "those of quantised weights are counted as packed" if model.quantised else about


def _positions(model: Model) -> Iterator[Fact]:
    value, consequence = _POSITIONS[model.layout.family.positions]
    switch = model.layout.family.rotary_switch
    if model.layout.family.positions == "rotary":
        family = model.layout.family
        off = [switch is not None and not getattr(block.attn, switch) for block in model.layout.blocks]
        without = [i for i, no in enumerate(off) if no or family.block_of(i).positions == "none"]
        if without:
            value += f", but in layers {_spans(without)}, which have no positions"
    yield "positions", value, consequence


def _norms(model: Model) -> Iterator[Fact]:
    blocks = model.layout.blocks
    before = any(block.attn_norm is not None for block in blocks)
    after = any(block.attn_post_norm is not None for block in blocks)
    where = {
        (True, False): "before each branch",
        (True, True): "before and after each branch",
        (False, True): "after each branch, before it is added",
        (False, False): "before the unembedding only",
    }[before, after]
    last = model.layout.final_norm.kind
    kind = next((norm.kind for b in blocks for norm in (b.attn_norm, b.attn_post_norm) if norm is not None), last)
    means = {
        "layer": "the mean of the stream is taken off before anything reads it: a shift of all axes alike is not seen",
        "rms": "the stream is divided by its root mean square alone: its mean is read like any direction",
    }[kind]
    more = "; an attribution takes the norm behind a branch from the run as well" if after else ""
    yield "norms", f"{_NORMS[kind]}, {where}", means + more
    if last != kind:
        yield "last norm", _NORMS[last], "what the logits read is normed otherwise than what the branches read"
    normed = [name for name in ("q", "k") if any(getattr(block, f"{name}_norm") is not None for block in blocks)]
    if normed:
        yield (
            "norms inside attention",
            "of " + " and ".join(normed),
            "a head's QK circuit is no one matrix of the stream",
        )


def _blocks(model: Model) -> Iterator[Fact]:
    if "resid_mid" in model.sites.absent and "mlp_out" not in model.sites.absent:
        yield (
            "blocks",
            "attention and MLP side by side",
            "an MLP does not read the attention of its own layer: no resid_mid",
        )
    elif "mlp_out" in model.sites.absent:
        yield (
            "blocks",
            "attention alone",
            "the stream is a sum of the embedding and heads: paths through heads are all there is",
        )
    else:
        yield "blocks", "attention, then the MLP", "an MLP reads the attention of its own layer"
    factors = model.layout.factors
    said = {"embedding": factors.embed, "what a branch adds": factors.residual, "logits": factors.logits}
    if scaled := [f"{name} times {value:.4g}" for name, value in said.items() if value != 1]:
        yield "multipliers", ", ".join(scaled), "a site's value has its factor in it where it is added"


def _attention(model: Model) -> Iterator[Fact]:
    group = model.n_heads // model.n_kv_heads
    if model.layout.sizes.heads:
        yield (
            "heads by layer",
            _heads_by_layer(model),
            "a table by layer and head has nothing where a layer lacks a head",
        )
    elif group == 1:
        yield "keys and values", "each head has its own", "k and v can be edited by head"
    else:
        value = f"{model.n_kv_heads} for {model.n_heads} heads, {group} heads to each"
        yield "keys and values", value, f"an edit of k or v changes {group} heads at once"
    if any(block.sinks is not None for block in model.layout.blocks):
        yield "learned sinks", "one number a head beside its scores", "a row of a pattern sums to less than 1"
    if cap := model.layout.factors.scores_cap:
        yield (
            "cap of scores",
            f"{cap:g}",
            "scores are c tanh(x / c): a sum over what wrote them is exact before the cap only",
        )


def _heads_by_layer(model: Model) -> str:
    kinds: dict[str, list[int]] = {}
    for layer, own in model.layout.sizes.heads.items():
        kinds.setdefault(f"{own.n_heads} heads ({own.n_kv_heads} KV) of {own.d_head}", []).append(layer)
    return "; ".join(f"{said} in layers {_spans(layers)}" for said, layers in kinds.items())


def _windows(model: Model) -> Iterator[Fact]:
    local = local_layers(model)
    if not local:
        yield "attention reaches", "every earlier token", "in every layer"
        return
    sizes = groupby(sorted(local, key=local.__getitem__), key=local.__getitem__)
    said = [f"{size:,} tokens in layers {_spans(list(layers))}" for size, layers in sizes]
    yield "attention reaches", "; ".join(said), "what is further away comes through several layers"


def _mlp(model: Model) -> Iterator[Fact]:
    blocks, config = model.layout.blocks, model.hf.config
    if all(block.mlp is None for block in blocks):
        return
    act = str(getattr(config, model.layout.family.activation, None) or model.layout.family.activation)
    experts = [i for i, block in enumerate(blocks) if block.router is not None]
    if experts:
        at = "" if len(experts) == len(blocks) else f" in layers {_spans(experts)}"
        yield "MLP", f"experts{at}, {act}", "which experts run is a choice of each token, and an edit may flip it"
    elif any(block.mlp_gate is not None for block in blocks):
        follows = "a neuron is a product of two reads of the stream: its sign is not that of its gate"
        yield "MLP", f"gated, {act}, {model.d_mlp:,} neurons", follows
    else:
        yield (
            "MLP",
            f"{act}, {model.d_mlp:,} neurons",
            "a neuron is one read of the stream, one nonlinearity, one write",
        )


def _ends(model: Model) -> Iterator[Fact]:
    hf, layout = model.hf, model.layout
    embed, unembed = getattr(layout.embed, "weight", None), getattr(layout.unembed, "weight", None)
    if embed is not None and unembed is not None:
        tied = embed is unembed or (not embed.is_meta and embed.data_ptr() == unembed.data_ptr())
        follows = (
            "W_U is W_E transposed: a change of one is a change of both, and a token's embedding raises its own logit"
        )
        yield (
            ("unembedding", "tied to the embedding", follows)
            if tied
            else ("unembedding", "its own", "reads and writes differ")
        )
    if cap := layout.factors.logits_cap:
        yield "cap of logits", f"{cap:g}", "logits are c tanh(x / c): attributions are of what is under the cap"
    begin = getattr(model.tokenizer, "bos_token", None) if model.tokenizer is not None else None
    if begin is None:
        yield "first token", "no BOS", "the first word stands where heads that have nothing to do look"
    elif model.bos:
        yield (
            "first token",
            f"{begin}, before every prompt",
            "heads that have nothing to do look there: its stream is unlike others",
        )
    else:
        follows = "the tokenizer adds none: the first word stands where heads that have nothing to do look"
        yield "first token", f"no BOS, though there is {begin}", follows
    yield "numbers", str(model.dtype).removeprefix("torch."), f"on {model.device}; {hf.__class__.__name__}"


def _training(model: Model) -> Iterator[Fact]:
    rates = dropout_of(model)
    if rates:
        said = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        yield "dropout in training", said, "what is ablated may be made up for elsewhere: see self_repair"
    else:
        yield "dropout in training", "none told of", "its configuration may not tell of the training"


def local_layers(model: Model) -> dict[int, int]:
    """The layers whose attention sees the last so many tokens only, and how many; as the configuration tells."""
    config: Any = model.hf.config
    n = model.n_layers
    if hasattr(config, "attention_layers"):  # GPT-Neo
        return {i: int(config.window_size) for i, kind in enumerate(config.attention_layers) if kind == "local"}
    size = getattr(config, "sliding_window", None)
    if not isinstance(size, int) or getattr(config, "use_sliding_window", True) is False:
        return {}
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * n
    return {i: size for i, kind in enumerate(kinds) if kind == "sliding_attention"}


def _spans(layers: list[int]) -> str:
    """`0 to 2, 5` for [0, 1, 2, 5]."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
