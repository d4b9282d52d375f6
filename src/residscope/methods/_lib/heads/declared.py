"""Head scores declared: what each measures, on which prompts, and what it is held against."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.declare.plugins import claim, load_plugins
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.errors import BadSweep, MissingLabel
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site

Own = Callable[[Float[Tensor, "head query key"], Int[Tensor, " pos"]], Float[Tensor, " head"]]
REPEATED = "repeated random tokens"
LOOKING = "attention"  # the scores of attention alone, by one word


@dataclass(frozen=True, eq=False)
class Part:
    """Some prompts of a run: the recording, the set they belong to (where there is one), and which of it the rows are."""

    run: Recording
    data: PromptSet | None
    rows: tuple[int, ...]
    draws: int
    seed: int
    held: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is the same for several layers or scores, made once."""
        if key not in self.held:
            self.held[key] = make()
        return self.held[key]

    def drawing(self, *of: int) -> list[torch.Generator]:
        """A generator for each prompt, its own whichever prompts are read together."""
        seeds = [random.Random(str((self.seed, row, *of))).randrange(1 << 60) for row in self.rows]
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def chances(self, axes: int, *of: int) -> Float[Tensor, "draw row *pos"]:
        """Numbers from 0 to 1, drawn for each token (axes=1) or pair of tokens (2) of each prompt; 0 where there is padding."""
        shape = (self.draws, len(self.rows), *([self.run.tokens.shape[1]] * axes))
        found = torch.zeros(shape)
        for row, (n, drawn) in enumerate(zip(self.run.lengths, self.drawing(*of), strict=True)):
            own: tuple[slice | int, ...] = (slice(None), row, *([slice(n)] * axes))
            found[own] = torch.rand(self.draws, *([n] * axes), generator=drawn)
        return found

    def kept(self, layer: int) -> Bool[Tensor, "row pos"]:
        """Tokens that are neither first nor sinks, on the CPU."""
        keep: Tensor = self.once(("kept", layer), lambda: kept(self.run, Site("pattern", layer)).cpu())
        return keep

    def pattern(self, layer: int) -> Float[Tensor, "row head query key"]:
        pattern = self.run["pattern", layer]
        return pattern.to(torch.promote_types(pattern.dtype, torch.float32))


Measured = tuple[Float[Tensor, "head row"], Float[Tensor, "draw head row"]]
OfRun = Callable[[Part, int], Measured]
OfModel = Callable[..., tuple[Float[Tensor, "layer head item"], Float[Tensor, "draw layer head item"]]]


@dataclass(frozen=True, eq=False)
class HeadScore:
    """One score of heads.

    about: its definition. control: what is shuffled. data: the prompts it is measured on unless others are given. of_run: of a
    layer's heads on the prompts of a part, and the same shuffled; of_model: of all heads at once, likewise. sites: what
    `of_run` reads beside the pattern and the stream. needs: named positions (and answers) that prompts of one's own must
    have; None: it has only its own prompts. looks: whether it is of attention alone, on any prompts.
    """

    id: str
    about: str
    control: str
    source: str
    function: Callable[..., Any]
    unit: str = "share"
    data: str = REPEATED
    sites: tuple[str, ...] = ()
    needs: tuple[str, ...] | None = ()
    of_run: OfRun | None = None
    of_model: OfModel | None = None
    looks: bool = False


HEAD_SCORES: dict[str, HeadScore] = {}


def of_run(id: str, **about: Any) -> Callable[[OfRun], OfRun]:
    """Declare a function of a part of a run and a layer as a score."""

    def declare(function: OfRun) -> OfRun:
        HEAD_SCORES[id] = HeadScore(id, function=function, of_run=function, **about)
        return function

    return declare


def of_model(id: str, **about: Any) -> Callable[[OfModel], OfModel]:
    """Declare a function of a model as a score."""

    def declare(function: OfModel) -> OfModel:
        HEAD_SCORES[id] = HeadScore(id, function=function, of_model=function, **about)
        return function

    return declare


