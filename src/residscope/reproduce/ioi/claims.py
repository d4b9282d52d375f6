"""The paper, claim by claim: what was measured, the criterion, the controls, and whether it held on this model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from residscope.methods._lib.intervals import bootstrap, by_rank
from residscope.methods.heads.head_roles import SEES
from residscope.reproduce.ioi.classes import (
    AT,
    DUPLICATE,
    INDUCTION,
    INHIBITION,
    MOVERS,
    NEGATIVE,
    PREVIOUS,
    SUPPRESSORS,
    strongest,
)
from residscope.reproduce.ioi.knocks import ALONE, CIRCUIT, NOTHING, Knock
from residscope.reproduce.ioi.measures import Head
from residscope.reproduce.ioi.numbers import (
    TIMES,
    correlations,
    effect,
    effects_of,
    gainers,
    kept,
    looked,
    mean_of,
    most_at,
    others,
    stronger,
    words,
)
from residscope.reproduce.ioi.study import Study
from residscope.tasks.ioi import POSITIONS
from residscope.views import Card

ACCURATE, FEW, TOGETHER, COPY, HALF, FAITHFUL, LEFT, SURVIVES, LEVEL = (
    0.9, 0.05, 0.8, 0.8, 0.5, 0.8, 0.2, 0.8, 0.05,
)  # fmt: skip
ENOUGH = 19  # draws, fewer of which say too little


def cards(study: Study) -> list[Card]:
    """A claim of the paper each, with the numbers, the controls beside them, the criterion, and whether it held."""
    return [
        _task(study), _stream(study), _few(study), _look_at_io(study), _goes_along(study), _copy(study), _against(study),
        _queries(study), _redirect(study), _values(study), _through_values(study), _keys(study), _position(study),
        *(_out(study, name) for name in study.classes), _compensated(study), _backups(study), _alone(study), _whole(study),
    ]  # fmt: skip


def _card(claim: str, fields: Mapping[str, Any], held: bool | None, criterion: str) -> Card:
    verdict = None if held is None else "passed" if held else "failed"
    rounded = {name: float(f"{x:.3g}") if isinstance(x, float) else x for name, x in fields.items()}
    return Card(claim, rounded, verdict=verdict, note=criterion)  # type: ignore[arg-type]


def _sent(study: Study, stage: str, heads: Sequence[Head]) -> dict[str, Any]:
    """A stage's effects of some senders, and the controls beside them."""
    fields: dict[str, Any] = {
        "mean effect, logits": effect(study, study.paths, stage, heads),
        "other heads of these layers": effect(study, study.paths, stage, others(study, heads)),
        "partner shuffled": effect(study, study.shuffled, stage, heads),
    }
    return fields | ({"random receivers": effect(study, study.beside, stage, heads)} if stage != "logits" else {})


def _task(study: Study) -> Card:
    accuracy, diffs = study.task.line("accuracy"), study.task.differences.values
    low, high = accuracy.interval or (float("nan"),) * 2
    fields = {
        "names IO over S": f"{accuracy.value:.1%} ({low:.1%} to {high:.1%})", "logit difference": mean_of(diffs[0]),
        "control: the other name at S2": mean_of(diffs[1]), "GPT-2 small": "99.3%, 3.56 logits",
    }  # fmt: skip
    ends = bootstrap(diffs[0])
    return _card(
        "The model does the task", fields, accuracy.value >= ACCURATE and float(ends[0]) > 0 > float(diffs[1].mean()),
        f"held if {ACCURATE:.0%} or more are right, the difference's interval is above 0, and the partner's mean is below",
    )  # fmt: skip


def _stream(study: Study) -> Card:
    share, layers = study.stream, list(study.stream.coords["layer"])
    at = {name: share.select(pos=name).values for name in POSITIONS}
    leaves = next((layer for layer, x in zip(layers, at["S2"].tolist(), strict=True) if x < HALF), None)
    arrives = next((layer for layer, x in zip(layers, at["END"].tolist(), strict=True) if x >= HALF), None)
    elsewhere = max(float(at[name].abs().max()) for name in ("IO", "S1", "S1+1"))
    fields = {"under half at S2 from layer": leaves, "half or more at END from layer": arrives}
    fields |= {"IO, S1, S1+1, largest": elsewhere}
    return _card(
        "Patching: who is named twice is at S2 early and at END late", fields,
        leaves is not None and arrives is not None and float(at["S2"][0]) >= HALF and elsewhere < HALF,
        "held if S2 brings half of the gap back at first, END at last, and no other position does; not the paper's own figure",
    )  # fmt: skip


