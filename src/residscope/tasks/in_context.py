"""In-context learning: things of two kinds, each kind with a label that only the prompt gives it; the last one's is to come.

Brown et al., 2020 (arXiv:2005.14165); labels that mean nothing, as in Wei et al., 2023, Larger language models do in-context
learning differently (arXiv:2303.03846).
"""

import random

from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.errors import BadPrompt
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.tasks.drafts import Draft, Lists, drawn_prompts, two_or_more
from residscope.tasks.spans import words

KINDS = {
    "animal": words("dog cat horse cow sheep lion wolf bear mouse rabbit tiger monkey pig goat fox"),
    "city": words("Paris London Berlin Rome Madrid Vienna Moscow Tokyo Chicago Boston Dublin Athens Cairo"),
    "number": words("one two three four five six seven eight nine ten eleven twelve twenty thirty"),
    "colour": words("red blue green yellow purple black white pink orange brown gray"),
}
LABELS = words("foo bar left right yes no zero apple table river stone music paper glass iron window")


@task("in-context", title="Labels in context", label="answer is", position="QUERY")
def in_context(
    model: Model, n: int = 200, *, seed: int = 0, shots: int = 8, progress: Progress = None, cancel: Cancel = None
) -> PromptSet:
    """n lists of `shots` things, half of each of two kinds, a label to each kind ("dog: river"), and one thing more.

    Which kinds and labels is drawn anew for each prompt, so that nothing but the prompt tells the answer. Answers: (the kind's
    label, the other). In the partner the last thing is of the other kind, so that the other label is right. Labels: `answer is`
    (first or second: whether the label that comes first in the prompt is right; half each), `kinds`, `query`. Positions: LABEL
    (of the last example), QUERY, END (the colon).

    Raises:
        BadPrompt: shots out of range or odd. TooFewPrompts: fewer than two, or none that holds on this tokenizer. TooFewWords.
        NoTokenizer. Cancelled.
    """
    two_or_more(n, "in-context prompts")
    most = 2 * (min(map(len, KINDS.values())) - 1)
    if not 2 <= shots <= most or shots % 2:
        raise BadPrompt(
            "half of the examples are of each kind", received=f"shots={shots}", allowed=f"an even number, 2 to {most}"
        )
    lists = Lists(model)
    labels = lists.take(LABELS, least=2, what="labels")
    drawn = random.Random(seed)

    def draw(i: int) -> Draft:
        kinds = drawn.sample([*KINDS], 2)
        label = dict(zip(kinds, drawn.sample(labels, 2), strict=True))
        some = {kind: drawn.sample(KINDS[kind], shots // 2 + 1) for kind in kinds}
        order = kinds * (shots // 2)
        drawn.shuffle(order)
        first = order[0]
        right = first if i % 2 == 0 else next(kind for kind in kinds if kind != first)
        other = next(kind for kind in kinds if kind != right)
        queries = {kind: some[kind].pop() for kind in kinds}
        shown = "".join(f"{some[kind].pop()}: {label[kind]}\n" for kind in order)
        text, partner = (f"{shown}{queries[kind]}:" for kind in (right, other))
        told = {"answer is": ("first", "second")[i % 2], "kinds": " or ".join(sorted(kinds)), "query": queries[right]}
        marks = {"LABEL": len(shown) - 1, "QUERY": len(text) - 1}
        return Draft(text, partner, (f" {label[right]}", f" {label[other]}"), told, marks)

    return drawn_prompts(
        model,
        n,
        draw,
        name=f"in-context prompts of {shots} examples",
        left_out=lists.left_out,
        progress=progress,
        cancel=cancel,
    )
