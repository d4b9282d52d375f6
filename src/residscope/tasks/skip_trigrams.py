"""Skip trigrams: a word further back and the word at the end settle the next: "neither ... tea" -> " nor".

Elhage et al., 2021, A Mathematical Framework for Transformer Circuits.
"""

import random

from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.tasks.drafts import Draft, Lists, drawn_prompts, fill, two_or_more
from residscope.tasks.spans import words

FOLLOWERS = {
    "neither": "nor",
    "either": "or",
    "both": "and",
    "more": "than",
    "as": "as",
    "between": "and",
    "from": "to",
}
TEMPLATES = {
    "choice": ("She wanted {first} {gap}{noun}", "They had {first} {gap}{noun}", "He asked for {first} {gap}{noun}"),
    "degree": (
        "The second book was {first} {adjective}",
        "This house is {first} {adjective}",
        "He was {first} {adjective}",
    ),
    "span": ("It was open {first} {day}", "They stayed there {first} {day}", "The shop is closed {first} {day}"),
}
RIVALS = (
    ("choice", "neither", "both"), ("choice", "either", "both"), ("choice", "neither", "either"), ("degree", "more", "as"),
    ("span", "between", "from"),
)  # fmt: skip
NOUNS = words("tea milk bread water wine sugar salt rice fish meat fruit coffee soup cheese")
ADJECTIVES = words("interesting important expensive beautiful dangerous popular difficult useful famous comfortable")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday January March April June July")
GAPS = ("", "the ", "the fresh ", "some of the ")


@task("skip-trigrams", title="Skip trigrams", label="template", position="FIRST")
def skip_trigrams(
    model: Model, n: int = 200, *, seed: int = 0, progress: Progress = None, cancel: Cancel = None
) -> PromptSet:
    """n phrases that a word has opened and another is to go on with: neither ... nor, more ... than, between ... and.

    Answers: (the follower of the opening word, that of its rival, which may stand in the same place). In the partner the rival
    stands there and nothing else changes, so that its follower is right. Labels: `first` (the opening word), `gap` (how many
    tokens lie between it and the end), `template`. Positions: FIRST, END.

    Raises:
        TooFewPrompts: fewer than two, or none that holds on this tokenizer. TooFewWords. NoTokenizer. Cancelled.
    """
    two_or_more(n, "skip trigrams")
    lists = Lists(model)
    lists.pairs(FOLLOWERS, least=len(FOLLOWERS), what="opening words")
    between = {
        "noun": lists.take(NOUNS, least=1, what="nouns"),
        "adjective": lists.take(ADJECTIVES, least=1, what="adjectives"),
        "day": lists.take(DAYS, least=1, what="days and months"),
    }
    drawn = random.Random(seed)

    def draw(i: int) -> Draft:
        kind, *pair = RIVALS[i // 2 % len(RIVALS)]
        first, rival = pair if i % 2 == 0 else pair[::-1]
        template = drawn.choice(TEMPLATES[kind])
        slots = {name: drawn.choice(some) for name, some in between.items()} | {"gap": drawn.choice(GAPS)}
        text, ends = fill(template, slots | {"first": first})
        partner, _ = fill(template, slots | {"first": rival})
        behind = text[ends["first"] :]
        labels = {
            "first": first,
            "gap": len(behind.split()) - 1,
            "template": f"{kind} {TEMPLATES[kind].index(template)}",
        }
        return Draft(text, partner, (f" {FOLLOWERS[first]}", f" {FOLLOWERS[rival]}"), labels, {"FIRST": ends["first"]})

    return drawn_prompts(
        model, n, draw, name="skip trigrams", left_out=lists.left_out, progress=progress, cancel=cancel
    )
