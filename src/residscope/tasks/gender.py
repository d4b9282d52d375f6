"""Gendered pronouns: "So Evan is a really great friend, isn't" -> " he".

Mathwin et al., 2023, Identifying a Preliminary Circuit for Predicting Gendered Pronouns in GPT-2 Small.
"""

import random

from residscope.corpus.text import Source
from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.errors import TooFewPrompts
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, stage
from residscope.tasks.drafts import Lists
from residscope.tasks.prefixes import prefixes as sentences
from residscope.tasks.spans import filled, locate, words

TEMPLATE = "So {name} is such a good {noun}, isn't"
HE = words(
    """
    Adam Andrew Anthony Arthur Brian Charles Daniel David Edward Eric Frank George Henry Ian Jack Jacob James Jason
    John Joseph Joshua Kevin Leon Louis Luke Mark Martin Matthew Michael Patrick Paul Peter Richard Robert Scott Simon
    Stephen Steven Thomas William
    """
)
SHE = words(
    """
    Alice Amy Anna Barbara Catherine Charlotte Diana Elizabeth Emily Emma Eva Helen Jane Jennifer Jessica Julia Kate
    Karen Laura Linda Lisa Margaret Maria Mary Michelle Nancy Nicole Rachel Rebecca Rose Ruth Sandra Sarah Sophia Susan
    Victoria
    """
)
NOUNS = words(
    """
    friend doctor teacher student writer cook singer driver lawyer artist player nurse neighbor dancer
    """
)


def find_positions(model: Model, text: str) -> dict[str, int] | None:
    """Where NAME, IS and END stand in a text of the template, whatever name and noun are in it; else None. Raises NoTokenizer."""
    found = filled(TEMPLATE, text)
    if found is None:
        return None
    located = locate(model, text)
    at = located.last(found["name"][1])
    return None if at is None else {"NAME": at, "IS": at + 1, "END": len(located.ids) - 1}


@task("gender", title="Pronouns", label="gender", position="NAME", find=find_positions)
def gender(
    model: Model,
    n: int = 200,
    *,
    seed: int = 0,
    prefixes: bool = False,
    text: Source | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> PromptSet:
    """n prompts, half with a name that is usually a man's and half with one that is usually a woman's.

    Labels: `gender` (he or she), `name`, `noun`. Positions: NAME, IS (the token after it), END. Answers: the pronoun of the
    label, then the other. The corrupted partner has a name of the other list and nothing else changed.

    Raises:
        TooFewPrompts: fewer than two. TooFewWords: the tokenizer splits the names, or the text has no usable sentence.
        Cancelled: `cancel` said so.
    """
    if n < 2:
        raise TooFewPrompts("the pronouns need both genders", received=f"n={n}", allowed="2 or more")
    known = Lists(model)
    lists = [known.take(names, least=2, what=f"names ({which})") for names, which in ((HE, "he"), (SHE, "she"))]
    nouns = known.take(NOUNS, least=1, what="nouns")
    drawn = random.Random(seed)
    before = [""] * n
    if prefixes:
        source = text or "python-docs"
        before = sentences(model, source, n, drawn=drawn, names=HE + SHE, progress=progress, cancel=cancel)
    rows = []
    with stage("Writing prompts", n, progress, cancel) as tell:
        for i, sentence in enumerate(before):
            name, other, noun = drawn.choice(lists[i % 2]), drawn.choice(lists[1 - i % 2]), drawn.choice(nouns)
            start = f"{sentence} " if sentence else ""
            shown = start + TEMPLATE.format(name=name, noun=noun)
            located = locate(model, shown)
            at = located.last(len(start) + len("So ") + len(name))
            assert at is not None
            assert model.token_texts([located.ids[at]])[0].strip() == name, shown
            partner = locate(model, start + TEMPLATE.format(name=other, noun=noun)).ids
            positions = (at, at + 1, len(located.ids) - 1)
            pronouns = ("he", "she") if i % 2 == 0 else ("she", "he")
            rows.append((located.ids, partner, shown, pronouns, (pronouns[0], name, noun), positions))
            tell(i + 1)
    prompts, corrupted, shown_texts, answers, labels, placed = zip(*rows, strict=True)
    return PromptSet(
        prompts=prompts,
        corrupted=corrupted,
        texts=shown_texts,
        answers=tuple((f" {right}", f" {wrong}") for right, wrong in answers),
        labels=dict(zip(("gender", "name", "noun"), zip(*labels, strict=True), strict=True)),
        positions=dict(zip(("NAME", "IS", "END"), zip(*placed, strict=True), strict=True)),
        name="pronoun prompts" + (" with prefixes" if prefixes else ""),
        left_out=known.left_out,
    )
