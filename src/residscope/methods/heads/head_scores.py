"""Head scores: where heads look and what they do with it, by name, each beside the same score shuffled."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.drawn import draw_prompts
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.sinks import streams
from residscope.engine.windows import Window
from residscope.errors import TooFewWords
from residscope.methods._lib.by_head import stacked
from residscope.methods._lib.heads import HeadScore, Part, check_data, find, writing
from residscope.methods._lib.heads.declared import LOOKING
from residscope.methods._lib.heads.lists import FEW_SHOT, TRANSLATION, few_shot, translation
from residscope.methods._lib.intervals import bootstrap
from residscope.methods._lib.own_tokens import common_tokens
from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.tasks.ioi import ioi
from residscope.views import Grid, Table

Head = tuple[int, int]
AT_ONCE = 1 << 28  # bytes of patterns held together
MOST = 4  # prompts read together: more are no quicker
LEVELS = (0.05, 0.95)  # of the draws, the ends of the control's range
SHARE = 0.1  # of a score's largest excess over its control: what is less is no such head
SHOWN = 10  # heads of each score in the table


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Report):
    """Scores of every head, and the same scores shuffled.

    scores[score, layer, head]: means over prompts (of "copying", over tokens), with bootstrap intervals where there are
    several; NaN where no prompt has such tokens. units: of each score. control: the same dimensions, the mean over the draws
    of the shuffled score; from its low to its high nine tenths of the draws lie, so that `control.high` is their 95th
    percentile. found: by score, the heads whose interval (or value, where there is none) lies above that and above zero, and
    that exceed the control's mean by a tenth of what the first does or more; the furthest above first. about: by score, its
    definition, what is shuffled, source.
    """

    kind: ClassVar[str] = "report:head_scores"
    main: ClassVar[str] = "scores"
    scores: Result
    control: Result
    found: Mapping[str, tuple[Head, ...]]
    about: Mapping[str, Mapping[str, str]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def select(self, **labels: Any) -> Result:
        """The scores' own: `select(score="induction").values[layer, head]`."""
        return self.scores.select(**labels)

    def view(self) -> Grid:
        """The heads found beside their controls; a map of each score; what each is."""
        names = [str(name) for name in self.scores.coords["score"]]
        rows: list[list[Any]] = []
        for k, name in enumerate(names):
            for layer, head in self.found[name][:SHOWN]:
                mean, value, high = (x[k, layer, head] for x in (self.control.values, self.scores.values, self._high))
                rows.append([name, f"{layer}.{head}", *(round(float(x), 3) for x in (value, mean, high))])
        columns = ["score", "head", "value", "shuffled, mean", "shuffled, 95 %"]
        note = f"The first {SHOWN} of each; shares of attention, or the unit that the score has below."
        maps = self.scores.view()
        told = [
            [name, self.about[name]["unit"], *(self.about[name][x] for x in ("definition", "control", "source"))]
            for name in names
        ]
        return Grid(
            [
                Table(columns, rows, title="Heads above their control", note=note),
                *(maps.views if isinstance(maps, Grid) else [maps]),
                Table(["score", "unit", "definition", "control", "source"], told, title="What each score is"),
            ],
            columns=1 if len(names) == 1 else 2,
            title="Head scores",
        )  # fmt: skip

    @property
    def _high(self) -> Tensor:
        assert self.control.high is not None
        return self.control.high

    def __repr__(self) -> str:
        first = (
            f"{name} {', '.join(f'{a}.{b}' for a, b in heads[:3]) or 'none'}" for name, heads in self.found.items()
        )
        return f"HeadScores({'; '.join(first)})"


def repeated_tokens(model: Model, *, n: int = 10, length: int = 50, seed: int = 0) -> PromptSet:
    """n sequences of `length` common tokens drawn at random, no two alike, each written twice; BOS as is the model's habit.

    Common: readable, and among the vocabulary's first 10,000; without a tokenizer, any.
    Raises TooFewWords: the vocabulary has not so many tokens.
    """
    ids = [*range(model.d_vocab)] if model.tokenizer is None else common_tokens(model)
    if len(ids) < length:
        raise TooFewWords(
            "there are not so many common tokens", received=f"length={length}", allowed=f"{len(ids)} or fewer"
        )
    begin = [model.tokenizer.bos_token_id] if model.bos and model.tokenizer is not None else []
    drawn = random.Random(seed)
    halves = [drawn.sample(ids, length) for _ in range(n)]
    return PromptSet(tuple((*begin, *half, *half) for half in halves), name="repeated random tokens")


