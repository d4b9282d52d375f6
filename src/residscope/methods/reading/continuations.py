"""A prompt continued without its edits and with them, token by token, each side read by the other model too."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.forced import Forced
from residscope.engine.generation import Token, check_length
from residscope.engine.model import Model, Prompt
from residscope.engine.protocols import LeastEdit
from residscope.engine.sampling import Stops, picker
from residscope.errors import BadSampling, Cancelled, PromptError
from residscope.methods._lib.draws import Continuation, Draw, shared
from residscope.progress import Cancel, Progress, asking, stage
from residscope.reports import Report
from residscope.views import Grid, TokenStrip

if TYPE_CHECKING:
    import pandas

CHUNK = 4  # tokens that the other model reads in one pass
STEP = 20  # tokens of a long pass take as long as one step, about, which is bound by reading the weights
COLUMNS = ["seed", "run", "token", "id", "text", "log_prob", "other", "difference"]


@dataclass(frozen=True, eq=False, repr=False)
class Continuations(Report):
    """One prompt's continuations, a `Draw` for each seed. prompt: its token ids."""

    kind: ClassVar[str] = "report:continuations"
    prompt: tuple[int, ...]
    draws: tuple[Draw, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> Grid:
        """Each run's tokens. Red: the edits made the token likelier, blue: less likely; without edits, by -log p."""
        strips: list[TokenStrip] = []
        apart = [abs(x) for draw in self.draws for column in draw.differences().values() for x in column]
        limit = max([1.0, *(x for x in apart if math.isfinite(x))])
        for draw in self.draws:
            if draw.edited is None:
                shown = [-x for x in draw.baseline.log_probs]
                strips.append(
                    TokenStrip(
                        draw.baseline.tokens, shown, unit="nats, -log p", scale="sequential",
                        title=f"Baseline, seed {draw.seed}", note=draw.said,
                    )
                )  # fmt: skip
                continue
            for name, run in (("baseline", draw.baseline), ("edited", draw.edited)):
                strips.append(
                    TokenStrip(
                        run.tokens, draw.differences()[name], unit="Δ log p, nats", limit=limit,
                        title=f"{name.capitalize()}, seed {draw.seed}", note=draw.said,
                    )
                )  # fmt: skip
        title = "What the prompt goes on with" + ("; Δ: edited less baseline" if apart else "")
        return Grid(strips, columns=2 if apart else 1, title=title)

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row for every token of every run: seed, run, token, id, text, log_prob, other, difference (nats)."""
        import pandas

        rows = [
            (draw.seed, name, i, *facts)
            for draw in self.draws
            for name, run in (("baseline", draw.baseline), ("edited", draw.edited))
            if run is not None
            for i, facts in enumerate(
                zip(
                    run.ids, run.tokens, run.log_probs, run.other,
                    draw.differences().get(name, [math.nan] * len(run.ids)), strict=True,
                )
            )
        ]  # fmt: skip
        frame = pandas.DataFrame(rows, columns=COLUMNS)
        frame.attrs.update(name="continuations", unit="nats")
        return frame

    def __repr__(self) -> str:
        runs = [run.text for draw in self.draws for run in (draw.baseline, draw.edited) if run is not None]
        return f"Continuations({', '.join(map(repr, runs))})"


def _price(
    model: Model, prompt: Prompt, *, edits: Sequence[Any] = (), n: int = 1, max_new_tokens: int = 20, **_: Any
) -> float:
    """Tokens of a long pass through the whole model that take as long, about."""
    own = STEP * max_new_tokens * (1 + 1 / CHUNK if edits else 1)
    return float(n * (2 if edits else 1) * (sum(model.batch(prompt).lengths) + own))


def _check(
    model: Model, prompt: Prompt, *, n: int = 1, max_new_tokens: int = 20, temperature: float = 0.0, top_k: int | None = None,
    top_p: float | None = None, **_: Any,
) -> None:  # fmt: skip
    """Refuse what cannot be drawn, or is too long, before anything is run."""
    _require(model, prompt, n, temperature)
    picker(temperature, top_k, top_p)
    check_length(model.batch(prompt), max_new_tokens, model.context)


@method(
    "continuations",
    title="Continue with and without the edits",
    group="generation",
    steps=lambda *given, **named: continued(*given, **named),
    tokens=_price,
    refuse=_check,
)
def continuations(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True)],
    *,
    edits: Annotated[Sequence[LeastEdit] | LeastEdit, fields.edits()] = (),
    n: Annotated[int, fields.count(low=1, high=100)] = 1,
    max_new_tokens: Annotated[int, fields.count(low=1, high=100_000, help="of each continuation")] = 20,
    temperature: Annotated[float, fields.number(low=0, help="0: the likeliest token")] = 0.0,
    top_k: Annotated[int | None, fields.count(low=1, help="draw among the k likeliest tokens")] = None,
    top_p: Annotated[
        float | None, fields.number(over=0, high=1, help="draw among the likeliest with this share of p")
    ] = None,
    seed: Annotated[int, fields.seed()] = 0,
    stop: Annotated[
        str | int | Sequence[str | int] | None,
        fields.name(help="a text that ends it, in place of the model's end of text"),
    ] = None,
    at: Annotated[str | Sequence[str], fields.choice("both", "prompt", "new", help="where the edits act")] = "both",
    progress: Progress = None,
    cancel: Cancel = None,
) -> Continuations:
    """Continue a prompt without the edits and with them, and read what each chose by the other too.

        d[i] = log p(t[i] | prompt, t[:i], edits) - log p(t[i] | prompt, t[:i]),    in nats, before temperature and cuts

    for the tokens t of either continuation: above zero, the edits made the token likelier. n: how many draws, of the seeds seed,
    seed + 1 ...; each is what `model.generate` gives for that seed. Without edits there is the baseline alone. The other
    arguments are `model.generate`'s. `draws[0].same` says how many tokens the two have in common.

        found = rs.continuations(model, "The Eiffel Tower is in", edits=[rs.edits.ablate("mlp_out.3")], max_new_tokens=12)
        found.draws[0].baseline.text, found.draws[0].edited.text

    Raises:
        PromptError: more than one prompt; what `model.batch` refuses. BadSampling: several draws at temperature 0, which are all
        the same; what `model.generate` refuses. SiteError, EditError. Cancelled: with what has come as its `partial`.
    """
    latest: Continuations | None = None
    try:
        for known in continued(
            model, prompt, edits=edits, n=n, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
            seed=seed, stop=stop, at=at, progress=progress, cancel=cancel,
        ):  # fmt: skip
            latest = known
    except Cancelled as stopped:
        stopped.partial = latest
        raise
    assert latest is not None
    return latest


def continued(
    model: Model,
    prompt: Prompt,
    *,
    edits: Sequence[LeastEdit] | LeastEdit = (),
    n: int = 1,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: str | int | Sequence[str | int] | None = None,
    at: str | Sequence[str] = "both",
    progress: Progress = None,
    cancel: Cancel = None,
) -> Iterator[Continuations]:
    """`continuations` as they come: with each token of either side, and with each reading by the other."""
    ids = _require(model, prompt, n, temperature)
    how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "stop": stop}
    stack = [edits] if isinstance(edits, LeastEdit) else [*edits]
    about = {
        **model.provenance, "method": "continuations", "edits": len(stack), "max_new_tokens": max_new_tokens, "seed": seed,
        **{name: value for name, value in {**how, "at": at}.items() if value is not None},
    }  # fmt: skip
    done: list[Draw] = []
    total = n * max_new_tokens
    with stage("Continuing the prompt", total, progress, cancel, yields=True) as tell:
        for number in range(n):
            sides = [_Side(model, prompt, (), max_new_tokens, seed + number, how)]
            if stack:
                sides.append(_Side(model, prompt, stack, max_new_tokens, seed + number, how, at=at))
            for i in range(max_new_tokens):
                with asking(tell, cancel):
                    going = [side.step() for side in sides]
                    if stack and any(going):
                        _read_each_other(*sides, all_of_it=i + 1 == max_new_tokens)
                if any(going):
                    yield Continuations(ids, (*done, _drawn(seed + number, sides)), about)
                    tell(number * max_new_tokens + i + 1)
                else:
                    break
            if stack:
                with asking(tell, cancel):
                    _read_each_other(*sides, all_of_it=True)
            done.append(_drawn(seed + number, sides))
            yield Continuations(ids, (*done,), about)
            tell((number + 1) * max_new_tokens)


class _Side:
    """One model's own continuation, and what it gives the other's."""

    def __init__(
        self, model: Model, prompt: Prompt, edits: Sequence[LeastEdit], new: int, seed: int, how: Mapping[str, Any],
        *, at: str | Sequence[str] = "both",
    ) -> None:  # fmt: skip
        self.model, self._asked = model, (prompt, edits, new, at)
        self._coming = iter(model.generate(prompt, edits, new, seed=seed, at=at, **how))
        self._stops = Stops(model, how.get("stop"))
        self._forced: Forced | None = None
        self._fed = 0
        self.tokens: list[Token] = []
        self.of_other: list[float] = []

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    def step(self) -> bool:
        """One more token of its own; whether there was one."""
        token = next(self._coming, None)
        if token is not None:
            self.tokens.append(token)
        return token is not None

    def read(self, theirs: Sequence[int], same: int, *, least: int) -> None:
        """What this model gives their tokens; while these are its own, what it gave its own. least: of others, in one pass."""
        while len(self.of_other) < min(same, len(theirs)):
            self.of_other.append(self.tokens[len(self.of_other)].log_prob)
        if len(self.of_other) < len(theirs) and len(theirs) - self._fed >= least:
            if self._forced is None:
                prompt, edits, new, at = self._asked
                self._forced = Forced(self.model._starting(prompt, edits, new, at=at))
            read = self._forced.feed(theirs[self._fed :])
            self.of_other += read[len(self.of_other) - self._fed :]
            self._fed = len(theirs)

    def made(self, other: Sequence[float]) -> Continuation:
        ids, text = self.ids, "".join(token.text for token in self.tokens)
        return Continuation(
            ids, tuple(self.model.token_texts(ids)), text, tuple(token.log_prob for token in self.tokens),
            (*other, *[math.nan] * (len(ids) - len(other))), bool(ids) and self._stops(ids, text),
        )  # fmt: skip


def _read_each_other(first: _Side, second: _Side, *, all_of_it: bool) -> None:
    same = shared(first.ids, second.ids)
    for side, other in ((first, second), (second, first)):
        side.read(other.ids, same, least=1 if all_of_it else CHUNK)


def _drawn(seed: int, sides: Sequence[_Side]) -> Draw:
    if len(sides) == 1:
        return Draw(seed, sides[0].made(()))
    first, second = sides
    return Draw(seed, first.made(second.of_other), second.made(first.of_other))


def _require(model: Model, prompt: Prompt, n: int, temperature: float) -> tuple[int, ...]:
    """The prompt's ids."""
    batch = model.batch(prompt)
    if len(batch) != 1:
        raise PromptError("one prompt is continued", received=f"{len(batch)} prompts", fix="call it for each")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise BadSampling("n is how many draws there are", received=f"n={n!r}", allowed="1, 2, 3 ...")
    if n > 1 and temperature == 0:
        raise BadSampling(
            "at temperature 0 all draws are the same", received=f"n={n}, temperature=0", fix="n=1, or a temperature"
        )
    return tuple(batch.ids[0].tolist())
