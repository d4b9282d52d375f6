"""Docstring: a Python function whose docstring names the arguments one by one; the next one's name is the answer.

Heimersheim and Janiak, 2023, A circuit for Python docstrings in a 4-layer attention-only transformer.
"""

import random

from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.tasks.drafts import Draft, Lists, drawn_prompts, fill, two_or_more
from residscope.tasks.spans import words

TEMPLATES = {
    "sphinx": '''def {f}(self, {A}, {B}, {C}, {D}):
    """{w1} {w2}

    :param {A_doc}: {w3} {w4}
    :param {B_doc}: {w5} {w6}
    :param''',
    "epytext": '''def {f}({A}, {B}, {C}, {D}):
    """{w1} {w2} {w3}

    @param {A_doc}: {w4}
    @param {B_doc}: {w5} {w6}
    @param''',
}
ARGUMENTS = words(
    """
    load size files last name path mode state value index count key start end text line word data user group color width
    height depth source target option parent child order level time date file image model
    """
)
FUNCTIONS = words("port add move read write find make send check build open close run test call create")
FILLERS = words(
    """
    oil column piece crime population unit dark water field party service office street music paper summer winter garden
    building history village market church school river house bridge station forest island
    """
)


@task("docstring", title="Docstring", label="template", position="C")
def docstring(
    model: Model, n: int = 200, *, seed: int = 0, progress: Progress = None, cancel: Cancel = None
) -> PromptSet:
    """n functions of four named arguments, whose docstring has come to the third.

    Answers: (third, fourth). In the partner the third and the fourth change places where the function is declared, so that the
    fourth is right. Labels: `template` (sphinx or epytext, half each), `C`, `D`. Positions: A, B, C, D (the arguments
    declared), A_doc, B_doc (in the docstring), END.

    Raises:
        TooFewPrompts: fewer than two, or none that holds on this tokenizer. TooFewWords. NoTokenizer. Cancelled.
    """
    two_or_more(n, "docstring prompts")
    lists = Lists(model)
    names = lists.take(ARGUMENTS, least=6, what="arguments")
    fillers = lists.take(FILLERS, least=6, what="words")
    drawn, kinds = random.Random(seed), [*TEMPLATES]

    def draw(i: int) -> Draft:
        a, b, c, d = drawn.sample(names, 4)
        kind = kinds[i % len(kinds)]
        slots = {f"w{k + 1}": word for k, word in enumerate(drawn.sample(fillers, 6))}
        slots |= {"f": drawn.choice(FUNCTIONS), "A": a, "B": b, "C": c, "D": d, "A_doc": a, "B_doc": b}
        text, ends = fill(TEMPLATES[kind], slots)
        partner, _ = fill(TEMPLATES[kind], slots | {"C": d, "D": c})
        marks = {name: ends[name] for name in ("A", "B", "C", "D", "A_doc", "B_doc")}
        return Draft(text, partner, (f" {c}", f" {d}"), {"template": kind, "C": c, "D": d}, marks)

    return drawn_prompts(
        model, n, draw, name="docstring prompts", left_out=lists.left_out, progress=progress, cancel=cancel
    )
