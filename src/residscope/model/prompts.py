"""Prompts: text or tokens, one or many, and what belongs to each."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from residscope.errors import BadPrompt, MissingLabel, PaddedPrompt, TooFewPrompts, UnknownPosition
from residscope.files import read_plain, write_plain
from residscope.items import nbytes_of, save_item
from residscope.json_values import FORMS, form
from residscope.model.rows import mark, rows_of
from residscope.views import Table

Row = str | tuple[int, ...]
MOST_SHOWN = 200


@dataclass(frozen=True)
class PromptSet:
    """Prompts and what belongs to each: corrupted partner, answers, labels, named token positions.

    `prompts` holds texts, or tuples of token ids; ids in any other form that `model.run` takes become such. A string is a set
    of one: `model.run("text")` takes it as it is. The tasks of `rs.tasks` give token ids, so that positions cannot drift, and
    `texts` to show. A position that a prompt lacks is None. left_out: what a task dropped because the tokenizer splits it, in
    words. Raises BadPrompt.
    """

    prompts: Any  # tuple[Row, ...] once made
    corrupted: Any = None
    answers: tuple[tuple[str | int, str | int], ...] | None = None
    labels: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    positions: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    texts: tuple[str, ...] | None = None
    name: str = "prompts"
    left_out: tuple[str, ...] = ()
    kind: ClassVar[str] = "prompts"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", _rows(self.prompts))
        object.__setattr__(self, "corrupted", None if self.corrupted is None else _rows(self.corrupted))
        columns: dict[str, Sequence[object] | None] = {
            "corrupted": self.corrupted,
            "answers": self.answers,
            "texts": self.texts,
        }
        columns |= {**self.labels, **self.positions}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.prompts):
                raise ValueError(f"{name} has {len(column)} entries for {len(self.prompts)} prompts")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def provenance(self) -> dict[str, Any]:
        """What they are, how many, and what was left out of them."""
        return {"data": self.name, "prompts": len(self)} | ({"left out": [*self.left_out]} if self.left_out else {})

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes: none, for it holds text and plain ids."""
        return nbytes_of(self)

    def view(self) -> Table:
        """The prompts, and what belongs to each; the first of very many."""
        first = [("prompt", self.texts or self.prompts), ("corrupted", self.corrupted)]
        more = [("answers", self.answers), *self.labels.items(), *((f"at {p}", at) for p, at in self.positions.items())]
        columns = [(name, column) for name, column in [*first, *more] if column is not None]
        shown = range(min(len(self), MOST_SHOWN))
        rows = [[_cell(column[i]) for _, column in columns] for i in shown]
        note = [] if len(self) == len(rows) else [f"The first {len(rows):,} of {len(self):,}."]
        note += [f"Left out: {'; '.join(self.left_out)}."] if self.left_out else []
        return Table([name for name, _ in columns], rows, title=self.name, note=" ".join(note))

    def save(self, path: str | Path) -> None:
        """One safetensors file that `PromptSet.load` reads; a page for `x.html`, a figure for `x.png`, `.svg`, `.pdf`.

        Raises WrongEnding, FileNotThere, NotPlain (a label that has no form in JSON).
        """
        save_item(self, path, lambda place: write_plain(place, self.kind, {"prompts": self}))

    @classmethod
    def load(cls, path: str | Path) -> "PromptSet":
        """What `save` wrote. Raises FileNotThere, DamagedFile."""
        prompts: PromptSet = read_plain(path, cls.kind, only="prompts", of=PromptSet)
        return prompts

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()

    def __repr__(self) -> str:
        parts = [f"{len(self)} {self.name}"]
        parts += [
            f"{word}: {', '.join(names)}"
            for word, names in (("labels", self.labels), ("positions", self.positions))
            if names
        ]
        return f"PromptSet({'; '.join(parts)})"

    def subset(self, indices: Sequence[int]) -> "PromptSet":
        """These prompts, with all that belongs to them, in the order given."""

        def take(column: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(column[i] for i in indices)

        return PromptSet(
            prompts=take(self.prompts),
            corrupted=None if self.corrupted is None else take(self.corrupted),
            answers=None if self.answers is None else take(self.answers),
            labels={name: take(column) for name, column in self.labels.items()},
            positions={name: take(column) for name, column in self.positions.items()},
            texts=None if self.texts is None else take(self.texts),
            name=self.name,
            left_out=self.left_out,
        )

    def split(self, test: float = 0.5, *, seed: int = 0, by: str | None = None) -> tuple["PromptSet", "PromptSet"]:
        """Two disjoint halves, (train, test), drawn at random; `by` a label, each of its values is divided in that proportion.

        >>> data = PromptSet(tuple("abcdefgh"), labels={"x": (0, 0, 0, 0, 1, 1, 1, 1)})
        >>> [half.labels["x"] for half in data.split(by="x")]
        [(0, 0, 1, 1), (0, 0, 1, 1)]
        """
        if not 0 < test < 1:
            raise TooFewPrompts("one part of the split is empty", received=f"test={test}", allowed="between 0 and 1")
        groups: dict[object, list[int]] = defaultdict(list)
        for i, value in enumerate([None] * len(self) if by is None else self.label(by)):
            groups[value].append(i)
        held_out: set[int] = set()
        drawn = random.Random(seed)
        for group in groups.values():
            held_out.update(drawn.sample(group, max(1, round(test * len(group)))))
        train = [i for i in range(len(self)) if i not in held_out]
        return self.subset(train), self.subset(sorted(held_out))

    def label(self, name: str) -> tuple[object, ...]:
        """A label of each prompt. Raises MissingLabel."""
        if name not in self.labels:
            raise MissingLabel(
                "the prompts have no such label", received=repr(name), allowed=", ".join(self.labels) or "none here"
            )
        return self.labels[name]

    def at(self, position: str) -> tuple[int, ...]:
        """The token index of a named position in each prompt. Raises UnknownPosition, also where one prompt lacks it."""
        if position not in self.positions:
            raise UnknownPosition(
                "the prompts have no such position",
                received=repr(position),
                allowed=", ".join(self.positions) or "none here",
            )
        column = self.positions[position]
        lacking = [i for i, index in enumerate(column) if index is None]
        if lacking:
            raise UnknownPosition(
                f"{len(lacking)} of {len(self)} prompts lack the position {position}",
                received=f"prompt {lacking[0]}" + (f": {self.texts[lacking[0]][:80]!r}" if self.texts else ""),
                fix="leave them out with data.subset(indices)",
                on_page="leave them out of the file, or choose a position that all of them have",
            )
        return tuple(index for index in column if index is not None)


@dataclass(frozen=True)
class Batch:
    """Token ids, right-padded to one length (which causality makes exact), and each row's own length.

    `rows`: which prompts of a larger set the rows are, where they are not all of them in order. `answers`: of each row, the
    right one and the wrong one, where the prompts came with them.
    """

    ids: Int[Tensor, "batch pos"]
    lengths: tuple[int, ...]
    rows: tuple[int, ...] | None = None
    answers: tuple[tuple[str | int, str | int], ...] | None = None

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Which entries are tokens rather than padding."""
        ends = torch.tensor(self.lengths, device=self.ids.device)
        return torch.arange(self.ids.shape[1], device=self.ids.device)[None] < ends[:, None]

    def take(self, index: Sequence[int]) -> "Batch":
        """Some of the rows, in the order given and as often; they remember which they are."""
        rows = range(len(self)) if self.rows is None else self.rows
        answers = None if self.answers is None else tuple(self.answers[i] for i in index)
        return Batch(
            self.ids[list(index)], tuple(self.lengths[i] for i in index), tuple(rows[i] for i in index), answers
        )

    def trimmed(self) -> "Batch":
        """Without the columns that are padding in every row."""
        return replace(self, ids=self.ids[:, : max(self.lengths)])

    def __len__(self) -> int:
        return len(self.lengths)


def pad(rows: Sequence[Sequence[int]], *, device: torch.device | str = "cpu", pad_id: int = 0) -> Batch:
    """Right-pad rows of token ids. The ids know where their rows end: `model.run(batch.ids)` is exact."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)
    lengths = tuple(map(len, rows))
    return Batch(mark(ids, lengths), lengths)


def _cell(value: object) -> str | float | int | bool | None:
    if isinstance(value, tuple) and len(value) == 2 and any(isinstance(part, str) for part in value):
        return " against ".join(map(repr, value))  # a right and a wrong answer
    return value if value is None or isinstance(value, str | float | int | bool) else str(value)


FORMS["$prompts"] = form(PromptSet)


def require_set(data: object) -> None:
    """Refuse what has no labels, answers and named positions. Raises BadPrompt: no `PromptSet`; TooFewPrompts: one of nothing."""
    if isinstance(data, PromptSet) and not len(data):
        raise TooFewPrompts("there is no prompt in the set", received="0 prompts", allowed="1 prompt or more")
    if not isinstance(data, PromptSet):
        raise BadPrompt(
            "prompts with what belongs to each are needed: labels, answers, named positions",
            received=repr(data)[:80],
            allowed="a PromptSet",
            fix="rs.tasks.ioi(model), or rs.tasks.from_file(model, 'prompts.csv')",
            on_page="choose a task, or a file of labelled prompts",
        )


def _rows(prompts: Any) -> tuple[Row, ...]:
    """Texts as they are, and ids of whatever kind as tuples of integers."""
    plain = isinstance(prompts, tuple) and all(type(row) is tuple or isinstance(row, str) for row in prompts)
    if plain and all(type(row) is str or all(type(i) is int for i in row) for row in prompts):
        return prompts
    given = rows_of(prompts)
    if given.array and len(given.rows) > 1:
        raise PaddedPrompt(
            "a set of prompts keeps no tokenizer, and so cannot tell padding from tokens in a rectangle of ids",
            received=f"{len(given.rows)} rows of {len(given.rows[0])}",
            allowed="what a tokenizer returns, with its attention mask; or rows of their own lengths",
            fix="PromptSet(tuple(ids)), where no row is padded",
        )
    return tuple(row if isinstance(row, str) else tuple(row) for row in given.rows)
