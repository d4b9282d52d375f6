"""Greater-than: "The war lasted from the year 1743 to the year 17" -> a number above 43.

Hanna et al., 2023, How does GPT-2 compute greater-than? (arXiv:2305.00586).
"""

import random

from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.tasks.drafts import Draft, drawn_prompts, fill, two_or_more
from residscope.tasks.spans import words

TEMPLATES = (
    "The {noun} lasted from the year {start} to the year {century}",
    "The {noun} went on from the year {start} until the year {century}",
    "The {noun} began in {start} and it ended in {century}",
)
NOUNS = words(
    """
    war work trade journey search campaign mission project struggle experiment conflict dispute rule siege voyage
    """
)
CENTURIES = range(11, 20)


@task("greater-than", title="Greater than", label="size", position="YEAR")
def greater_than(
    model: Model, n: int = 200, *, seed: int = 0, progress: Progress = None, cancel: Cancel = None
) -> PromptSet:
    """n spans of years, the second cut after its century; what may follow is above the first year's last two digits.

    A token of two digits is the answer where the tokenizer has those, else one digit, and then only the tens count. Of the
    years that may and may not follow one each is the answer: (right, wrong) = (above, below). The partner has the same century
    and another start, below both answers, so that either may follow: its difference tends to zero or turns, and need not flip.
    Labels: `size` (low or high, the start's last two digits under 50 or not; half each), `start`, `digits`, `noun`, `template`.
    Positions: NOUN, YEAR (the start's last token), END.

    Raises:
        TooFewPrompts: fewer than two, or no years that this tokenizer has so. NoTokenizer. Cancelled.
    """
    two_or_more(n, "greater-than prompts")
    drawn, two = random.Random(seed), _has_pairs(model)

    def draw(i: int) -> Draft:
        tens = drawn.randint(2, 4) if i % 2 == 0 else drawn.randint(5, 8)
        units, century = drawn.randint(1, 9), drawn.choice(CENTURIES)
        above, below = drawn.randint(tens + 1, 9), drawn.randint(1, tens - 1)
        lower = drawn.randint(0, below - 1)
        right, wrong = (f"{ten}{drawn.randint(0, 9)}" if two else f"{ten}" for ten in (above, below))
        template, noun = drawn.choice(TEMPLATES), drawn.choice(NOUNS)
        slots = {"noun": noun, "century": f"{century}", "start": f"{century}{tens}{units}"}
        text, ends = fill(template, slots)
        partner, _ = fill(template, {**slots, "start": f"{century}{lower}{units}"})
        labels = {
            "size": ("low", "high")[i % 2], "start": f"{century}{tens}{units}", "digits": 2 if two else 1, "noun": noun,
            "template": TEMPLATES.index(template),
        }  # fmt: skip
        return Draft(text, partner, (right, wrong), labels, {"NOUN": ends["noun"], "YEAR": ends["start"]})

    return drawn_prompts(model, n, draw, name="greater-than prompts", progress=progress, cancel=cancel)


def _has_pairs(model: Model) -> bool:
    """Whether a year is its century and two digits, a token each."""
    return all(len(model.encode(f"{year}", bos=False)) == 2 for year in ("1743", "1820", "1165"))
