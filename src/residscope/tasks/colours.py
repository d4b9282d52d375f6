"""Coloured objects: "On the table there is a red pen, a blue cup and a green book. The colour of the cup is" -> " blue".

BIG-bench, 2022, Reasoning about colored objects (arXiv:2206.04615); Merullo et al., 2024, Circuit component reuse across tasks in
transformer language models (arXiv:2310.08744).
"""

import random

from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.tasks.drafts import Draft, Lists, drawn_prompts, fill, two_or_more
from residscope.tasks.spans import words

TEMPLATES = (
    "On the table there is a {c0} {o0}, a {c1} {o1} and a {c2} {o2}. The color of the {query} is",
    "I have a {c0} {o0}, a {c1} {o1} and a {c2} {o2}. Question: what color is the {query}? Answer:",
    "Anna bought a {c0} {o0}, a {c1} {o1} and a {c2} {o2}. The {query} that she bought is",
)
COLOURS = words("red blue green yellow purple black white pink brown gray silver gold")
OBJECTS = words("pen cup book bag hat ring ball box chair bottle shirt key phone clock lamp plate pencil knife")
ASKED = ("first", "second", "third")


@task("colours", title="Coloured objects", label="asked", position="QUERY")
def colours(
    model: Model, n: int = 200, *, seed: int = 0, progress: Progress = None, cancel: Cancel = None
) -> PromptSet:
    """n lists of three things of three colours, of which one is asked for: each of the three places in turn.

    Answers: (its colour, another thing's). The partner asks for that other thing, so that the wrong colour is right. Labels:
    `asked` (first, second or third), `object`, `colour`, `template`. Positions: COLOUR, OBJECT (where they stand in the list),
    QUERY (the thing asked for), END.

    Raises:
        TooFewPrompts: fewer than two, or none that holds on this tokenizer. TooFewWords. NoTokenizer. Cancelled.
    """
    two_or_more(n, "coloured objects")
    lists = Lists(model)
    hues = lists.take(COLOURS, least=3, what="colours")
    objects = lists.take(OBJECTS, least=3, what="objects")
    drawn = random.Random(seed)

    def draw(i: int) -> Draft:
        hue, thing = drawn.sample(hues, 3), drawn.sample(objects, 3)
        asked = i % 3
        other = drawn.choice([k for k in range(3) if k != asked])
        template = drawn.choice(TEMPLATES)
        slots = {f"c{k}": hue[k] for k in range(3)} | {f"o{k}": thing[k] for k in range(3)}
        text, ends = fill(template, slots | {"query": thing[asked]})
        partner, _ = fill(template, slots | {"query": thing[other]})
        labels = {
            "asked": ASKED[asked], "object": thing[asked], "colour": hue[asked], "template": TEMPLATES.index(template)
        }  # fmt: skip
        marks = {"COLOUR": ends[f"c{asked}"], "OBJECT": ends[f"o{asked}"], "QUERY": ends["query"]}
        return Draft(text, partner, (f" {hue[asked]}", f" {hue[other]}"), labels, marks)

    return drawn_prompts(
        model, n, draw, name="coloured objects", left_out=lists.left_out, progress=progress, cancel=cancel
    )
