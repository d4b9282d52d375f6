"""The words of a command line, sorted by the argument they are for: what each takes is read off a method's schema."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from residscope.errors import BadArguments
from residscope.model.catalog import DEFAULT

COMMON = {
    "json": ("FILE", "its numbers as JSON; -: to the screen"),
    "csv": ("FILE", "its table as CSV; -: to the screen"),
    "html": ("FILE", "a page of its pictures"),
    "save": ("FILE", "the item: .safetensors, .html, .png, .svg or .pdf"),
    "model": ("MODEL", f"a catalog name, a folder, or a hub repository [default: {DEFAULT}]"),
    "dtype": ("DTYPE", "float32, bfloat16 or float16 [default: float32]"),
    "device": ("DEVICE", "cpu, cuda, cuda:1, mps ... [default: cpu]"),
}
"""What every method's command takes as well: one word each."""


def option(name: str) -> str:
    """The option an argument is given by."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Taken:
    """What a command takes. arity: how many words each option takes (-1: one or more, up to the next option); slots: those
    that may be said in this order without their names; required: those without which it does not run."""

    id: str
    arity: dict[str, int]
    slots: tuple[str, ...]
    required: tuple[str, ...]
    examples: dict[str, str]

    @classmethod
    def of(cls, schema: Mapping[str, Any], common: Iterable[str] = tuple(COMMON)) -> "Taken":
        """Of a method. An argument that has the name of an option which every command has is `--its-NAME`; a flag that is on
        unless said is turned off by `--no-NAME`."""
        properties = schema["properties"]
        own = {name: f"--its-{option(name)[2:]}" if name in common else option(name) for name in properties}
        own |= {name: f"--no-{own[name][2:]}" for name, part in properties.items() if part.get("default") is True}
        arity = {own[name]: int(part["words"]) for name, part in properties.items()}
        required = tuple(own[name] for name in properties if name in schema["required"])
        return cls(
            schema["id"],
            arity | {option(name): 1 for name in common},
            tuple(name for name in required if arity[name] == 1),
            required,
            {own[name]: part["example"] for name, part in properties.items()},
        )

    def called(self, name: str) -> str:
        """What this door calls an argument."""
        plain, its = option(name), f"--its-{option(name)[2:]}"
        every = (its, f"--no-{plain[2:]}", f"--no-{its[2:]}")
        return next((word for word in every if word in self.arity), plain)

    def sort(self, args: Sequence[str]) -> dict[str, Sequence[str]]:
        """The words of each option. Raises BadArguments: one that it does not take or that is missing, too few or many words."""
        words: dict[str, Sequence[str]] = {}
        bare: list[str] = []
        rest = [*args]
        while rest:
            word = rest.pop(0)
            if word == "--":
                bare += rest
                break
            if not word.startswith("--"):
                bare.append(word)
                continue
            name, equals, value = word.partition("=")
            if name not in self.arity:
                raise BadArguments(f"{self.id} takes no {name}", received=word, allowed=self._takes())
            if name in words:
                raise BadArguments(f"{name} is said twice", received=word, allowed="once")
            words[name] = self._values(name, [value] if equals else [], rest)
        free = [slot for slot in self.slots if slot not in words]
        words |= {name: [word] for name, word in zip(free, bare, strict=False)}
        self._complete(words, bare[len(free) :])
        return words

    def _values(self, name: str, first: list[str], rest: list[str]) -> list[str]:
        """What follows an option, taken off the rest."""
        wanted, values = self.arity[name], first
        if wanted == 0 and values:
            raise BadArguments(f"{name} takes no word", received=values[0], allowed=name)
        while len(values) != wanted and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if len(values) != wanted if wanted >= 0 else not values:
            needs = "a word or more" if wanted < 0 else f"{wanted} word{'s' * (wanted > 1)}"
            raise BadArguments(
                f"{name} takes {needs}", received=" ".join([name, *map(repr, values)]),
                allowed=f"{name} {self.examples.get(name, 'WORD')}", fix=f"{name}=WORD where a word begins with --",
            )  # fmt: skip
        return values

    def _complete(self, words: dict[str, Sequence[str]], left: list[str]) -> None:
        missing = [name for name in self.required if name not in words]
        if missing:
            several = [name for name, count in self.arity.items() if count < 0 and name in words]
            fix = f"residscope run {self.id} --help"
            if several:
                fix = f"say it before {several[0]}, which takes all words up to the next option"
            raise BadArguments(
                f"{self.id} needs {missing[0]}", received=f"no {missing[0]}", allowed=self.examples[missing[0]], fix=fix
            )
        if left:
            names = " ".join(slot[2:].upper() for slot in self.slots) or "no words without an option"
            raise BadArguments(f"{self.id} takes no more words", received=repr(left[0]), allowed=names)

    def _takes(self) -> str:
        return ", ".join(self.arity)