def _prompts(model: Model, data: str, n: int, length: int, seed: int) -> PromptSet:
    """The prompts that a score is measured on unless others are given."""
    if data == writing.IOI:
        return ioi(model, max(n, 2), seed=seed, prefixes=False)
    if data == writing.TEXT:
        return draw_prompts(model, "english", n, length=length, seed=seed, progress=False)
    made = {TRANSLATION: translation, FEW_SHOT: few_shot}.get(data)
    return repeated_tokens(model, n=n, length=length, seed=seed) if made is None else made(model, n, seed)


def _price(
    model: Model,
    *,
    prompts: Prompt | None = None,
    n: int = 10,
    length: int = 50,
    kinds: str | Sequence[str] = LOOKING,
    **_: Any,
) -> float:
    """Tokens through the whole model: each prompt once; of S-inhibition, what each head's cell takes of it."""
    scores = find(kinds)
    each = float(n * (2 * length + model.bos) if prompts is None else sum(model.batch(prompts).lengths))
    heads = model.n_layers * model.n_heads / 2 if any(score.id == "s-inhibition" for score in scores) else 0
    return each * (1 if prompts is not None else len({score.data for score in scores})) + heads * n


def _refuse(model: Model, *, prompts: Prompt | None = None, kinds: str | Sequence[str] = LOOKING, **_: Any) -> None:
    for score in find(kinds):
        if prompts is not None:
            check_data(prompts if isinstance(prompts, PromptSet) else None, score)


