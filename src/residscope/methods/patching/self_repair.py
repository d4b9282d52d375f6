"""Self-repair: what taking a head out costs directly, what it costs in all, and which later parts make up for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt, tied
from residscope.engine.naming import label_of
from residscope.engine.planner import sweep
from residscope.engine.preparing import prepare
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadEdit, BadSweep, UnknownPosition
from residscope.methods._lib.direct import direct_effects, direct_sites, linear
from residscope.methods._lib.dropout import dropout_of, warning_of
from residscope.methods._lib.intervals import bootstrap
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Text, View

Head = tuple[int, int]
PARTS = (
    "direct effect lost",
    "total effect lost",
    "gained by later heads",
    "gained by later MLPs",
    "gained by the rest",
)


@dataclass(frozen=True, eq=False, repr=False)
class SelfRepair(Report):
    """What the ablation of some heads does to the metric, part by part, in logits: means over prompts, with the bootstrap's 95 %.

        total effect lost = direct effect lost - gained by later heads - by later MLPs - by the rest

    to rounding. parts: the five. heads, mlps: what each one's direct effect gained, of all layers; those that cannot read the
    ablated ones change with the final norm's divisor alone, and are the rest, with embeddings and biases. error: how far the
    sums are off, at most.
    """

    kind: ClassVar[str] = "report:self_repair"
    main: ClassVar[str] = "heads"
    ablated: tuple[Head, ...]
    parts: Result
    heads: Result
    mlps: Result | None
    error: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def repaired(self) -> float:
        """The share of the direct effect that is made up for: 1 - total / direct; below 0 where more is lost."""
        direct, total = self.parts.values[:2].tolist()
        return 1 - total / direct if direct else float("nan")

    def view(self) -> View:
        """The five parts, every head's gain, every MLP's."""
        shown: list[View] = [self.parts.view(), self.heads.view()]
        if self.mlps is not None:
            shown.append(self.mlps.view())
        if note := warning_of(dict(self.provenance.get("trained with dropout", {}))):
            shown.append(Text(note))
        return Grid(shown, columns=1, title=f"Without {_words(self.ablated)}")

    def __repr__(self) -> str:
        direct, total = self.parts.values[:2].tolist()
        return f"SelfRepair({_words(self.ablated)}: direct {direct:.3g}, total {total:.3g} logits lost)"


def _price(model: Model, *, prompts: Prompt, **_: Any) -> float:
    """Tokens through the whole model, about: each prompt once, and once from the ablated heads on."""
    return 1.5 * sum(model.batch(prompts).lengths)


def _refuse(model: Model, *, metric: Readout, **_: Any) -> None:
    linear(metric, model)


@method("self-repair", title="Self-repair", group="patching", tokens=_price, refuse=_refuse)
def self_repair(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    heads: Annotated[Mapping[str, Sequence[Head]] | Sequence[Head] | Head, fields.head_group(title="heads")],
    metric: Annotated[Readout, fields.metric()],
    *,
    to: Annotated[str, fields.choice("zero", "mean", "resample")] = "zero",
    over: Annotated[Any, fields.prompts(live=True, when=("to", ("mean", "resample")))] = None,
    seed: Annotated[int, fields.seed(when=("to", ("resample",)))] = 0,
    position: Annotated[int | str, fields.positions(single=True, named=True)] = -1,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    batch: int = 16,
    progress: Progress = None,
    cancel: Cancel = None,
) -> SelfRepair:
    """What ablating a head (or several at once) costs the metric directly, what in all, and what each later part then gains.

        D_c: the direct effect of component c on m, through the final norm with the run's own divisor (rs.direct_attribution)
        m = sum_c D_c        gain_c = D_c(ablated) - D_c(clean)        m(clean) - m(ablated) = direct lost - sum of the gains

    metric: a logit or a difference of logits. heads: (layer, head), a list of them, or a named group. to, over, seed: what stands
    in the heads' place, as in `edits.ablate`. position: where the logits are read, of each prompt. With `background=
    [edits.freeze("final_scale")]` the divisor is held, and the rest gains nothing.

        rs.self_repair(model, rs.tasks.ioi(model, 32), (23, 3), rs.logit_diff()).heads

    Raises:
        NotLinear, NotAdditive, BadEdit (no such replacement), UnknownHead, UnknownPosition, PromptError, SweepCancelled.

    McGrath et al. 2023, The Hydra Effect (2307.15771); Wang et al. 2022 (2211.00593) on backup name movers; Rushing and Nanda
    2024 (2402.15390).
    """
    linear(metric, model)
    ablated = _heads(heads)
    cut = [edits.ablate(f"z.{a}", to=to, over=over, seed=seed, head=h) for a, h in ablated]
    data = model.batch(prompts)
    where = _where(prompts, metric, position)
    acting = prepare(model, tied([*background, *cut], prompts), data.lengths)
    reading = _Effects(metric, where, tuple(direct_sites(model, heads=True, neurons=[], edits=acting)))
    swept = sweep(model, prompts, [(), cut], reading, background, batch=batch).run(progress, cancel, what="Attributing")
    clean, without = (part.double() for part in swept.values)
    n, every = model.n_layers, model.n_heads
    gains, mlp_gains, whole = torch.split((without - clean), [n * every, n, 1], 1)
    own = torch.zeros(n, every, dtype=torch.bool)
    own[tuple(zip(*ablated, strict=True))] = True
    first = min(layer for layer, _ in ablated)
    behind = (torch.arange(n) > first)[:, None] & ~own
    mlps_behind = torch.arange(n) >= first + ("resid_mid" in model.sites.absent)
    lost, gained = -gains[:, own.flatten()].sum(1), gains[:, behind.flatten()].sum(1)
    by_mlps = mlp_gains[:, mlps_behind].sum(1)
    rest = whole[:, 0] + lost - gained - by_mlps
    about = {
        **swept.provenance, "method": f"self-repair of {_words(ablated)}, ablated to {to}", "metric": label_of(metric, model),
        "prompts averaged": len(data), "error of the sums, at most": reading.error, "no effect": 0.0,
    }  # fmt: skip
    if rates := dropout_of(model):
        about["trained with dropout"] = rates
    name = f"gain in direct effect on the {label_of(metric, model)}"

    def result(values: Float[Tensor, "prompt ..."], dims: tuple[str, ...], name: str, **coords: Any) -> Result:
        low, high = bootstrap(values) if len(values) > 1 else (None, None)
        return Result(values.mean(0), dims, coords, name=name, low=low, high=high, unit="logits", provenance=about)

    return SelfRepair(
        ablated,
        result(
            torch.stack([lost, -whole[:, 0], gained, by_mlps, rest], 1), ("part",), label_of(metric, model), part=PARTS
        ),
        result(gains.reshape(-1, n, every), ("layer", "head"), name),
        result(mlp_gains, ("layer",), f"MLPs' {name}") if "mlp_out" in model.sites.names else None,
        reading.error,
        about,
    )


class _Effects:
    """A readout of each head's direct effect, each MLP's, and the metric: [row, term]."""

    unit = "logits"

    def __init__(self, metric: Readout, where: int | tuple[int, ...], sites: tuple[str, ...]) -> None:
        self.metric, self.where, self.sites, self.error = metric, where, sites, 0.0

    def __call__(self, recording: Any) -> Float[Tensor, "row term"]:
        rows, where = recording.batch.rows, self.where
        if rows is not None and isinstance(where, tuple):
            where = tuple(where[row] for row in rows)
        found = direct_effects(recording, self.metric, where, heads=True)
        assert found.heads is not None
        self.error = max(self.error, found.error)
        mlps = torch.zeros_like(found.attn) if found.mlp is None else found.mlp
        terms = torch.cat([found.heads.flatten(0, 1), mlps, found.metric[None]])
        return terms[..., 0].T


def _where(prompts: Prompt, metric: Readout, position: int | str) -> int | tuple[int, ...]:
    """Where the logits are read: one position, or one for each prompt."""
    if isinstance(position, int):
        return int(getattr(metric, "pos", -1)) if position == -1 else position
    if not isinstance(prompts, PromptSet):
        raise UnknownPosition("the prompts name no positions", received=repr(position), allowed="a number")
    return prompts.at(position)


def _heads(heads: Any) -> tuple[Head, ...]:
    """Heads in the order of the model, each once. Raises BadSweep where there are none, BadEdit where they are no pairs."""
    listed = [one for group in heads.values() for one in group] if isinstance(heads, Mapping) else [*heads]
    if len(listed) == 2 and all(isinstance(i, int) for i in listed):
        listed = [tuple(listed)]
    if not listed:
        raise BadSweep("there is no head to take out", received=str(heads), allowed="(layer, head), or a list of them")
    if not all(
        isinstance(one, tuple | list) and len(one) == 2 and all(isinstance(i, int) for i in one) for one in listed
    ):
        raise BadEdit(
            "a head is its layer and its number", received=str(heads)[:80], allowed="(23, 3), or a list of such"
        )
    return tuple(sorted({(a, h) for a, h in listed}))


def _words(heads: Sequence[Head]) -> str:
    return f"head{'s' * (len(heads) > 1)} {', '.join(f'{a}.{h}' for a, h in heads)}"
