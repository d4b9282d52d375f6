"""Indirect object identification: "Then, Mary and John went to the store. John gave a drink to" -> " Mary".

Wang et al., 2022, Interpretability in the Wild (arXiv:2211.00593); with prefix sentences as in Intervening in the Residual
Stream (2023).
"""

import random
from collections.abc import Sequence

from residscope.corpus.text import Source
from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.errors import BadPrompt, TooFewPrompts
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, stage
from residscope.tasks.drafts import Lists, fill
from residscope.tasks.prefixes import prefixes as sentences
from residscope.tasks.spans import filled, locate, words

# {A} and {B} are the two names of the first clause in their order, {S} the one who gives
TEMPLATES = (
    "Then, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Then, {A} and {B} had a lot of fun at the {place}. {S} gave a {object} to",
    "Then, {A} and {B} were working at the {place}. {S} decided to give a {object} to",
    "Then, {A} and {B} were thinking about going to the {place}. {S} wanted to give a {object} to",
    "Then, {A} and {B} had a long argument, and afterwards {S} said to",
    "After {A} and {B} went to the {place}, {S} gave a {object} to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give it to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give the {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "While {A} and {B} were commuting to the {place}, {S} gave a {object} to",
    "After the lunch, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Afterwards, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Then, {A} and {B} had a long argument. Afterwards {S} said to",
    "The {place} {A} and {B} went to had a {object}. {S} gave it to",
    "Friends {A} and {B} found a {object} at the {place}. {S} gave it to",
)
NAMES = words(
    """
    Aaron Adam Alan Alex Alice Amy Anderson Andre Andrew Andy Anna Anthony Arthur Austin Blake Brian Carter Charles
    Charlie Christian Christopher Clark Cole Collins Crystal Daniel David Dean Edward Elizabeth Emily Eric Eva Frank
    George Graham Henry Ian Jack Jacob Jake James Jamie Jane Jason Jay Jennifer Jeremy Jessica John Jonathan Jordan
    Joseph Joshua Justin Kate Kelly Kevin Laura Leon Lewis Lisa Louis Luke Marco Marcus Maria Martin Mary Matthew Max
    Michael Michelle Morgan Patrick Paul Peter Rachel Richard Robert Roman Ruby Russell Ryan Sarah Scott Sean Simon
    Stephen Steven Sullivan Taylor Thomas Tyler Victoria Warren William
    """
)
PLACES = words(
    """
    store garden restaurant school hospital office house station park library market museum
    """
)
OBJECTS = words(
    """
    ring book bone basketball computer necklace drink snack letter camera ticket hat
    """
)
PARTNERS = ("S2", "order", "names", "ABC")
POSITIONS = ("IO", "S1", "S1+1", "S2", "END")


def find_positions(model: Model, text: str) -> dict[str, int] | None:
    """Where IO, S1, S1+1, S2 and END stand in a text of one of the templates, whatever names and things are in it; else None.

    Raises NoTokenizer.
    """
    for template in TEMPLATES:
        found = filled(template, text)
        if found is None or found["A"][0] == found["B"][0] or found["S"][0] not in (found["A"][0], found["B"][0]):
            continue
        io, s = ("A", "B") if found["S"][0] == found["B"][0] else ("B", "A")
        located = locate(model, text)
        at = {"IO": located.last(found[io][1]), "S1": located.last(found[s][1]), "S2": located.last(found["S"][1])}
        named = {name: index for name, index in at.items() if index is not None}
        if len(named) == len(at):
            return named | {"S1+1": named["S1"] + 1, "END": len(located.ids) - 1}
    return None


