"""Direct logit attribution: a logit difference as the sum of what each component, and each head, writes into the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt, tied
from residscope.engine.naming import label_of
from residscope.engine.planner import sweep
from residscope.engine.preparing import prepare
from residscope.engine.protocols import Edit, Readout
from residscope.engine.recording import Recording
from residscope.errors import BadSweep, UnalignedPrompts, UnknownPosition
from residscope.methods._lib.direct import DirectAttribution, DirectEffects, direct_effects, direct_sites, linear
from residscope.model.prompts import Batch, PromptSet
from residscope.progress import Cancel, Progress
from residscope.results import Result

Position = int | str
BY = ("component", "head", "neuron", "source")


def attribute_logits(
    recording: Recording, metric: Readout, *, by: str = "head", position: Position = -1
) -> DirectAttribution:
    """`direct_attribution` of a run that is there already; what it has not recorded is recomputed in one pass.

        rs.attribute_logits(rec, rs.logit_diff(" Mary", " John"), by="head").heads

    Raises:
        As `direct_attribution`, and WeightsChanged, NotRecorded (of a window).
    """
    where = _where(recording.batch, None, metric, position, by)
    effects = direct_effects(recording, metric, where, **_fine(recording.model, by))
    about = {**recording.provenance, **_about(recording.model, metric, position, by, effects.error)}
    values = torch.cat([_flat(effects), effects.metric[:, None]], 1)
    return _report(recording.model, recording.batch, effects, values, where, label_of(metric, recording.model), about)


def _price(model: Model, *, prompts: Prompt, **_: Any) -> float:
    """Tokens through the whole model: each prompt once."""
    return float(sum(model.batch(prompts).lengths))


def _refuse(model: Model, *, metric: Readout, **_: Any) -> None:
    linear(metric, model)


@method("direct-attribution", title="Direct logit attribution", group="attribution", tokens=_price, refuse=_refuse)
def direct_attribution(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    metric: Annotated[Readout, fields.metric()],
    *,
    by: Annotated[str, fields.choice(*BY)] = "head",
    position: Annotated[Position, fields.positions(single=True, named=True, known=("each",))] = -1,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    batch: int = 16,
    progress: Progress = None,
    cancel: Cancel = None,
) -> DirectAttribution:
    """What each component writes into the stream, read as the logits read it: the terms of a sum that is the metric itself.

        logit[t] = sum_c write_c . (g * W_U[:, t] - mean) / sigma + b . W_U[:, t] + b_U[t]

    over every write c: the embedding, the position embedding, each layer's attention (each head's z W_O and the output's
    bias) and MLP, all as they are added to the stream. sigma is the final norm's divisor as it is in the run, held for every
    part; g, b its gain and bias; the mean is taken off by LayerNorm alone. Of a model that caps its logits, the logits before
    the cap (the provenance says so). The sum is checked against the run's own logits, at every position attributed. By source,
    for prompts of one length, a head's z W_O is sum_k A[q, k] (v_k - b_V) W_O, and apart from it sum_k A[q, k] b_V W_O.

    metric: a logit or a difference of logits; the difference of two log-probabilities is that of their logits, and nothing
    else of the probabilities is a sum. by: "head", "neuron" give each one's part beside the components; "source" the heads,
    and each head's part by the position that it attends to, the bias of its values apart. position: where the logits are
    read: at the end, or where the metric itself says, unless said; a name that the prompts give it, or "each" of prompts of
    one length. background: edits of the run. Those of the stream itself are components of their own.

        rs.direct_attribution(model, rs.tasks.ioi(model, 32), rs.logit_diff()).heads.mean("prompt")

    A direct effect is not what ablating the part would do: later parts that read it are not followed (`rs.ablation_sweep`).

    Raises:
        NotLinear, NotAdditive: the metric is no sum of logits; the parts do not sum to it. UnalignedPrompts, UnknownPosition,
        PromptError, EditError, QuantisedModel, SweepCancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Wang et al. 2022 (2211.00593).
    """
    linear(metric, model)
    data = model.batch(prompts)
    where = _where(data, prompts if isinstance(prompts, PromptSet) else None, metric, position, by)
    acting = prepare(model, tied(background, prompts), data.lengths)
    fine = _fine(model, by)
    reading = _Terms(metric, where, fine, tuple(direct_sites(model, **fine, edits=acting)))
    swept = sweep(model, prompts, [()], reading, background, batch=batch).run(progress, cancel, what="Attributing")
    assert reading.last is not None
    about = {**swept.provenance, **_about(model, metric, position, by, reading.error)}
    about["background"] = [str(edit) for edit in background]
    return _report(model, data, reading.last, swept.values[0], where, label_of(metric, model), about)


@dataclass
class _Terms:
    """A readout of every term of the sum, then of the metric: [row, term, pos]."""

    metric: Readout
    where: int | str | tuple[int, ...]
    fine: Mapping[str, Any]
    sites: tuple[str, ...]
    unit: ClassVar[str] = "logits"
    last: DirectEffects | None = None
    error: float = 0.0

    def __call__(self, recording: Any) -> Float[Tensor, "row term pos"]:
        rows = recording.batch.rows
        where = self.where if rows is None or not isinstance(self.where, tuple) else [self.where[row] for row in rows]
        effects = direct_effects(recording, self.metric, where, **self.fine)
        self.last, self.error = effects, max(self.error, effects.error)
        return torch.cat([_flat(effects), effects.metric[:, None]], 1)


def _flat(effects: DirectEffects) -> Float[Tensor, "row term pos"]:
    """Components, then each layer's heads or neurons, then its bias."""
    terms = torch.stack([*effects.components.values()])
    if effects.heads is not None and effects.attn_bias is not None:
        terms = torch.cat([terms, effects.heads.flatten(0, 1), effects.attn_bias])
    if effects.sources is not None and effects.value_bias is not None:
        terms = torch.cat([terms, effects.sources.flatten(0, 2), effects.value_bias.flatten(0, 1)])
    if effects.neurons:
        terms = torch.cat([terms, *effects.neurons.values(), torch.stack([*effects.mlp_bias.values()])])
    return terms.transpose(0, 1)