def _few(study: Study) -> Card:
    effects = study.paths["logits"]
    half = effects.concentration(0.5)
    n = half.of
    fields = {
        "heads": n,
        "hold half of all |effect|": half.cells,
        "strongest for it": words(strongest(effects_of(study, "logits"), 4)),
    }
    written = study.classes[MOVERS] + study.classes[SUPPRESSORS]
    return _card(
        "Few heads write the answer: paths to the logits", fields | _sent(study, "logits", written), half.cells <= FEW * n,
        f"held if {FEW:.0%} of the heads that were senders, or fewer, hold half",
    )  # fmt: skip


def _look_at_io(study: Study) -> Card:
    top = strongest(effects_of(study, "logits"), 4)
    n = most_at(study, top, "END", ("IO",))
    fields = {
        "strongest": words(top), "of them, look most at IO": n, "END to IO": looked(study, top, ("END", "IO")),
        "END to S1 and S2": looked(study, top, ("END", "S1")) + looked(study, top, ("END", "S2")),
        "other heads of these layers, END to IO": looked(study, others(study, top), ("END", "IO")), "GPT-2 small": "0.59",
    }  # fmt: skip
    return _card(
        "The heads that write the answer are name movers: they look from END at IO", fields, bool(top) and 2 * n > len(top),
        "held if more than half of the four that matter most look at IO, by a tenth of their attention and more than at S",
    )  # fmt: skip


def _goes_along(study: Study) -> Card:
    movers = study.classes[MOVERS]
    r, control = (torch.tensor(correlations(study, heads)) for heads in (movers, others(study, movers)))
    fields: dict[str, Any] = {"name movers": words(movers), "r": ", ".join(f"{x:.2f}" for x in r.tolist()) or "-"}
    fields |= {
        "other heads of these layers, median |r|": float(control.abs().nanmedian()) if len(control) else float("nan")
    }
    return _card(
        "The more a name mover looks at IO, the more it writes for it", fields | {"GPT-2 small": "r over 0.81"},
        bool(len(r)) and float(r.median()) >= TOGETHER,
        f"held if attention and direct effect correlate at {TOGETHER} or more over prompts, at the median",
    )  # fmt: skip


def _copied(study: Study, heads: Sequence[Head], which: int) -> dict[str, Any]:
    chance = [one[which] for one in study.copying_chance.values()]
    own = ", ".join(f"{a}.{h}: {study.copying[a, h][which]:.0%}" for a, h in heads) or "none"
    return {"heads": own, "random heads of these layers, mean": sum(chance) / max(1, len(chance))}


def _copy(study: Study) -> Card:
    movers = study.classes[MOVERS]
    held = bool(movers) and all(study.copying[head][0] >= COPY for head in movers)
    fields = _copied(study, movers, 0) | {"GPT-2 small": "over 95%; all heads under 20%"}
    return _card(
        "Name movers copy: their OV circuit puts the name among the five likeliest tokens", fields, held,
        f"held if every name mover does for {COPY:.0%} of names or more",
    )  # fmt: skip


def _against(study: Study) -> Card:
    heads = study.classes[NEGATIVE]
    fields = _copied(study, heads, 1) | {
        "END to IO": looked(study, heads, ("END", "IO")), "mean effect, logits": effect(study, study.paths, "logits", heads),
        "GPT-2 small": "10.7 and 11.10, 98%",
    }  # fmt: skip
    return _card(
        "Negative name movers look at IO and write against it", fields,
        bool(heads) and all(study.copying[head][1] >= COPY for head in heads),
        f"held if there are some, and each puts {COPY:.0%} of names or more among the five least likely tokens",
    )  # fmt: skip


def _queries(study: Study) -> Card:
    heads = study.classes[INHIBITION]
    n = most_at(study, heads, "END", ("S2",))
    fields = {"heads": words(heads), "of them, look most at S2": n, "END to S2": looked(study, heads, ("END", "S2"))}
    fields |= {"other heads of these layers, END to S2": looked(study, others(study, heads), ("END", "S2"))}
    fields |= _sent(study, "queries", heads) | {"GPT-2 small": "7.3, 7.9, 8.6, 8.10: 0.51"}
    return _card(
        "S-inhibition heads look at S2 and act through the writers' queries", fields,
        bool(heads) and 2 * n > len(heads) and stronger(study, "queries", heads),
        f"held if more than half look at S2, with {TIMES:g} times the effect through random receivers and of the layers' other "
        "heads",
    )  # fmt: skip


