"""From the wire's shapes to the engine's edits and directions, refused where model or prompt lacks the place."""

from collections.abc import Mapping
from math import exp
from typing import Any

from residscope import edits
from residscope.directions import Direction, logit_diff, unembedding
from residscope.errors import (
    BadEdit,
    ModelNotFound,
    NotFound,
    ResidscopeError,
    UnknownPosition,
    WrongWidth,
    ZeroDirection,
)
from residscope.methods import concepts
from residscope.methods.lrqp import lrqp
from residscope.model.sites import Site
from residscope.session.dictionaries import in_stream
from residscope.session.loaded import Loaded
from residscope.session.mixing import Directions, resolve_mix, saved_direction
from residscope.session.probes import Fitted
from residscope.session.specs import (
    Ablate,
    DirectionRef,
    EditSpec,
    Freeze,
    LogitDiffRef,
    Lrqp,
    MixRef,
    PcaRef,
    ProjectOut,
    Scale,
    SetConcept,
    Steer,
    TokenRef,
)
from residscope.session.state import Named, Prompt

WITHOUT_MEAN = ("scores", "pattern", "logits")


def need_model(loaded: Loaded | None) -> Loaded:
    if loaded is None:
        raise ModelNotFound("no model is loaded yet", fix="wait until it is, or choose one")
    return loaded


def resolve(ref: DirectionRef, loaded: Loaded, saved: Directions) -> Direction:
    """The direction a reference names.

    Raises:
        SiteError, DirectionError, WrongWidth, ZeroDirection, UnknownToken, NotFound.
    """
    match ref:
        case PcaRef() | MixRef():
            return resolve_mix(ref, loaded, saved)
        case LogitDiffRef():
            positive, negative = loaded.token(ref.positive), loaded.token(ref.negative)
            if positive.id == negative.id:
                raise ZeroDirection(
                    "the difference of a token with itself has no direction", received=repr(ref.positive)
                )
            return logit_diff(loaded.model, positive.id, negative.id)
        case TokenRef():
            return unembedding(loaded.model, loaded.token(ref.token).id)
    return saved_direction(ref.name, saved)


def build(spec: EditSpec, loaded: Loaded, named: Named, prompt: Prompt) -> edits.BaseEdit:
    """The engine's edit.

    Raises:
        SiteError, DirectionError, BadEdit, UnknownPosition: what the model or the prompt lacks.
    """
    where = {name: index for name in ("pos", "head", "kv_head", "neuron") if (index := getattr(spec, name)) is not None}
    edit = _construct(spec, where, loaded, named, prompt)
    places = edit.places(loaded.model.sites)
    if spec.pos is not None:
        _check_positions(spec.pos, len(prompt.tokens))
        timeless = [site for site in places if not {"pos", "query"} & {*site.kind.axes}]
        if timeless:
            raise BadEdit(f"{timeless[0]} has no positions", received=f"pos={spec.pos}", fix="leave pos out")
    if isinstance(spec, Ablate) and spec.to == "mean" and places[0].name in WITHOUT_MEAN:
        raise BadEdit(
            f"there is no mean over positions at {spec.site}", received=spec.site, allowed="such as z.9 or mlp_out.3"
        )
    if isinstance(spec, Steer | ProjectOut):
        _check_direction(spec, resolve(spec.direction, loaded, named.directions), places[0], loaded)
    return edit


def check(spec: EditSpec, loaded: Loaded, named: Named, prompt: Prompt) -> tuple[str, str | None]:
    """An edit's label, and why it cannot be applied (None when it can)."""
    try:
        return build(spec, loaded, named, prompt).label, None
    except ResidscopeError as error:
        return f"{spec.kind} {spec.site}", str(error)


def _construct(spec: EditSpec, where: dict[str, Any], loaded: Loaded, named: Named, prompt: Prompt) -> edits.BaseEdit:
    match spec:
        case Lrqp() | SetConcept():
            return _from_probe(spec, loaded, named.probes)
        case Ablate():
            over = list(prompt.ids) if spec.to == "mean" else None
            return edits.ablate(spec.site, to=spec.to, over=over, **where)
        case Scale():
            return edits.scale(spec.site, spec.factor, **where)
        case Freeze():
            return edits.freeze(spec.site, **where)
        case Steer():
            direction = resolve(spec.direction, loaded, named.directions)
            return edits.steer(spec.site, direction, spec.strength, unit=spec.unit, **where)
    return edits.project_out(spec.site, resolve(spec.direction, loaded, named.directions), **where)


def find_probe(name: str, probes: Mapping[str, Fitted]) -> Fitted:
    """A probe of the session. Raises NotFound."""
    if name not in probes:
        raise NotFound(
            "no probe of that name is fitted",
            received=name,
            allowed=", ".join(probes) or "none is fitted yet",
            fix="fit it in the Probe tab first",
        )
    return probes[name]


def _from_probe(spec: Lrqp | SetConcept, loaded: Loaded, probes: Mapping[str, Fitted]) -> edits.BaseEdit:
    probe = find_probe(spec.probe, probes).probe
    sites = loaded.model.sites
    if sites.canonical(spec.site) != sites.canonical(probe.site):
        raise BadEdit("the probe reads another site", received=spec.site, allowed=probe.site)
    if spec.pos is None or spec.head is not None or spec.kv_head is not None or spec.neuron is not None:
        raise BadEdit(
            "the edit sets what the probe reads at token positions", received=f"pos={spec.pos}", allowed="pos= alone"
        )
    if spec.to in ("true", "other"):
        allowed = ", ".join([*probe.classes, "neutral"])
        raise BadEdit("a prompt typed by hand has no label: say the class", received=f"to={spec.to!r}", allowed=allowed)
    if isinstance(spec, Lrqp):
        return lrqp(probe, spec.to, alpha=exp(spec.log_alpha), covariance=spec.covariance, pos=spec.pos)
    if spec.method == "constant_dose":
        return concepts.constant_dose(probe, spec.to, dose=spec.dose, pos=spec.pos)
    return getattr(concepts, spec.method)(probe, spec.to, pos=spec.pos)


def _check_direction(spec: Steer | ProjectOut, direction: Direction, site: Site, loaded: Loaded) -> None:
    have, want = len(direction.read), loaded.model.sites.width(site)
    if have != want:
        raise WrongWidth(f"the direction does not fit {spec.site}", received=f"width {have}", allowed=f"width {want}")
    heads = [axis for axis in ("head", "kv_head") if axis in site.kind.axes and not in_stream(site)]
    if heads and spec.head is spec.kv_head is None and (direction.head is None or heads == ["kv_head"]):
        last = (loaded.model.sites.size(site, heads[0]) or 1) - 1
        raise BadEdit(
            f"{spec.site} has a vector for each head: say which the direction is for",
            received=f"no {heads[0]}",
            allowed=f"{heads[0]} 0 to {last}",
            fix="give the edit a head",
        )


def _check_positions(pos: int | list[int], n_pos: int) -> None:
    wrong = [p for p in ([pos] if isinstance(pos, int) else pos) if not -n_pos <= p < n_pos]
    if wrong:
        raise UnknownPosition(
            f"the prompt has {n_pos} tokens",
            received=f"position {wrong[0]}",
            allowed=f"0 to {n_pos - 1}",
            fix="choose a position of this prompt",
        )
