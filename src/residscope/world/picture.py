"""The cells on screen as lines of Python: what is read along a direction at each place (a row) and token (a column)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from residscope.declare import EditSpec
from residscope.directions import Dictionary, EncoderDictionary
from residscope.errors import UnknownSite
from residscope.fields.directions import AnyDirection, LogitDiffRef, SavedRef, TokenRef
from residscope.world.dictionaries import SAVED, fitted_row, in_stream, row_names, row_sites
from residscope.world.mixing import PREFIX, Term, dictionary_of, terms_of
from residscope.world.stack import act_after_the_blocks
from residscope.world.values import Prompt
from residscope.world.writer import SessionWriter

Unit = Literal[
    "centred", "standardised", "raw", "cos", "folded", "folded-centred", "logit", "logit-centred", "activation",
    "mixed", "mixed-raw",
]  # fmt: skip
CENTRED = ("centred", "standardised", "folded-centred", "logit-centred", "mixed")
SHIPPED = "directions.shipped(model)"


@dataclass(frozen=True)
class NamedRun:
    """A run under the name it has in the lines; `again`: the run that records the picture's places, where these are not the
    stream's."""

    name: str
    prompt: Prompt
    edits: tuple[EditSpec, ...]
    again: str


@dataclass(frozen=True)
class Part:
    """What one term of the picture reads: a direction of a dictionary, or an encoder's feature.

    means: of each place the dictionary that knows its mean; None where none is known, SAVED where it is the direction's own.
    """

    weight: float
    known: Dictionary | None
    term: Term | None
    means: tuple[str | None, ...]

    @property
    def feature(self) -> bool:
        return isinstance(self.known, EncoderDictionary)

    @property
    def lens(self) -> bool:
        return self.known is None or self.known.space == "lens"

    def head(self, own: bool) -> int | None:
        """Whose vectors it reads, where the rows are of its own site."""
        return self.known.head if own and self.known is not None else None


def picture_code(
    writer: SessionWriter,
    ref: AnyDirection,
    *,
    unit: Unit | None,
    rows: Sequence[str] | None,
    runs: Sequence[NamedRun],
) -> list[str]:
    """`cells`, [row, pos], of a run, or of the first less the second; without runs of each of `prompts`, one row [pos] each.

    A cell is the sum over the terms of w_i (read_i . x - read_i . mean), the second part where the unit is centred, divided by
    |sum_i w_i read_i| where they are several; of an encoder's features the activations. In the lens space both parts are over
    sigma(x), and the mean is not in the cosine.

    Raises NotFound, DirectionError, UnknownSite, and what the direction refuses.
    """
    picture = _Picture(writer, ref, unit, rows)
    return picture.lines(runs)


