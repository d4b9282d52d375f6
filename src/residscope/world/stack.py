"""The stack of edits: from the wire's shapes to the engine's edits, refused where model or prompt lacks the place."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from residscope.declare import EDITS, EditKind, EditSpec, reasons, shorten
from residscope.declare.plugins import load_plugins
from residscope.engine.protocols import Edit
from residscope.errors import BadEdit, MalformedJSON, ResidscopeError, UnknownPosition
from residscope.fields.base import World
from residscope.fields.directions import AnyDirection, DirectionRef
from residscope.model.sites import Site, SiteTable
from residscope.probes import concepts, lrqp  # noqa: F401  (they declare edits)
from residscope.probes.concept_edit import ConceptEdit
from residscope.world.given import GIVEN, KIND

SHOWN = {
    "label",
    "glyph",
    "beside",
    "slider",
    "at",
    "delta",
    "inert",
    "error",
}  # what the session adds when it shows an edit
_REF: TypeAdapter[AnyDirection] = TypeAdapter(DirectionRef)


def parse_edits(raw: Sequence[Any]) -> tuple[EditSpec, ...]:
    """Edits out of JSON, each with an id of its own.

    >>> parse_edits([{"kind": "ablate", "site": "z.3", "head": 1}])[0].id
    'e1'
    """
    specs = [_parse(item, where=f"edits[{i}]") for i, item in enumerate(raw)]
    taken = [spec.id for spec in specs if spec.id]
    if len(taken) != len(set(taken)):
        raise BadEdit("two edits have one id", received=", ".join(taken), allowed="an id once in a stack, or none")
    fresh = (f"e{n}" for n in range(1, 10**9) if f"e{n}" not in taken)
    return tuple(spec if spec.id else spec.model_copy(update={"id": next(fresh)}) for spec in specs)


def parse_ref(raw: Any) -> AnyDirection:
    try:
        return _REF.validate_python(raw)
    except ValidationError as error:
        raise MalformedJSON(
            f"the direction does not parse: {reasons(error)}",
            received=shorten(raw),
            allowed="an object with kind pca, logit_diff, token, saved or mix",
        ) from None


def kind_of(spec: EditSpec) -> EditKind:
    return GIVEN if spec.kind == KIND else EDITS[spec.kind]


def make(spec: EditSpec, world: World, n_pos: int | None = None) -> Any:
    """The engine's edit, for the live prompt of so many tokens; without n_pos for prompts of a method's own.

    Those have labels and positions of theirs, which the edit is checked against when it runs.

    Raises:
        SiteError, DirectionError, BadEdit, UnknownPosition: what the model or the prompt lacks.
    """
    kind, table = kind_of(spec), world.model.sites
    edit = kind.make(spec, world)
    places = edit.places(table)
    edit.fits(table)
    if edit.pos is not None:
        if n_pos is not None:
            _check_positions(edit.pos, n_pos)
        timeless = [site for site in places if not {"pos", "query"} & {*site.kind.axes}]
        if timeless:
            raise BadEdit(f"{timeless[0]} has no positions", received=f"pos={edit.pos}", fix="leave pos out")
    if n_pos is not None and isinstance(edit, ConceptEdit):
        _check_typed(edit)
    if places and any(argument.field.kind == "direction" for argument in kind.arguments):
        _check_head(edit, places[0], table)
    return edit


def check(spec: EditSpec, world: World, n_pos: int) -> tuple[str, Edit | None, str | None]:
    """An edit's label, the edit, and why it cannot be applied (None when it can)."""
    try:
        edit = make(spec, world, n_pos)
        return describe_edit(spec, edit, world), edit, None
    except ResidscopeError as error:
        place = next((getattr(spec, name) for name in ("site", "weight", "receiver") if getattr(spec, name, None)), "")
        return f"{spec.kind} {place}".strip(), None, str(error)