def register_head_score(id: str, *, about: str = "", source: str = "", unit: str = "share") -> Callable[[Own], Own]:
    """Declare a score of your own: a function of one prompt's patterns and tokens to a number for each head.

        @rs.register_head_score("two-back", about="mean over i of A[i, i - 2]")
        def two_back(pattern, tokens):                # [head query key], [pos]
            return pattern.diagonal(-2, 1, 2).mean(-1)  # [head]

        rs.head_scores(model, kinds="two-back")

    It is called for each layer and prompt, without padding; its control is the same function on shuffled tokens, of which the
    first stays where it is. A plugin's module (`residscope.methods` among its entry points) may declare some.

    Raises NameAlreadyDeclared: another function has the id.
    """

    def declare(function: Own) -> Own:
        claim("head scores", id, HEAD_SCORES.get(id), function)
        HEAD_SCORES[id] = HeadScore(
            id, about or (function.__doc__ or "").partition("\n")[0], "the tokens of each prompt but the first, shuffled",
            source or function.__module__ or "", function, unit, of_run=_own(id, function),
        )  # fmt: skip
        return function

    return declare


def _own(id: str, function: Own) -> OfRun:
    def measure(part: Part, layer: int) -> Measured:
        run, drawn = part.run, part.drawing(layer)

        def told(row: int, order: Tensor) -> Tensor:
            pattern = run["pattern", layer][row, :, : len(order), : len(order)]
            value = torch.as_tensor(function(pattern, run.tokens[row, order.to(run.tokens.device)]))
            if value.shape != pattern.shape[:1]:
                raise BadSweep(
                    f"the score {id} is no number for each head",
                    received=f"shape {tuple(value.shape)}",
                    allowed=f"({len(pattern)},)",
                )
            return value.to(pattern).cpu()

        def shuffled(row: int, n: int) -> Tensor:
            return torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(n - 1, generator=drawn[row])])

        each = torch.stack([told(row, torch.arange(n)) for row, n in enumerate(run.lengths)], -1)
        draws = [[told(row, shuffled(row, n)) for row, n in enumerate(run.lengths)] for _ in range(part.draws)]
        return each, torch.stack([torch.stack(rows, -1) for rows in draws])

    return measure


def find(kinds: str | Sequence[str]) -> list[HeadScore]:
    """The scores of these names; "attention" is those of attention alone, "all" all that there are. Raises BadSweep."""
    names = [name.strip() for name in kinds.split(",")] if isinstance(kinds, str) else [*kinds]
    if {*names} - {*HEAD_SCORES, LOOKING, "all"}:
        load_plugins()
    groups = {LOOKING: [name for name, score in HEAD_SCORES.items() if score.looks], "all": [*HEAD_SCORES]}
    wanted = [*dict.fromkeys(name for one in names for name in groups.get(one, [one]))]
    if not wanted or (strange := [name for name in wanted if name not in HEAD_SCORES]):
        raise BadSweep(
            "no such score of heads",
            received=", ".join(map(str, strange)) if wanted else "none",
            allowed=", ".join([LOOKING, *HEAD_SCORES]),
        )
    return [HEAD_SCORES[name] for name in wanted]


def check_data(data: PromptSet | None, score: HeadScore) -> None:
    """Raises MissingLabel, UnknownPosition, BadSweep: the prompts given have not what the score is about."""
    if score.needs is None:
        raise BadSweep(
            f"{score.id} is measured on prompts of its own",
            received="other prompts",
            allowed="none: " + score.data,
            fix="leave prompts out",
        )
    if score.needs and (data is None or data.answers is None or ("partner" in score.needs and data.corrupted is None)):
        raise MissingLabel(
            f"{score.id} needs prompts with answers, and the positions {', '.join(score.needs)}",
            fix="such as those of rs.tasks.ioi; or none, which takes them",
        )
    for name in score.needs:
        if data is not None and name != "partner":
            data.at(name)