@method("head-scores", title="Head scores", group="heads", tokens=_price, refuse=_refuse)
def head_scores(
    model: Model,
    *,
    prompts: Annotated[Prompt | None, fields.prompts()] = None,
    n: Annotated[int, fields.count(low=1, high=1000)] = 10,
    length: Annotated[int, fields.count(low=2, high=2000)] = 50,
    kinds: Annotated[
        str | Sequence[str],
        fields.name(of="head score", help="one or several, with commas; attention: those of attention alone; all"),
    ] = LOOKING,
    draws: Annotated[int, fields.count(low=1, high=1000)] = 20,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> HeadScores:
    """Where heads look and what they do with it: previous tokens, induction, copying, name movers ..., each beside its control.

        previous-token    mean over i of A[i, i - 1]
        current-token     mean over i of A[i, i]
        first-token       mean over i of A[i, 0]
        duplicate-token   mean over i of sum of A[i, j] over j < i with t[j] = t[i]
        induction         mean over i of sum of A[i, j] over j < i with t[j - 1] = t[i]
        translation       mean over words i of A[i, what follows its counterpart in a list in another language]
        few-shot          mean over questions i of sum of A[i, answers to earlier questions of the same kind]
        anti-induction    -mean over i of sum of w[i, j] over j < i with t[j - 1] = t[i]
        copy-suppression  -mean over i of sum of w[i, j] over copies j of the token so far that the lens predicts most
        name-mover        mean over prompts of A[END, IO] v_IO W_O . (u[IO] - u[S]) / sigma_END
        s-inhibition      fall of the name movers' A[END, IO] - A[END, S1], the head's output at END from the partner
        copying           mean over tokens s of M[s, s], M = E G W_V W_O G' W_U standardised along each row

    A[i, j] is what token i attends to token j with, t the tokens; w[i, j] = A[i, j] v_j W_O . (u[t_j] - mean of u over the
    prompt's tokens) / sigma_i is what looking there adds directly to the logit of t_j, u the unembedding behind the final
    norm's gain, sigma its divisor in the run. Means are over the tokens i that have such a j, then over prompts. Position 0
    and attention sinks are left out, as i and as j (but position 0 is what "first-token" is about). The first five are of
    attention alone (`"attention"`): an anti-induction head looks like an induction head. A score above its control says what
    the head does on such prompts, not that the model needs it for them (`rs.ablation_sweep`).

    Each has a control, the same score `draws` times with its tokens, keys or answers shuffled (`HeadScores.about` says which).

    prompts: instead of each score's own: repeated random tokens; prose (copy suppression); IOI prompts (name mover and
    S-inhibition); word lists in two languages, and few-shot prompts, which take no others. n: sequences, or prompts. length:
    tokens of each sequence, written twice; of prose. kinds: names of scores, `register_head_score`'s too, in a list or with
    commas; "all".

        rs.head_scores(model).select(score="induction")
        rs.head_scores(model, kinds="name-mover, s-inhibition").found

    Raises:
        BadSweep: no such kind; prompts to a score that has its own. MissingLabel, UnknownPosition: prompts without answers, or
        without IO, S1, END. TooFewPrompts: no name mover. TooFewWords, PromptError, NoTokenizer, AbsentSite, QuantisedModel,
        TooLarge, Cancelled.

    Olsson et al. 2022 (2209.11895); Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Wang et al. 2022
    (2211.00593); McDougall et al. 2023 (2310.04625).
    """
    scores = find(kinds)
    _refuse(model, prompts=prompts, kinds=kinds)
    groups: dict[str, list[HeadScore]] = {}
    for score in scores:
        groups.setdefault("prompts" if prompts is not None else score.data, []).append(score)
    measured: dict[str, tuple[Tensor, Tensor]] = {}
    told: dict[str, Any] = {}
    for data, group in groups.items():
        source = _prompts(model, data, n, length, seed) if prompts is None else prompts
        told[data] = {"prompts": len(model.batch(source)), "data": getattr(source, "name", "prompts")}
        measured |= _measured(model, source, group, draws, seed, progress, cancel)
    return _report(model, scores, measured, told, {"length": length} if prompts is None else {}, draws, seed)


def _measured(
    model: Model, source: Any, group: Sequence[HeadScore], draws: int, seed: int, progress: Progress, cancel: Cancel
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each score of some prompts, [layer head item] and [draw layer head item]."""
    batch, data = model.batch(source), source if isinstance(source, PromptSet) else None
    running = [score for score in group if score.of_run is not None]
    whole = [score for score in group if score.of_model is not None]
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {score.id: [] for score in running}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    steps = len(batch) if running else 0
    with stage("Scoring heads", steps + 100 * len(whole), progress, cancel) as tell:
        for rows in _parts(model, batch) if running else []:
            for id, pair in _scored(model, batch, tuple(rows), data, running, draws, seed).items():
                kept[id].append(pair)
            tell(rows[-1] + 1)
        found |= {id: _joined(pairs) for id, pairs in kept.items()}
        for number, score in enumerate(whole):
            before = steps + 100 * number

            def so_far(share: float, before: int = before) -> None:
                tell(before + int(100 * share))

            assert score.of_model is not None
            given = PromptSet(tuple(tuple(row[:m]) for row, m in zip(batch.ids.tolist(), batch.lengths, strict=True)))
            found[score.id] = score.of_model(model, data or given, draws, seed, so_far)
    return found


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    each, control = zip(*pairs, strict=True)
    return torch.cat(each, -1), torch.cat(control, -1)


def _report(
    model: Model,
    scores: Sequence[HeadScore],
    measured: Mapping[str, tuple[Tensor, Tensor]],
    told: Mapping[str, Any],
    more: Mapping[str, Any],
    draws: int,
    seed: int,
) -> HeadScores:
    names = [score.id for score in scores]
    each = [measured[name][0].double() for name in names]
    control = [measured[name][1].double().nanmean(-1) for name in names]  # draw layer head
    values = torch.stack([x.nanmean(-1) for x in each])
    low, high = (torch.stack(ends) for ends in zip(*(_interval(x, seed) for x in each), strict=True))
    low, high = torch.minimum(low, values), torch.maximum(high, values)
    known = None if bool(low.isnan().all()) else (low, high)
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    ends = torch.stack([torch.nanquantile(x, levels, dim=0) for x in control], 1)
    mean = torch.stack([x.nanmean(0) for x in control])
    least = torch.where(low.isnan(), values, low)
    about: dict[str, Any] = {
        **model.provenance, "method": "head scores", "draws": draws, "seed": seed, "bos": model.bos, **more,
        "left out": "position 0 and attention sinks, as queries and as keys",
        **(next(iter(told.values())) if len(told) == 1 else {"data": dict(told)}),
        "prompts with such tokens": {
            name: int((~x.isnan()).any(0).any(0).sum()) for name, x in zip(names, each, strict=True)
        },
    }  # fmt: skip
    units = [score.unit for score in scores]
    shape: dict[str, Any] = {"dims": ("score", "layer", "head"), "coords": {"score": names}, "provenance": about}
    shape["unit"] = units[0] if len({*units}) == 1 else ""
    above, excess = least > ends[1].clamp_min(0), (values - mean.clamp_min(0)).nan_to_num(-torch.inf)
    chosen = above & (excess >= SHARE * excess.flatten(1).amax(1)[:, None, None]) & (excess > 0)
    return HeadScores(
        Result(values, name="head scores", low=known and known[0], high=known and known[1], **shape),
        Result(mean, name="shuffled head scores", low=torch.minimum(ends[0], mean), high=torch.maximum(ends[1], mean), **shape),
        {name: _ranked(excess[k], chosen[k]) for k, name in enumerate(names)},
        {
            score.id: {"definition": score.about, "control": score.control, "source": score.source, "unit": score.unit}
            for score in scores
        },
        about,
    )  # fmt: skip


def _interval(each: Float[Tensor, "layer head item"], seed: int) -> tuple[Tensor, Tensor]:
    """Of the mean over the prompts that have a value for every head; NaN where under two have."""
    unknown = each.isnan() & ~each.isnan().all(-1, keepdim=True)  # a head that is not there has none anywhere
    whole = each[..., ~unknown.flatten(0, 1).any(0)]
    if whole.shape[-1] < 2:
        return (torch.full_like(each[..., 0], torch.nan),) * 2
    return bootstrap(whole.movedim(-1, 0), seed=seed)


def _ranked(values: Float[Tensor, "layer head"], chosen: Tensor) -> tuple[Head, ...]:
    """The chosen heads, the largest value first."""
    n = values.shape[1]
    order = values.flatten().argsort(descending=True, stable=True).tolist()
    return tuple((i // n, i % n) for i in order if bool(chosen.flatten()[i]))


def _parts(model: Model, batch: Batch) -> list[list[int]]:
    """Prompts whose patterns fit together, at least one."""
    each = model.n_layers * model.n_heads * batch.ids.shape[1] ** 2 * model.dtype.itemsize
    size = max(1, min(AT_ONCE // each, MOST))
    return [[*range(first, min(first + size, len(batch)))] for first in range(0, len(batch), size)]


def _scored(
    model: Model,
    batch: Batch,
    rows: tuple[int, ...],
    data: PromptSet | None,
    scores: Sequence[HeadScore],
    draws: int,
    seed: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Scores of one part; of a prompt whose patterns do not fit together, some layers at a time, from the streams it had."""
    part = batch.take(rows).trimmed()
    n, each = model.n_layers, model.n_heads * len(part) * part.ids.shape[1] ** 2 * model.dtype.itemsize
    names = {name for score in scores for name in score.sites if name in model.sites.names}
    size, found = max(1, AT_ONCE // each), dict[str, list[Any]]()
    base = None if size >= n else model.run(part)
    for first in range(0, n, min(size, n)):
        layers = range(first, min(first + size, n))
        sites = [site for layer in layers for site in _sites(model, layer, names)]
        sites += [Site("final_scale")] if "final_scale" in names else []
        window = None if base is None else Window(base, first, layers[-1] if "final_scale" not in names else n - 1)
        here = Part(model.run(part, sites, window=window), data, rows, draws, seed)
        for score in scores:
            assert score.of_run is not None
            found.setdefault(score.id, []).extend(score.of_run(here, layer) for layer in layers)
    return {
        id: (stacked([x for x, _ in by_layer]), stacked([c for _, c in by_layer], 1, axis=1))
        for id, by_layer in found.items()
    }


def _sites(model: Model, layer: int, names: set[str]) -> list[Site]:
    pattern = Site("pattern", layer)
    return [pattern, *streams(model, pattern), *(Site(name, layer) for name in sorted(names - {"final_scale"}))]