def describe_edit(spec: EditSpec, edit: Any, world: World) -> str:
    """What an edit does, in a few words: `steer PC 3 of resid_post.9, +4σ`, `ablate z.23 head 3 to mean`."""
    kind, label = kind_of(spec), str(edit.label)
    for argument in kind.arguments:
        ref = getattr(spec, argument.wire)
        if argument.field.kind != "direction" or ref is None:
            continue
        site = str(getattr(spec, "site", ""))
        name = ", ".join(world.direction(one).name for one in (ref if isinstance(ref, list) else [ref]))
        label = label.replace(site, name if name.endswith(f" of {site}") else f"{name} at {site}", 1)
    for argument in kind.arguments:
        value = getattr(spec, argument.wire)
        if argument.wire == "to" and isinstance(value, str) and value != kind.shape.model_fields["to"].default:
            label += f" to {value}"
    if (turned := kind.strength(spec)) is None:
        return label
    number = f"×{turned['value']:.3g}" if turned["unit"] == "×" else f"{turned['value']:+.3g}"
    return f"{label}, {number.replace('-', '−')}{'σ' if turned['unit'] == 'σ' else ''}"


def act_after_the_blocks(edits: Sequence[Any], table: SiteTable) -> bool:
    """Whether some of the engine's edits do, where the lens of the last row would not see them."""
    places = {site.name for edit in edits for site in edit.places(table)}
    return bool(places & {"final_scale", "final_norm", "logits"})


def place(edit: Any, table: SiteTable) -> tuple[int | None, int | None]:
    """The layer and the position of an edit, where it has one: of several the first."""
    layers = [site.layer for site in edit.places(table) if site.layer is not None]
    return min(layers, default=None), None if not edit.pos else edit.pos[0]


def _check_typed(edit: ConceptEdit) -> None:
    """An edit made from a probe, on a prompt that was typed: it has no label, and names no position."""
    if edit.pos is None:
        raise BadEdit(
            "the edit sets what the probe reads at token positions",
            received="pos=None",
            allowed="positions of the prompt",
        )
    if edit.to in ("true", "other"):
        allowed = ", ".join([*edit.classes, "neutral"])
        raise BadEdit("a prompt typed by hand has no label: say the class", received=f"to={edit.to!r}", allowed=allowed)


def _check_head(edit: Any, site: Site, table: Any) -> None:
    """A direction is of one head's vectors: at a site with heads it is to be said of which."""
    axis = next(
        (axis for axis in ("head", "kv_head") if axis in site.kind.axes and site.kind.axes[-1] != "d_model"), None
    )
    if axis is not None and edit.head is edit.kv_head is None:
        last = (table.size(site, axis) or 1) - 1
        raise BadEdit(
            f"{site} has a vector for each head: say which the direction is for",
            received=f"no {axis}",
            allowed=f"{axis} 0 to {last}",
            fix="give the edit a head",
        )


def _check_positions(pos: Sequence[int], n_pos: int) -> None:
    wrong = [p for p in pos if not -n_pos <= p < n_pos]
    if wrong:
        raise UnknownPosition(
            f"the prompt has {n_pos} tokens",
            received=f"position {wrong[0]}",
            allowed=f"0 to {n_pos - 1}",
            fix="choose a position of this prompt",
        )


def _parse(raw: Any, *, where: str) -> EditSpec:
    if isinstance(raw, EditSpec):
        return raw
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if key not in SHOWN}
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind == KIND:
        given = GIVEN.check(raw, where=where)
        assert isinstance(given, EditSpec)
        return given
    if isinstance(kind, str) and kind not in EDITS:
        load_plugins()
    if not isinstance(kind, str) or kind not in EDITS:
        raise BadEdit(
            f"{where} does not parse: there is no such kind of edit",
            received=shorten(raw),
            allowed=f"an object with kind ({', '.join(sorted(EDITS))}), and what that kind takes",
        )
    known = EDITS[kind].shape.model_fields
    raw = {
        key: value for key, value in raw.items() if value is not None or key in known
    }  # 0.1 wrote "head": null to all
    spec = EDITS[kind].check(raw, where=where)
    assert isinstance(spec, EditSpec)
    return spec