class _Picture:
    def __init__(self, writer: SessionWriter, ref: AnyDirection, unit: Unit | None, rows: Sequence[str] | None) -> None:
        self.writer, self.ref, self.world = writer, ref, writer.world
        known = self._known()
        if not known:
            self.world.direction(ref)  # says why there is none
        first = next((one for one, _ in known if isinstance(one, EncoderDictionary)), known[0][0])
        table = self.world.model.sites
        self.whole = row_sites(first, table)
        self.own = self.whole != row_sites(None, table)
        self.rows = _chosen(self.whole, rows)
        self.parts = [self._part(one, term) for one, term in known]
        self.encoded = any(part.feature for part in self.parts)
        self.unit = unit or self._usual()
        self.centred = self.unit in CENTRED
        self.bodies: list[str] = []

    def lines(self, runs: Sequence[NamedRun]) -> list[str]:
        before = [*self._direction(), *self._places()]
        means = self._means() if self.centred else {}
        summands = self._summands(means)
        adds = [f"        {'+ ' if at else ''}{summand}" for at, summand in enumerate(summands)]
        body = ["    rows = []", "    for place in places:", "        x = run[place][0]"]
        if len(adds) == 1:
            body.append(f"        rows.append({summands[0]})")
        else:
            close = ")" if self.encoded else ") / length"
            body += [
                "        total = (",
                *(f"    {line}" for line in adds),
                f"        {close}",
                "        rows.append(total)",
            ]
        return [
            *before,
            *self.bodies,
            "",
            "def picture(run):",
            *body,
            "    return torch.stack(rows)",
            "",
            *(self._cells(runs) if runs else self._of_each_prompt()),
        ]

    # ── what is read ────────────────────────────────────────────────────────────────────────────────────────

    def _known(self) -> list[tuple[Dictionary | None, Term | None]]:
        """Each term's dictionary; None of tokens, which have none."""
        loaded, saved = self.world.loaded, dict(self.world.directions)
        match self.ref:
            case LogitDiffRef() | TokenRef():
                return [(None, None)]
            case SavedRef(name=name):
                saved[name] = self.world.direction(self.ref)
                return [(dictionary_of(PREFIX + name, loaded, saved), Term(name, None, 1.0))]
            case _:
                return [(dictionary_of(term.source_id, loaded, saved), term) for term in terms_of(self.ref)]

    def _part(self, known: Dictionary | None, term: Term | None) -> Part:
        weight = 1.0 if term is None else term.weight
        if isinstance(known, EncoderDictionary):
            assert term is not None
            known.check_index(term.index or 0)
            return Part(weight, known, term, ())
        loaded, table = self.world.loaded, self.world.model.sites
        head = None if known is None or in_stream(table.parse(known.site)) else known.head
        knowers = [loaded.means.knower(site, head, known) for site in self.rows]
        means = [None if one is None else one[0] for one in knowers]
        if known is not None and known.name == SAVED and known.space == "centred":
            at = fitted_row(known, table)
            means = [
                SAVED if at is not None and site == self.whole[at] else m
                for site, m in zip(self.rows, means, strict=True)
            ]
        return Part(weight, known, term, tuple(means))

    def _usual(self) -> Unit:
        """The unit that its directions were made in."""
        linear = [part for part in self.parts if not part.feature]
        centred = all(part.known is not None and part.known.space == "centred" for part in linear)
        if self.encoded:
            return "activation" if not linear else "mixed" if centred else "mixed-raw"
        if all(part.lens for part in linear):
            return "folded"
        return "centred" if centred else "raw"

    @property
    def alike(self) -> bool:
        """Whether one vector reads all there is: no encoder's feature, one mean a place, and one head's vectors."""
        first = self.parts[0]
        return not self.encoded and all(
            (part.lens, part.head(self.own)) == (first.lens, first.head(self.own))
            and (not self.centred or part.means == first.means)
            for part in self.parts
        )

    # ── lines ───────────────────────────────────────────────────────────────────────────────────────────────

    def _direction(self) -> list[str]:
        lines = []
        if not self.encoded:
            self.world.direction(self.ref)  # what it refuses is refused here
            lines = [f"direction = {self.writer.direction(self.ref)}"]
        if self.alike:
            return lines
        lines += [f"{self._name(at)} = {self._code(part)}" for at, part in enumerate(self.parts) if not part.feature]
        if not self.encoded:
            terms = [f"{part.weight!r} * {self._name(at)}.read" for at, part in enumerate(self.parts)]
            lines.append(f"length = ({' + '.join(terms)}).norm()")
        return lines

    def _places(self) -> list[str]:
        about = "# the cells on screen: a row for each place, from the lowest; a column for each token"
        stream = row_sites(None, self.world.model.sites)
        if self.rows == stream:
            return [about, 'places = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.n_layers))]']
        return [about, f"places = {self.rows!r}"]

    def _means(self) -> dict[tuple[str | None, ...], str]:
        """The variables that hold the data-set means of the places, of which there is one for each way to know them."""
        names: dict[tuple[str | None, ...], str] = {}
        for at, part in enumerate(self.parts):
            if not part.feature and part.means not in names:
                names[part.means] = self._mean_lines(part, at, len(names))
        return names

    def _mean_lines(self, part: Part, at: int, number: int) -> str:
        name = "means" if not number else f"means_{number + 1}"
        code = self.world.loaded.code
        if all(
            id is not None and code.get(id) == f"{SHIPPED}[{site!r}]"
            for id, site in zip(part.means, self.rows, strict=True)
        ):
            self.writer.lines[f"shipped = {SHIPPED}"] = None
            self.bodies.append(f"{name} = {{place: shipped[place].mean for place in places}}")
            return f"{name}[place]"
        known = []
        for site, id in zip(self.rows, part.means, strict=True):
            if id == SAVED:
                held = "direction" if self.alike else self._name(at)
                known.append(f"{site!r}: {held}.read * ({held}.offset / {held}.read.square().sum())")
            elif id is not None:
                known.append(f"{site!r}: {self._mean(id)}.mean")
        self.bodies.append(f"{name} = {{{', '.join(known)}}}")
        if None not in part.means:
            return f"{name}[place]"
        width = len(part.known.mean) if part.known is not None else self.world.model.d_model
        unknown = f"unknown = torch.full(({width},), torch.nan)  # where no data-set mean is known"
        if unknown not in self.bodies:
            self.bodies.append(unknown)
        return f"{name}.get(place, unknown)"

    def _mean(self, id: str) -> str:
        code = self.world.loaded.code.get(id, "")
        if not code.startswith(SHIPPED):
            return self.writer.dictionary(id)
        self.writer.lines[f"shipped = {SHIPPED}"] = None
        return code.replace(SHIPPED, "shipped")

    def _summands(self, means: dict[tuple[str | None, ...], str]) -> list[str]:
        if self.alike:
            return [self._read("direction", self.parts[0], means)]
        single = len(self.parts) == 1
        found = []
        for at, part in enumerate(self.parts):
            weight = f"{part.weight!r} * " if not single else "-" if part.weight < 0 else ""
            if isinstance(part.known, EncoderDictionary):
                assert part.term is not None
                dictionary = self.writer.dictionary(part.term.source)
                head = self._head(part)
                found.append(f"{weight}{dictionary}.encode(x{head}.float(), indices=[{part.term.index}])[..., 0]")
            else:
                read = self._read(self._name(at), part, means)
                found.append(f"{weight}({read})" if " - " in read else f"{weight}{read}")
        return found

    def _read(self, name: str, part: Part, means: dict[tuple[str | None, ...], str]) -> str:
        x = f"x{self._head(part)}"
        if self.unit == "cos":
            return f"torch.nn.functional.cosine_similarity({x}.float(), {name}.read.to({x}.device), dim=-1)"
        mean = f"{name}.project({means[part.means]}, space='raw')" if self.centred else ""
        if part.lens:
            over = f" - {mean} / model.final_scale({x})[..., 0].float()" if mean else ""
            return f"{name}.project({x}, model=model){over}"
        return f"{name}.project({x}, space='raw')" + (f" - {mean}" if mean else "")

    def _head(self, part: Part) -> str:
        head = part.head(self.own)
        return "" if head is None else f"[:, {head}]"

    def _name(self, at: int) -> str:
        return f"part_{at + 1}"

    def _code(self, part: Part) -> str:
        assert part.term is not None
        if part.term.index is None and isinstance(self.ref, SavedRef):
            return self.writer.direction(self.ref)
        return self.writer.term(part.term)

    def _cells(self, runs: Sequence[NamedRun]) -> list[str]:
        """The runs' cells; a logit difference at the last place is the run's own where edits act after the blocks."""
        after = [run for run in runs if self._ends_otherwise(run)]
        if self.own or not after:
            shown = " - ".join(f"picture({run.again if self.own else run.name})" for run in runs)
            return [f"cells = {shown}", "print(cells)"]
        lines = [f"cells_{run.name} = picture({run.name})" for run in runs]
        assert isinstance(self.ref, LogitDiffRef)
        ids = [self.world.loaded.token(text).id for text in (self.ref.positive, self.ref.negative)]
        for run in after:
            lines += [
                "# edits act after the blocks, where the last row's lens would not see them",
                f"own = {run.name}.logits_of({ids!r})[0].float()",
                f"cells_{run.name}[-1] = own[:, 0] - own[:, 1]{self._end_mean(run.name)}",
            ]
        return [*lines, f"cells = {' - '.join(f'cells_{run.name}' for run in runs)}", "print(cells)"]

    def _of_each_prompt(self) -> list[str]:
        where = ", places" if self.own else ""
        row = "[0]" if len(self.rows) == 1 else ""
        return [f"cells = [picture(model.run(prompt{where})){row} for prompt in prompts]", "print(*cells, sep='\\n')"]

    def _ends_otherwise(self, run: NamedRun) -> bool:
        if not isinstance(self.ref, LogitDiffRef) or self.rows[-1] != self.whole[-1]:
            return False
        return act_after_the_blocks(self.world.on(run.prompt).made(run.edits), self.world.model.sites)

    def _end_mean(self, run: str) -> str:
        if not self.centred:
            return ""
        mean = self._last_mean()
        return f" - direction.project({mean}, space='raw') / {run}['final_scale'][0, :, 0].float()"

    def _last_mean(self) -> str:
        id = self.parts[0].means[-1]
        width = self.world.model.d_model
        return f"torch.full(({width},), torch.nan)" if id is None else f"{self._mean(id)}.mean"


def _chosen(whole: list[str], rows: Sequence[str] | None) -> list[str]:
    """The places that the page's rows stand for. Raises UnknownSite."""
    if rows is None:
        return whole
    names = dict(zip(row_names(whole), whole, strict=True))
    for row in rows:
        if row not in names:
            allowed = f"{', '.join([*names][:3])} ... {[*names][-1]}"
            raise UnknownSite("the picture has no such row", received=row[:200], allowed=allowed)
    return [names[row] for row in rows]
