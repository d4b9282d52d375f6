"""What edits made from a probe share: where they act, and which class each prompt is to have."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.edits import BaseEdit
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.errors import BadEdit, MissingLabel, UnknownPosition, WrongModel, WrongWidth
from residscope.model.prompts import PromptSet
from residscope.probes.probe import Probe

NEUTRAL, OTHER = -1, -2
WORDS = {"neutral": NEUTRAL, "other": OTHER}
To = str | Sequence[str]


@dataclass(frozen=True, eq=False, repr=False)
class ConceptEdit(BaseEdit):
    """Sets what a probe reads, at the probe's own site and at its named position of each prompt.

    `to`: "true" (each prompt's own label), "other" (with two classes the other; with more, the likeliest of the others),
    "neutral" (what the mean activation reads), a class, or one of these for each prompt. A run on a PromptSet ties the edit
    to its positions and labels (`on`); any other prompt needs `pos`, and a class or "neutral".

    where, true, target: token index, true class and wanted class of each prompt of the run, once tied.
    """

    classes: Sequence[str] = ()
    variable: str = ""
    position: str = ""
    to: To = "other"
    model: str = ""
    where: Int[Tensor, "prompt"] | None = None
    true: Int[Tensor, "prompt"] | None = None
    target: Int[Tensor, "prompt"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if not isinstance(self.to, str):
            object.__setattr__(self, "to", tuple(self.to))
        for word in [self.to] if isinstance(self.to, str) else self.to:
            if word not in (*WORDS, "true", *self.classes):
                raise BadEdit(
                    f"{self.kind} cannot set {self.variable} to this",
                    received=f"to={word!r}",
                    allowed=", ".join(["true", *WORDS, *self.classes]),
                )
        for name in ("where", "true", "target"):
            x = getattr(self, name)
            if x is not None and not (isinstance(x, Tensor) and x.ndim == 1 and x.dtype in (torch.int64, torch.int32)):
                raise BadEdit(
                    f"{name} is a whole number for each prompt", received=repr(x)[:80], allowed="a tensor of them"
                )

    def _check_parts(self, **axes: tuple[str, ...]) -> None:
        """Refuse parts that are no tensors of these axes, each axis of one length throughout."""
        sizes: dict[str, int] = {"classes": len(self.classes)}
        for name, wanted in axes.items():
            x = getattr(self, name)
            if not isinstance(x, Tensor) or x.ndim != len(wanted):
                raise BadEdit(
                    f"{name} of {self.kind} does not fit", received=repr(x)[:80], allowed=f"[{' '.join(wanted)}]"
                )
            for axis, size in zip(wanted, x.shape, strict=True):
                if sizes.setdefault(axis, size) != size:
                    raise WrongWidth(
                        f"the parts of {self.kind} do not fit each other",
                        received=f"{name} {tuple(x.shape)}",
                        allowed=f"{axis} {sizes[axis]}",
                    )

    def is_of(self, probe: Probe) -> bool:
        """Whether it sets what this probe reads, where it reads it."""
        mine = (self.site, self.head, self.variable, self.position, self.classes)
        head = None if probe.head is None else (probe.head,)
        return mine == (probe.site, head, probe.label, probe.position, tuple(probe.classes))

    def over(self, to: str) -> Self:
        """The same edit, as strong, of prompts with labels: at the probe's named position, and set to this.

        An edit to "neutral" stays there where "other" is asked for.
        """
        to = "neutral" if self.to == "neutral" and to == "other" else to
        return replace(self, to=to, pos=None, where=None, true=None, target=None)

    def moved(
        self, x: Float[Tensor, "n d"], target: Int[Tensor, "n"], true: Int[Tensor, "n"] | None
    ) -> Float[Tensor, "n d"]:
        """Where the vectors go, in float64. `true` is None where the prompts' own labels are not known."""
        raise NotImplementedError

    def on(self, prompts: PromptSet) -> Self:
        """The edit tied to these prompts' positions and labels. Raises UnknownPosition, MissingLabel, BadEdit."""
        if self.where is not None:
            if len(self.where) != len(prompts):
                raise BadEdit(
                    "the edit is tied to other prompts", received=str(len(prompts)), allowed=str(len(self.where))
                )
            return self
        where = None if self.pos is not None else torch.tensor(prompts.at(self.position))
        true = self._true(prompts) if self.variable in prompts.labels else None
        words = [self.to] * len(prompts) if isinstance(self.to, str) else list(self.to)
        if len(words) != len(prompts):
            raise BadEdit(
                "`to` has another number of entries than there are prompts",
                received=str(len(words)),
                allowed=str(len(prompts)),
            )
        if true is None and {"true", "other"} & {*words}:
            raise MissingLabel(
                f"the prompts have no {self.variable}, so nothing says what is true of them",
                received=f"to={self.to!r}",
                allowed=", ".join([*self.classes, "neutral"]),
                fix="say the class itself",
            )
        target = [
            int(true[i]) if true is not None and word == "true" else self._index(word) for i, word in enumerate(words)
        ]
        return replace(self, where=where, true=true, target=torch.tensor(target))

    def take(self, rows: Sequence[int]) -> Self:
        """A tied edit cut to some of its prompts."""
        parts = {name: getattr(self, name) for name in ("where", "true", "target")}
        to = self.to if isinstance(self.to, str) else tuple(self.to[i] for i in rows)
        cut: dict[str, Any] = {name: None if x is None else x[list(rows)] for name, x in parts.items()}
        return replace(self, to=to, **cut)

    def _true(self, prompts: PromptSet) -> Int[Tensor, "prompt"]:
        names = [str(value) for value in prompts.label(self.variable)]
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise MissingLabel(
                f"a prompt's {self.variable} is no class of the probe",
                received=unknown[0],
                allowed=", ".join(self.classes),
            )
        return torch.tensor([self.classes.index(name) for name in names])

    def _index(self, word: str) -> int:
        return WORDS[word] if word in WORDS else self.classes.index(word)

    def prepare(self, model: Model) -> "ConceptEdit":
        if self.model and model.hash and self.model != model.hash:
            raise WrongModel("the probe was fitted on another model", received=self.model, allowed=model.hash)
        if self.where is None and self.pos is None:
            raise BadEdit(
                f"nothing says where {self.position} stands in this prompt",
                allowed="a PromptSet that names it",
                fix="run it on a PromptSet, or say pos=",
            )
        if self.target is None and (not isinstance(self.to, str) or self.to in ("true", "other")):
            raise MissingLabel(
                "nothing says what is true of this prompt",
                received=f"to={self.to!r}",
                fix="say a class, or run a PromptSet",
            )
        return self

    def apply(self, value: Tensor, at: At) -> Tensor:
        rows, places = self._places(value, at)
        if not rows:
            return value
        index = [rows, places] + ([] if self.head is None else [[self.head[0]] * len(rows)])
        x = value[tuple(index)].double()
        target, true = (self._mine(x, rows, at, name) for name in ("target", "true"))
        if target is None:
            assert isinstance(self.to, str)
            target = torch.full((len(rows),), self._index(self.to), device=value.device)
        new = value.clone()
        new[tuple(index)] = self.moved(x, target, true).to(value.dtype)
        return new

    def _mine(self, x: Tensor, rows: list[int], at: At, name: str) -> Tensor | None:
        whole = getattr(self, name)
        if whole is None:
            return None
        mine = at.mine(whole)
        return (mine if len(mine) > 1 else mine.expand(len(at.batch)))[rows].to(x.device)

    def _places(self, value: Tensor, at: At) -> tuple[list[int], list[int]]:
        """Row and index of each vector to move: those within the window."""
        n = value.shape[0]
        if self.where is not None:
            mine = at.mine(self.where)
            if len(mine) not in (1, n):
                raise BadEdit("the edit is tied to other prompts", received=str(n), allowed=str(len(mine)))
            pairs = list(enumerate(mine.expand(n).tolist()))
        else:
            pairs = [(row, p) for row in range(n) for p in self.pos or ()]
        places = []
        for row, p in pairs:
            length = at.batch.lengths[row]
            place = p + length if p < 0 else p
            if not 0 <= place < length:
                raise UnknownPosition(
                    f"the prompt has {length} tokens", received=f"pos={p}", allowed=f"{-length} to {length - 1}"
                )
            if place >= at.offset:
                places.append((row, place - at.offset))
        return [row for row, _ in places], [place for _, place in places]

    def _check_width(self, x: Tensor, width: int) -> None:
        if x.shape[-1] != width:
            raise WrongWidth(f"the probe does not fit {self.site}", received=str(x.shape[-1]), allowed=str(width))

    @property
    def label(self) -> str:
        """A few words: `lrqp resid_mid.6 at S2: order to other`."""
        to = self.to if isinstance(self.to, str) else "one for each prompt"
        place = self.position if self.pos is None else f"pos {', '.join(map(str, self.pos))}"
        return f"{self.method_name} {self.site} at {place}: {self.variable} to {to}"

    @property
    def method_name(self) -> str:
        return self.kind


def check_site(probe: Probe, site: str | None) -> None:
    """Refuse a site that is not the probe's own."""
    if site is not None and site != probe.site:
        raise BadEdit("the probe reads another site", received=site, allowed=probe.site)


def of(probe: Probe, to: To, pos: int | Sequence[int] | None) -> dict[str, Any]:
    """The fields that say where an edit made from a probe acts."""
    return {
        "site": probe.site,
        "head": None if probe.head is None else (probe.head,),
        "pos": None if pos is None else (pos,) if isinstance(pos, int) else tuple(pos),
        "classes": probe.classes,
        "variable": probe.label,
        "position": probe.position,
        "to": to,
        "model": str(probe.provenance.get("model", "")),
    }