def _redirect(study: Study) -> Card:
    if INHIBITION not in study.knocked:
        return _card(
            "S-inhibition heads turn the name movers from S to IO", {"heads found": 0}, False, "none was found"
        )
    knock, before = study.knocked[INHIBITION], float(study.before.gap.mean())
    chance = knock.chance_gap.mean(1)
    fields: dict[str, Any] = {"END to IO less END to S1": before, "without them": float(knock.gap.mean())}
    fields |= {
        "without random heads of these layers, mean": float(chance.mean()),
        "p": _p(-knock.gap, -knock.chance_gap),
    }
    return _card(
        "S-inhibition heads turn the name movers from S to IO", fields, _judged(knock, -knock.gap, -knock.chance_gap),
        f"held if the attention falls without them further than without {1 - LEVEL:.0%} of the random heads drawn",
    )  # fmt: skip


def _distinct(chance: Tensor) -> Tensor:
    """The means of draws over prompts, each once: a layer with few other heads is drawn from again and again."""
    return torch.unique(chance.mean(1))


def _p(own: Tensor, chance: Tensor) -> str:
    """How often distinct draws of random heads do at least as much, and of how many."""
    several = _distinct(chance)
    return f"{by_rank(float(own.mean()), several):.2g} of {len(several)} distinct draws"


def _judged(knock: Knock, own: Tensor, chance: Tensor) -> bool | None:
    """Whether at most 5 % of the distinct draws do as much; None of too few draws."""
    as_much = (_distinct(chance) >= own.mean()).double().mean()
    return None if len(knock.chance) < ENOUGH else float(as_much) <= LEVEL


def _values(study: Study) -> Card:
    told = study.classes[DUPLICATE] + study.classes[INDUCTION]
    effects = -effects_of(study, "values").clamp(max=0)
    share = float(sum(effects[h] for h in told) / effects.sum()) if told else 0.0
    fields = {
        DUPLICATE: words(study.classes[DUPLICATE]), "S2 to S1": looked(study, study.classes[DUPLICATE], ("S2", "S1")),
        INDUCTION: words(study.classes[INDUCTION]), "S2 to S1+1": looked(study, study.classes[INDUCTION], ("S2", "S1+1")),
        "of all effect against": share,
    } | _sent(study, "values", told)  # fmt: skip
    both = bool(study.classes[DUPLICATE] and study.classes[INDUCTION])
    return _card(
        "Duplicate token heads and induction heads tell the S-inhibition heads", fields | {"GPT-2 small": "0.1, 3.0; 5.5, 6.9"},
        both and stronger(study, "values", told),
        f"held if there are both, with {TIMES:g} times the effect through random receivers and of the layers' other heads",
    )  # fmt: skip


def _through_values(study: Study) -> Card:
    told = study.classes[DUPLICATE] + study.classes[INDUCTION]
    values = effect(study, study.paths, "values", told)
    keys = effect(study, {} if study.by_keys is None else {"keys": study.by_keys}, "keys", told)
    return _card(
        "... through their values rather than their keys", {"by values, logits": values, "by keys": keys},
        abs(values) > abs(keys), "held if the mean effect is larger through the values",
    )  # fmt: skip


def _keys(study: Study) -> Card:
    heads = study.classes[PREVIOUS]
    n = most_at(study, heads, "S1+1", ("S1",))
    fields = {"heads": words(heads), "of them, look most at S1": n, "S1+1 to S1": looked(study, heads, ("S1+1", "S1"))}
    fields |= {"other heads of these layers, S1+1 to S1": looked(study, others(study, heads), ("S1+1", "S1"))}
    fields |= _sent(study, "keys", heads) | {"GPT-2 small": "2.2, 4.11"}
    return _card(
        "Previous token heads give the induction heads their keys", fields,
        bool(heads) and 2 * n > len(heads) and stronger(study, "keys", heads),
        f"held if more than half look from S1+1 at S1, with {TIMES:g} times the effect through random receivers and of the "
        "layers' other heads",
    )  # fmt: skip


def _position(study: Study) -> Card:
    heads = study.classes[INHIBITION]
    own, other = (effect(study, of, "queries", heads) for of in (study.paths, study.shuffled))
    share = other / own if own else float("nan")
    return _card(
        "What the S-inhibition heads send is where S is more than who S is",
        {"partner with three names": own, "partner shuffled: the same order, other names": other, "as a share": share},
        own < 0 and abs(share) < HALF,
        f"held if a prompt of the same order and template with other names takes less than {HALF:.0%} of the effect away",
    )  # fmt: skip