def _report(
    model: Model,
    batch: Batch,
    effects: DirectEffects,
    values: Float[Tensor, "row term pos"],
    where: Any,
    label: str,
    about: Mapping[str, Any],
) -> DirectAttribution:
    """Terms as `_flat` has them, then the metric, as results."""
    names, n, heads = [*effects.components], model.n_layers, model.n_heads
    along: dict[str, str] = {}
    coords: dict[str, Any] = {}
    if where == "each" and len(batch) == 1:
        texts = model.token_texts(batch.ids[0, : batch.lengths[0]].tolist())
        coords, along = {"token": texts[-values.shape[-1] :]}, {"token": "pos"}

    def result(terms: Tensor, name: str, dims: tuple[str, ...] = (), sizes: tuple[int, ...] = (), **own: Any) -> Result:
        """Terms [row, term, pos] over the dimensions that the terms are of, then pos and prompt where they are several."""
        table = terms.movedim(0, -1).reshape(*sizes, *terms.shape[-1:], len(terms))
        dims = (*dims, "pos", "prompt")
        if where != "each":
            table, dims = table.squeeze(-2), (*dims[:-2], "prompt")
        if len(terms) == 1:
            table, dims = table.squeeze(-1), dims[:-1]
        onto = along | ({"source_token": "source"} if "source_token" in own else {})
        return Result(table, dims, {**coords, **own}, onto, name=name, unit="logits", provenance=about)

    each = n * (heads if effects.heads is not None else model.d_mlp if effects.neurons else 0)
    length = 0 if effects.sources is None else effects.sources.shape[2]
    sizes = [len(names), each, n if each else 0, n * heads * length, n * heads if length else 0, 1]
    first, finer, rest, moved, values_bias, total = torch.split(values, sizes, 1)
    title, of = f"direct effect on the {label}", "attention" if effects.heads is not None else "MLPs"
    bias = result(rest, f"direct effect of the biases of {of}", ("layer",), (n,)) if each else None
    by_head = effects.heads is not None
    of_source = {"source_token": model.token_texts(batch.ids[0].tolist())} if len(batch) == 1 else {}
    return DirectAttribution(
        components=result(first, title, ("component",), (len(names),), component=names),
        metric=result(total, label),
        heads=result(finer, title, ("layer", "head"), (n, heads)) if by_head else None,
        attn_bias=bias if by_head else None,
        neurons=result(finer, title, ("layer", "neuron"), (n, model.d_mlp)) if effects.neurons else None,
        mlp_bias=None if by_head else bias,
        sources=result(moved, title, ("layer", "head", "source"), (n, heads, length), **of_source) if length else None,
        value_bias=result(values_bias, "direct effect of the values' biases", ("layer", "head"), (n, heads))
        if length
        else None,
        provenance=about,
    )


def _fine(model: Model, by: str) -> dict[str, Any]:
    """What `direct_effects` is asked for beside the components."""
    neurons = range(model.n_layers) if by == "neuron" else ()
    return {"heads": by in ("head", "source"), "neurons": neurons, "sources": by == "source"}


def _about(model: Model, metric: Readout, position: Position, by: str, error: float) -> dict[str, Any]:
    cap = model.layout.factors.logits_cap
    return {
        "method": "direct logit attribution",
        "metric": label_of(metric, model),
        "by": by,
        "position": _said(metric, position),
        "final norm": "its divisor as it is in the run",
        "logits": "as the model emits them"
        if cap is None
        else f"before their cap of {cap:g}: what is capped is no sum",
        "error of the sum, at most": error,
    }


def _where(
    batch: Batch, names: PromptSet | None, metric: Readout, position: Position, by: str
) -> int | str | tuple[int, ...]:
    """Where the logits are read: one position, one for each prompt, or "each"."""
    if by not in BY:
        raise BadSweep("there is no such attribution", received=repr(by), allowed=" or ".join(map(repr, BY)))
    position = _said(metric, position)
    if (position == "each" or by == "source") and len({*batch.lengths}) > 1:
        raise UnalignedPrompts(
            "positions of prompts of unequal length do not correspond",
            received=f"lengths {min(batch.lengths)} to {max(batch.lengths)}",
            fix="take prompts of one length"
            if by == "source"
            else 'name one: position="END" of a PromptSet, or count from the end: position=-1',
        )
    if isinstance(position, int) or position == "each":
        return position
    if names is None:
        raise UnknownPosition("the prompts name no positions", received=repr(position), allowed='a number, or "each"')
    return names.at(position)


def _said(metric: Readout, position: Position) -> Position:
    """The position asked for: the metric's own where none is."""
    return getattr(metric, "pos", -1) if position == -1 else position
