"""Direct logit attribution: a logit difference as the sum of what each component, and each head, writes into the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.directions import Dictionary, Direction
from residscope.directions.dictionary import DICTIONARY_HASH
from residscope.engine.model import Model, Prompt, tied
from residscope.engine.naming import label_of
from residscope.engine.planner import sweep
from residscope.engine.preparing import prepare
from residscope.engine.protocols import Edit, Readout
from residscope.engine.recording import Recording
from residscope.errors import BadSweep, UnalignedPrompts, UnknownPosition
from residscope.methods._lib.direct import (
    DirectAttribution,
    DirectEffects,
    MetricAt,
    as_dictionary,
    direct_effects,
    direct_sites,
    linear,
    removed,
    report,
    terms_of,
)
from residscope.model.prompts import Batch, PromptSet
from residscope.progress import Cancel, Progress

Position = int | str
BY = ("component", "head", "neuron", "source", "expert", "feature")
Features = Dictionary | Direction | Sequence[Direction]


def attribute_logits(
    recording: Recording,
    metric: Readout,
    *,
    by: str = "head",
    position: Position = -1,
    dictionary: Features | None = None,
) -> DirectAttribution:
    """`direct_attribution` of a run that is there already; what it has not recorded is recomputed in one pass.

        rs.attribute_logits(rec, rs.logit_diff(" Mary", " John"), by="head").heads

    Raises:
        As `direct_attribution`, and WeightsChanged, NotRecorded (of a window).
    """
    where = _where(recording.batch, None, metric, position, by)
    model, fine = recording.model, _fine(recording.model, by, dictionary)
    effects = direct_effects(recording, metric, where, **fine)
    about = {**recording.provenance, **_about(model, metric, position, by, effects.error, fine["features"])}
    return report(model, recording.batch, effects, _flat(effects), where, label_of(metric, model), about)


def _price(model: Model, *, prompts: Prompt, remove: str | None = None, largest: int = 20, **_: Any) -> float:
    """Tokens through the whole model: each prompt once, and half of it for each part that is taken out."""
    parts = 0 if remove is None else 2 * model.n_layers + 1 + largest
    return (1 + parts / 2) * sum(model.batch(prompts).lengths)


def _refuse(model: Model, *, metric: Readout, **_: Any) -> None:
    linear(metric, model)


@method("direct-attribution", title="Direct logit attribution", group="attribution", tokens=_price, refuse=_refuse)
def direct_attribution(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    metric: Annotated[Readout, fields.metric()],
    *,
    by: Annotated[str, fields.choice(*BY)] = "head",
    dictionary: Annotated[Features | None, fields.dictionary(when=("by", ("feature",)))] = None,
    position: Annotated[Position, fields.positions(single=True, named=True, known=("each",))] = -1,
    remove: Annotated[str | None, fields.choice("zero", "mean")] = None,
    over: Annotated[Any, fields.prompts(live=True, when=("remove", ("mean",)))] = None,
    largest: Annotated[int, fields.count(low=0, high=1000, when=("remove", ("zero", "mean")))] = 20,
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
    and each head's part by the position that it attends to, the bias of its values apart; "expert" each expert's weighted part of
    a mixture; "feature" what each feature of `dictionary` (or each direction) writes at its write site, with its bias and what
    it leaves out, which sum to the component there (of the stream, to all that was written before). position: where the logits
    are read: at the end, or where the metric itself says, unless said; a name that the prompts give it, or "each" of prompts of
    one length. remove: each component (and the `largest` of the heads, neurons, experts or features) is also taken out at
    every position, to zero or to its mean over `over` (as in `edits.ablate`), and the metric read again: `removed` has what it
    loses, the total effect, beside the direct one. Without an expert the router weights the others as before. background: edits
    of the run. Those of the stream itself are components of their own.

        rs.direct_attribution(model, rs.tasks.ioi(model, 32), rs.logit_diff()).heads.mean("prompt")

    A direct effect is not what ablating the part would do: later parts that read it are not followed; `remove` says by how much.

    Raises:
        NotLinear, NotAdditive: the metric is no sum of logits; the parts do not sum to it. UnalignedPrompts, UnknownPosition,
        PromptError, EditError, QuantisedModel, SweepCancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Wang et al. 2022 (2211.00593).
    """
    linear(metric, model)
    data = model.batch(prompts)
    _removable(remove, over, _said(metric, position), by)
    where = _where(data, prompts if isinstance(prompts, PromptSet) else None, metric, position, by)
    acting = prepare(model, tied(background, prompts), data.lengths)
    fine = _fine(model, by, dictionary)
    reading = _Terms(metric, where, fine, tuple(direct_sites(model, **fine, edits=acting)))
    swept = sweep(model, prompts, [()], reading, background, batch=batch).run(progress, cancel, what="Attributing")
    assert reading.last is not None
    about = {**swept.provenance, **_about(model, metric, position, by, reading.error, fine["features"])}
    about["background"] = [str(edit) for edit in background]
    found = report(model, data, reading.last, swept.values[0], where, label_of(metric, model), about)
    if remove is None:
        return found
    how: dict[str, Any] = {
        "dictionary": fine["features"],
        "background": background,
        "progress": progress,
        "cancel": cancel,
    }
    at = MetricAt(metric, where if isinstance(where, int) else tuple(map(int, where)))
    return replace(found, removed=removed(model, prompts, found, at, to=remove, over=over, largest=largest, **how))


@dataclass
class _Terms:
    """A readout of every term of the sum and of the metric: [row, term, pos]."""

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
        return _flat(effects)


def _flat(effects: DirectEffects) -> Float[Tensor, "row term pos"]:
    """All terms, in the order of `terms_of`."""
    return torch.cat(
        [part.flatten(0, -3) if part.ndim > 2 else part[None] for part in terms_of(effects).values()]
    ).transpose(0, 1)


def _fine(model: Model, by: str, dictionary: Features | None) -> dict[str, Any]:
    """What `direct_effects` is asked for beside the components."""
    if (by == "feature") != (dictionary is not None):
        raise BadSweep(
            "by='feature', and it alone, takes a dictionary", received=f"by={by!r}, dictionary={dictionary!r}"[:120],
            fix='by="feature", dictionary=rs.sae.load(...)',
        )  # fmt: skip
    neurons = range(model.n_layers) if by == "neuron" else ()
    features = None if dictionary is None else as_dictionary(dictionary)
    by_head = by in ("head", "source")
    return {
        "heads": by_head,
        "neurons": neurons,
        "sources": by == "source",
        "experts": by == "expert",
        "features": features,
    }


def _removable(remove: str | None, over: Any, position: Position, by: str) -> None:
    """Raises BadSweep where no part can be taken out so."""
    if remove not in (None, "zero", "mean"):
        raise BadSweep("parts are taken out to zero or to a mean", received=repr(remove), allowed='"zero", "mean"')
    if remove and position == "each":
        raise BadSweep(
            "what taking a part out does is read at one position", received='position="each"', allowed="a position"
        )
    if remove == "mean" and over is None:
        raise BadSweep("a mean is over prompts", received="remove='mean'", fix="over= prompts, or a recording")
    if remove == "mean" and by in ("feature", "expert"):
        raise BadSweep(f"{by}s are taken out to zero", received='remove="mean"', allowed='remove="zero"')


def _about(
    model: Model, metric: Readout, position: Position, by: str, error: float, features: Dictionary | None
) -> dict[str, Any]:
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
        **(
            {}
            if features is None
            else {"dictionary": f"{features.name} of {features.place}", DICTIONARY_HASH: features.hash}
        ),
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