def _out(study: Study, name: str) -> Card:
    claim = f"Without the {name} the answer is {'more' if name == NEGATIVE else 'less'} certain"
    if name not in study.knocked:
        return _card(claim, {"heads found": 0}, None if name == SUPPRESSORS else False, "none was found")
    knock, before = study.knocked[name], study.before.after
    sign = 1 if name == NEGATIVE else -1
    fields = {
        "heads": words(study.classes[name]), "at": AT[name], "logit difference": mean_of(before),
        "without them": mean_of(knock.after), "without random heads of these layers, mean": float(knock.chance.mean()),
        "p": _p(sign * knock.after, sign * knock.chance),
    }  # fmt: skip
    return _card(
        claim, fields, _judged(knock, sign * knock.after, sign * knock.chance),
        f"held if it changes further than without {1 - LEVEL:.0%} of as many random heads of the same layers"
        + ("; no class of the paper's" if name == SUPPRESSORS else ""),
    )  # fmt: skip


def _compensated(study: Study) -> Card:
    if MOVERS not in study.knocked:
        return _card("Without the name movers most of the answer stays", {"heads found": 0}, False, "none was found")
    repair, left = study.repair, kept(study, study.knocked[MOVERS])
    direct, total = repair.parts.values[:2].tolist()
    chance = [float(one.parts.values[1]) for one in study.repair_chance]
    fields = {
        "left": f"{left:.0%}", "direct effect lost, logits": direct, "lost in all": total, "made up for": repair.repaired,
        "gained by later heads": float(repair.parts.values[2]), "by later MLPs": float(repair.parts.values[3]),
        "random heads of these layers: lost in all, mean": sum(chance) / max(1, len(chance)), "GPT-2 small": "95% left",
    }  # fmt: skip
    return _card(
        "Without the name movers most of the answer stays: it is made up for", fields,
        left >= SURVIVES and direct > 0 and repair.repaired >= HALF,
        f"held if {SURVIVES:.0%} or more is left and half or more of their direct effect is made up for",
    )  # fmt: skip


def _backups(study: Study) -> Card:
    heads = gainers(study)
    n = most_at(study, heads, "END", ("IO",))
    fields = {"gain most": words(heads), "of them, look most at IO": n, "END to IO": looked(study, heads, ("END", "IO")),
              "gain, logits": ", ".join(f"{float(study.repair.heads.values[h]):+.2f}" for h in heads),
              "of them, negative name movers": sum(h in study.classes[NEGATIVE] for h in heads),
              "all later heads together": float(study.repair.parts.values[2])}  # fmt: skip
    best = [float(one.heads.values.max()) for one in study.repair_chance]
    fields |= {"random heads out: largest gain, mean": sum(best) / max(1, len(best)), "GPT-2 small": "eight backups"}
    return _card(
        "Backup name movers take over: what gains looks at IO", fields,
        bool(heads) and 2 * n > len(heads) and float(study.repair.parts.values[2]) > 0,
        f"held if later heads gain, and more than half of the four that gain most look from END at IO ({SEES:.0%} or more)",
    )  # fmt: skip


def _alone(study: Study) -> Card:
    knock, share = study.knocked[ALONE], kept(study, study.knocked[ALONE])
    chance = knock.chance.mean(1) / study.before.after.mean()
    fields = {
        "heads of 7 classes": sum(map(len, study.classes.values())), "left": f"{share:.0%}",
        "no head at all": kept(study, study.knocked[NOTHING]),
        "random circuits of the same layers, mean": float(chance.mean()) if len(chance) else float("nan"),
        "the best of them": float(chance.max()) if len(chance) else float("nan"), "GPT-2 small": "87%, 26 heads",
    }  # fmt: skip
    better = not len(chance) or share > float(chance.max())
    return _card(
        "The circuit alone does the task", fields, share >= FAITHFUL and better,
        f"held if {FAITHFUL:.0%} or more of the logit difference is left, more than with any random circuit",
    )  # fmt: skip


def _whole(study: Study) -> Card:
    knock, share = study.knocked[CIRCUIT], kept(study, study.knocked[CIRCUIT])
    chance = knock.chance.mean(1) / study.before.after.mean()
    fields = {
        "left": f"{share:.0%}",
        "without random heads of the same layers, mean": float(chance.mean()) if len(chance) else float("nan"),
    }
    return _card(
        "Without the whole circuit the model cannot do it",
        fields,
        share < LEFT,
        f"held if less than {LEFT:.0%} is left",
    )
