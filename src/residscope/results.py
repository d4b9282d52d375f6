"""Results: numbers with named dimensions, and what it takes to read them again next year."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from residscope.errors import BadResult, DamagedFile, UnknownLabel
from residscope.files import read_tensors, write_tensors
from residscope.items import nbytes_of, save_item
from residscope.json_values import Label, as_json, as_label
from residscope.same_values import same

if TYPE_CHECKING:
    import pandas

    from residscope.views import View

KIND = "result"
_TAKEN = ("value", "low", "high")
_TOLD = {"dims": list, "name": str, "exact": bool | str, "coords": dict, "along": dict, "provenance": dict, "unit": str}


@dataclass(frozen=True)
class Concentration:
    """How few of a sweep's cells carry a share of its |effect|: `cells` of `of`. See `Result.concentration`.

    participation: (sum |e|)^2 / sum e^2, the number of cells were the effect spread evenly over them; 0 where there is none.
    control: the same of another sweep, such as one of shuffled pairs.
    """

    cells: int
    of: int
    share: float
    participation: float
    control: "Concentration | None" = None

    def __str__(self) -> str:
        said = (
            f"{self.cells:,} of {self.of:,} cells carry {self.share:.0%} of |effect| "
            f"(participation {self.participation:.3g})"
        )
        other = self.control
        return (
            said if other is None else f"{said}; control: {other.cells:,} of {other.of:,} ({other.participation:.3g})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Values over named dimensions, the labels along each, intervals where there are any, and where it all came from.

    dims: one name for each axis of `values`. coords: labels along a dimension, by its name (0, 1, 2 ... unless said; no two
    alike), and any further column, which `along` gives its dimension: `coords={"token": (" Eiffel", " Tower")},
    along={"token": "pos"}`. low, high: the interval of each value. exact: True, or in words what approximates it.
    provenance: plain values (method, model and its hash, dtype, device, prompts, seed, versions, seconds, notes). unit: what one
    of the values is one of (logits, nats, share ...); unless said, what the provenance calls "unit".

    It owns its tensors, on the CPU.

    >>> effect = Result(torch.tensor([[0.0, 1.5], [-2.0, 0.5]]), ("layer", "pos"), name="logit difference", unit="logits")
    >>> effect
    Result(logit difference: layer 2 x pos 2; -2 to 1.5 logits; exact)
    >>> effect.select(layer=1).values
    tensor([-2.0000,  0.5000])
    """

    kind: ClassVar[str] = KIND
    values: Shaped[Tensor, "..."]
    dims: tuple[str, ...]
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    along: Mapping[str, str] = field(default_factory=dict)
    name: str = "value"
    low: Shaped[Tensor, "..."] | None = None
    high: Shaped[Tensor, "..."] | None = None
    exact: bool | str = True
    provenance: Mapping[str, Any] = field(default_factory=dict)
    unit: str = ""

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("dims", tuple(self.dims))
        if len(self.dims) != self.values.ndim or len({*self.dims}) != len(self.dims) or {*self.dims} & {*_TAKEN}:
            raise BadResult(
                "the dimensions do not name the axes of the values",
                received=f"{self.dims} for shape {tuple(self.values.shape)}",
                allowed=f"one name for each axis, no two alike, none of {', '.join(_TAKEN)}",
            )
        for side in (self.low, self.high):
            if side is not None and side.shape != self.values.shape:
                raise BadResult(
                    "the intervals are not the values' shape",
                    received=str(tuple(side.shape)),
                    allowed=str(tuple(self.values.shape)),
                )
        if (self.low is None) != (self.high is None):
            raise BadResult("an interval has two ends", received="one of low and high", allowed="both, or neither")
        if not (self.exact is True or (isinstance(self.exact, str) and self.exact)):
            raise BadResult(
                "a result is exact, or says what approximates it", received=repr(self.exact), allowed="True, or words"
            )
        for name in ("values", "low", "high"):
            tensor = getattr(self, name)
            put(name, None if tensor is None else tensor.detach().to("cpu", copy=True).contiguous())
        put("along", MappingProxyType(dict(self.along)))
        put("coords", MappingProxyType(self._labelled()))
        put("provenance", MappingProxyType(as_json(self.provenance)))
        if self.unit == "" and isinstance(self.provenance.get("unit"), str):
            put("unit", self.provenance["unit"])
        for name in ("name", "unit"):
            if not isinstance(getattr(self, name), str):
                raise BadResult(
                    f"the {name} of a result is words", received=repr(getattr(self, name)), allowed="a text"
                )

    def _labelled(self) -> dict[str, tuple[Label, ...]]:
        """The labels of every dimension, then the further columns, checked."""
        size = self.sizes
        for column in self.coords.keys() - size.keys():
            if self.along.get(column) not in size or column in _TAKEN:
                raise BadResult(
                    f"the column {column!r} stands along no dimension",
                    received=f"along={dict(self.along)}",
                    allowed=f"along={{{column!r}: ...}}, one of {', '.join(self.dims)}",
                )
        if strange := self.along.keys() - (self.coords.keys() - size.keys()):
            raise BadResult("`along` names columns that are not there", received=", ".join(sorted(strange)))
        labelled = {dim: tuple(range(n)) for dim, n in size.items()} | {
            name: tuple(as_label(x) for x in labels) for name, labels in self.coords.items()
        }
        for name, labels in labelled.items():
            dim = self.along.get(name, name)
            if len(labels) != size[dim]:
                raise BadResult(
                    f"{name} does not label every place along {dim}", received=f"{len(labels)}", allowed=f"{size[dim]}"
                )
            if name == dim and len({*labels}) != len(labels):
                raise BadResult(
                    f"two places along {dim} have one label",
                    received=str(next(x for x in labels if labels.count(x) > 1)),
                    fix=f"put these labels in a further column: along={{...: {dim!r}}}",
                )
        return labelled

    def __eq__(self, other: object) -> bool:
        """Whether the two are the same in every part, NaN the same as NaN."""
        return same(self, other) if isinstance(other, Result) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.unit, self.dims, self.values.shape))

    def __reduce__(self) -> Any:
        """Made again from plain parts: a copy is a result of its own."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return _made, ({name: dict(x) if isinstance(x, Mapping) else x for name, x in parts.items()},)

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes."""
        return nbytes_of(self)

    @property
    def sizes(self) -> dict[str, int]:
        """How long each dimension is."""
        return dict(zip(self.dims, self.values.shape, strict=True))

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────

    def select(self, **labels: Label | Sequence[Label]) -> "Result":
        """The part with these labels: one label takes its dimension away, a list of labels keeps them in that order.

        `select(layer=3)`, `select(pos=[0, 4])`, and by a further column all that match: `select(token=" Mary")`.
        Raises UnknownLabel.
        """
        part = self
        for name, wanted in labels.items():
            part = part._one(name, wanted)
        return part

    def _one(self, name: str, wanted: Label | Sequence[Label]) -> "Result":
        if name not in self.coords:
            raise UnknownLabel(
                "no such dimension or column", received=name, allowed=", ".join(self.coords) or "none (a single number)"
            )
        dim, known = self.along.get(name, name), tuple(self.coords[name])
        several = not isinstance(wanted, str) and isinstance(wanted, Iterable)
        asked: list[Any] = list(wanted) if several else [wanted]  # type: ignore[arg-type]
        places = [place for label in asked for place, other in enumerate(known) if other == label]
        if missing := [label for label in asked if label not in known]:
            near = ", ".join(map(repr, known[:6])) + (f" ... {known[-1]!r}" if len(known) > 6 else "")
            raise UnknownLabel(f"no such {name}", received=repr(missing[0]), allowed=near)
        if name == dim and not several:
            return self._reduced(
                dim, lambda x: x.select(self.dims.index(dim), places[0]), {"selected": {dim: known[places[0]]}}
            )
        coords = {
            key: tuple(labels[p] for p in places) if self.along.get(key, key) == dim else labels
            for key, labels in self.coords.items()
        }
        axis, index = self.dims.index(dim), torch.tensor(places, dtype=torch.long)
        low, high = (None if x is None else x.index_select(axis, index) for x in (self.low, self.high))
        return replace(self, values=self.values.index_select(axis, index), coords=coords, low=low, high=high)

    def mean(self, dim: str) -> "Result":
        """The mean along a dimension. Intervals are left out: the mean of intervals is no interval of the mean."""
        if dim not in self.dims:
            raise UnknownLabel("no such dimension", received=dim, allowed=", ".join(self.dims) or "none")
        axis, n = self.dims.index(dim), self.sizes[dim]
        wide = self.values if self.values.is_floating_point() else self.values.double()
        return replace(self, values=wide, low=None, high=None)._reduced(
            dim, lambda x: x.mean(axis), {"mean over": {dim: n}}
        )

    def _reduced(self, dim: str, take: Any, note: Mapping[str, Mapping[str, Any]]) -> "Result":
        """Without a dimension and its columns; the provenance says what became of it."""
        gone = {dim} | {column for column, at in self.along.items() if at == dim}
        provenance = {**self.provenance}
        for key, added in note.items():
            provenance[key] = {**provenance.get(key, {}), **added}
        return replace(
            self,
            values=take(self.values),
            dims=tuple(d for d in self.dims if d != dim),
            coords={key: labels for key, labels in self.coords.items() if key not in gone},
            along={key: at for key, at in self.along.items() if key not in gone},
            low=None if self.low is None else take(self.low),
            high=None if self.high is None else take(self.high),
            provenance=provenance,
        )

    def concentration(
        self, share: float = 0.9, *, zero: float | None = None, control: "Result | None" = None
    ) -> Concentration:
        """How few cells carry a share of |effect|: the fewest whose effects' sizes sum to it.

            e = value - zero        sum of the k largest |e| >= share . sum |e|

        A value for each prompt is averaged over prompts first. zero: the value of a cell that does nothing; unless said, what the
        provenance calls "no effect" (sweeps say it, prompt by prompt), else 0. control: another sweep, such as one of shuffled
        pairs, of which the same is told beside it.

        >>> effect = Result(torch.tensor([[0.0, 6.0], [-3.0, 1.0]]), ("layer", "head"), name="effect")
        >>> print(effect.concentration())
        2 of 4 cells carry 90% of |effect| (participation 2.17)

        Raises:
            BadResult: a share that is none, no values, values that are no numbers; whose "no effect" is not known.
        """
        if not 0 < share <= 1:
            raise BadResult("a share lies above 0 and up to 1", received=f"share={share}", allowed="such as 0.9")
        values = self.values.double() - (self._no_effect() if zero is None else zero)
        if "prompt" in self.dims:
            values = values.mean(self.dims.index("prompt"))
        sizes = values.abs().flatten().sort(descending=True).values
        if not len(sizes) or not bool(torch.isfinite(sizes).all()):
            received = (
                f"{int((~torch.isfinite(sizes)).sum())} of {len(sizes)} not finite" if len(sizes) else "no values"
            )
            raise BadResult(
                "the concentration is of finite effects", received=received, fix="finish the sweep, or select a part"
            )
        running, squares = sizes.cumsum(0), float((sizes**2).sum())
        total = float(running[-1])
        enough = total * share * (1 - 1e-12)
        cells = int((running < enough).sum()) + 1 if total else 0
        other = None if control is None else control.concentration(share)
        return Concentration(cells, len(sizes), share, total**2 / squares if squares else 0.0, other)

    def _no_effect(self) -> Tensor:
        """What a cell that does nothing has, as the provenance tells it: one number, or one along the prompts."""
        told = torch.as_tensor(self.provenance.get("no effect", 0.0), dtype=torch.float64)
        if told.numel() == 1:
            return told.reshape(())
        if told.numel() == self.provenance.get("mean over", {}).get("prompt"):
            return told.mean()
        labels = list(self.coords.get("prompt", [self.provenance.get("selected", {}).get("prompt")]))
        if not all(isinstance(i, int) and 0 <= i < told.numel() for i in labels):
            raise BadResult(
                "which of the prompts' values without effect belong to these is not known",
                received=f"{told.numel()} of them",
                allowed="a result over those prompts",
                fix="say zero=",
            )
        chosen = told[labels]
        if "prompt" not in self.dims:
            return chosen.reshape(())
        return chosen.reshape([-1 if dim == "prompt" else 1 for dim in self.dims])

    def to_dataframe(self) -> "pandas.DataFrame":
        """Long form: one row for each value; columns are the dimensions, what stands along them, value, low and high.

        `attrs` has the result's name, its unit and whether it is exact.
        """
        import pandas

        places = list(product(*(range(n) for n in self.values.shape)))
        columns: dict[str, Any] = {}
        for axis, dim in enumerate(self.dims):
            for name in (dim, *(column for column, at in self.along.items() if at == dim)):
                columns[name] = [self.coords[name][place[axis]] for place in places]
        for name, tensor in (("value", self.values), ("low", self.low), ("high", self.high)):
            if tensor is not None:
                half = tensor.dtype in (torch.bfloat16, torch.float16)
                columns[name] = (tensor.float() if half else tensor).reshape(-1).numpy()
        table = pandas.DataFrame(columns)
        table.attrs.update(name=self.name, unit=self.unit, exact=self.exact)
        return table

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: str | Path) -> None:
        """One safetensors file, there whole or not at all; a page for `x.html`, a figure for `x.png`, `.svg`, `.pdf`.

        Raises:
            WrongEnding, FileNotThere: a name of another kind of file; no such folder.
        """
        save_item(self, path, self._write)

    def _write(self, path: Path) -> None:
        tensors = {"values": self.values, "low": self.low, "high": self.high}
        about: dict[str, Any] = {"dims": [*self.dims], "name": self.name, "exact": self.exact, "unit": self.unit}
        about |= {"coords": {name: [*labels] for name, labels in self.coords.items()}}
        about |= {"along": dict(self.along), "provenance": dict(self.provenance)}
        write_tensors(path, KIND, {name: x for name, x in tensors.items() if x is not None}, about)

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """What `save` wrote. Raises FileNotThere, DamagedFile."""
        tensors, about = read_tensors(path, KIND)
        try:
            about = {"unit": "", **about}  # which files of before results had units do not say
            for name, kind in _TOLD.items():
                if not isinstance(about[name], kind):
                    raise TypeError(f"{name} is {about[name]!r}"[:200])
            return cls(**{**tensors, **about, "dims": tuple(about["dims"])})
        except (TypeError, KeyError, ValueError, AttributeError, BadResult) as error:  # of a later version, or by hand
            raise DamagedFile(f"{Path(path).name} holds no result", received=str(error)) from error

    # ── showing ─────────────────────────────────────────────────────────────────────────────────────────────

    def __repr__(self) -> str:
        sizes = " x ".join(f"{dim} {n}" for dim, n in self.sizes.items()) or "one number"
        exact = "exact" if self.exact is True else self.exact
        unit = f" {self.unit}" if self.unit else ""
        return f"Result({self.name}: {sizes}; {self._range()}{unit}; {exact})"

    def _range(self) -> str:
        if not prod(self.values.shape):
            return "no values"
        numbers = self.values.double()
        real = numbers[torch.isfinite(numbers)]
        span = f"{float(real.min()):.4g} to {float(real.max()):.4g}" if len(real) else "nothing finite"
        missing = numbers.numel() - len(real)
        return span if not missing else f"{span}, {missing} not finite"

    def view(self) -> "View":
        """As a picture: a heat map, a curve with its intervals, a grid of maps, or a table; see `residscope.result_views`."""
        from residscope.result_views import picture

        return picture(self)

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()


def _made(parts: dict[str, Any]) -> Result:
    return Result(**parts)