@task(
    "ioi", title="Indirect object identification", label="order", position="S2", find=find_positions, partners=PARTNERS
)
def ioi(
    model: Model,
    n: int = 200,
    *,
    seed: int = 0,
    prefixes: bool = True,
    text: Source | None = None,
    partner: str = "S2",
    progress: Progress = None,
    cancel: Cancel = None,
) -> PromptSet:
    """n prompts, half ABBA (the indirect object named first) and half BABA, with the fifteen templates of the paper.

    Labels: `order` (ABBA or BABA), `IO`, `S`, `template`. Positions: IO, S1, S1+1, S2, END (the last token), each name checked to
    be one token and to decode to itself. Answers: (IO, S).

    partner: how each prompt's corrupted partner differs, always of as many tokens.
    S2: the other name at S2 and nothing else, a minimal pair of the other order, whose right answer is S. order: the first
    clause's names change places, and the answer stays. names: two other names in the same places. ABC: three other names,
    none of which is named twice, so that nothing tells the indirect object (Wang et al.'s p_ABC).

    prefixes: begin each prompt with a sentence of `text` (the built-in documentation unless given), without names.

    Raises:
        TooFewPrompts: fewer than two. BadPrompt: no such partner. Cancelled: `cancel` said so.
        TooFewWords: the tokenizer splits the names, or the text has no usable sentence.
    """
    if n < 2:
        raise TooFewPrompts("IOI needs both orders", received=f"n={n}", allowed="2 or more")
    if partner not in PARTNERS:
        raise BadPrompt("IOI has no such partner", received=repr(partner), allowed=", ".join(PARTNERS))
    lists = Lists(model)
    names = lists.take(NAMES, least=4 if partner in ("S2", "order") else 5, what="names")
    places = lists.take(PLACES, least=1, what="places")
    objects = lists.take(OBJECTS, least=1, what="objects")
    drawn = random.Random(seed)
    before = [""] * n
    if prefixes:
        source = text or "python-docs"
        before = sentences(model, source, n, drawn=drawn, names=NAMES, progress=progress, cancel=cancel)
    rows = []
    with stage("Writing prompts", n, progress, cancel) as tell:
        for i, sentence in enumerate(before):
            io, s = drawn.sample(names, 2)
            first, second = (io, s) if i % 2 == 0 else (s, io)
            template = drawn.randrange(len(TEMPLATES))
            words_of = {"A": first, "B": second, "place": drawn.choice(places), "object": drawn.choice(objects)}
            prompt, found = _placed(model, sentence, template, words_of | {"S": s})
            other, _ = _placed(model, sentence, template, words_of | _partner(partner, first, second, s, names, drawn))
            order = ("ABBA", "BABA")[i % 2]
            s1 = found["B" if order == "ABBA" else "A"]
            at = (found["A" if order == "ABBA" else "B"], s1, s1 + 1, found["S"], len(prompt[1]) - 1)
            rows.append((prompt, other[1], (f" {io}", f" {s}"), (order, io, s, template), at))
            tell(i + 1)
    prompts, corrupted, answers, labels, positions = zip(*rows, strict=True)
    return PromptSet(
        prompts=tuple(ids for _, ids in prompts),
        texts=tuple(shown for shown, _ in prompts),
        corrupted=corrupted,
        answers=answers,
        labels=dict(zip(("order", "IO", "S", "template"), zip(*labels, strict=True), strict=True)),
        positions=dict(zip(POSITIONS, zip(*positions, strict=True), strict=True)),
        name=_name(prefixes, partner),
        left_out=lists.left_out,
    )


def _name(prefixes: bool, partner: str) -> str:
    """What results say of the set: the partners too, where they are not those that change the answer."""
    others = {"order": "names in the other order", "names": "other names", "ABC": "three names"}
    said = "IOI prompts" + (" with prefixes" if prefixes else "")
    return said if partner == "S2" else f"{said}, partners with {others[partner]}"


def _partner(
    partner: str, first: str, second: str, s: str, names: Sequence[str], drawn: random.Random
) -> dict[str, str]:
    """The names of the partner, by slot."""
    if partner == "S2":
        return {"S": second if s == first else first}
    if partner == "order":
        return {"A": second, "B": first, "S": s}
    a, b, c = drawn.sample([name for name in names if name not in (first, second)], 3)
    return {"A": a, "B": b, "S": c if partner == "ABC" else a if s == first else b}


def _placed(
    model: Model, sentence: str, template: int, words_of: dict[str, str]
) -> tuple[tuple[str, tuple[int, ...]], dict[str, int]]:
    """(The text, its token ids), and the token index of A, B and S, each decoding to its name."""
    start = f"{sentence} " if sentence else ""
    behind, ends = fill(TEMPLATES[template], words_of)
    text = start + behind
    located = locate(model, text)
    found = {slot: located.last(len(start) + ends[slot]) for slot in "ABS"}
    for slot, index in found.items():
        assert index is not None
        assert model.token_texts([located.ids[index]])[0].strip() == words_of[slot], (text, slot)
    return (text, located.ids), {slot: index for slot, index in found.items() if index is not None}
