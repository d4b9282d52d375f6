"""Facts, with and without another fact's answer named before: "My brother lives in Rome. The capital of France is" -> " Paris".

Meng et al., 2022, Locating and Editing Factual Associations in GPT (arXiv:2202.05262); distractors after Ortu et al., 2024,
Competition of Mechanisms (arXiv:2402.11655).
"""

import random

from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.tasks.drafts import Draft, Lists, drawn_prompts, fill, two_or_more

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "England": "London", "Austria": "Vienna",
    "Russia": "Moscow", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Greece": "Athens", "Ireland": "Dublin",
    "Portugal": "Lisbon", "Cuba": "Havana", "Iran": "Tehran", "Iraq": "Baghdad", "Sweden": "Stockholm", "Norway": "Oslo",
    "Poland": "Warsaw", "Kenya": "Nairobi", "Peru": "Lima", "Syria": "Damascus", "India": "Delhi", "Turkey": "Ankara",
}  # fmt: skip
LANGUAGES = {
    "France": "French", "Italy": "Italian", "Spain": "Spanish", "Germany": "German", "Russia": "Russian", "Japan": "Japanese",
    "China": "Chinese", "Greece": "Greek", "Portugal": "Portuguese", "Sweden": "Swedish", "Poland": "Polish",
    "Turkey": "Turkish", "Iran": "Persian", "Egypt": "Arabic", "Mexico": "Spanish", "Brazil": "Portuguese",
    "Netherlands": "Dutch", "Denmark": "Danish", "Hungary": "Hungarian", "Finland": "Finnish",
}  # fmt: skip
RELATIONS = {
    "capital": (CAPITALS, ("The capital of {subject} is the city of", "{subject} has a capital, the city of")),
    "language": (LANGUAGES, ("The official language of {subject} is", "The language spoken in {subject} is called")),
}
DISTRACTORS = {
    "capital": ("My brother lives in {other}. ", "She came back from {other} last week. "),
    "language": ("My brother is learning {other}. ", "She speaks {other} very well. "),
}


@task("factual", title="Facts with distractors", label="relation", position="SUBJECT")
def factual(
    model: Model,
    n: int = 200,
    *,
    seed: int = 0,
    distractors: bool = True,
    progress: Progress = None,
    cancel: Cancel = None,
) -> PromptSet:
    """n questions of capitals and languages of countries, half each; half of them after a sentence that names the wrong answer.

    Answers: (the subject's, another country's). The partner has that other country for its subject, so that the wrong answer is
    right. Labels: `relation` (capital, language), `distractor` (named or none; distractors=False leaves them out), `subject`,
    `template`. Positions: SUBJECT, END; with distractors also DISTRACTOR, None where there is none.

    Raises:
        TooFewPrompts: fewer than two, or none that holds on this tokenizer. TooFewWords. NoTokenizer. Cancelled.
    """
    two_or_more(n, "factual prompts")
    lists = Lists(model)
    known = {name: lists.pairs(facts, least=2, what=f"{name}s") for name, (facts, _) in RELATIONS.items()}
    drawn, relations = random.Random(seed), [*RELATIONS]

    def draw(i: int) -> Draft:
        relation, named = relations[i % 2], distractors and i // 2 % 2 == 0
        facts, (_, templates) = known[relation], RELATIONS[relation]
        subject = drawn.choice([*facts])
        other = drawn.choice([one for one in facts if facts[one] != facts[subject]])
        before = fill(drawn.choice(DISTRACTORS[relation]), {"other": facts[other]}) if named else ("", {})
        template = drawn.choice(templates)
        text, ends = fill(template, {"subject": subject})
        partner, _ = fill(template, {"subject": other})
        marks = {"SUBJECT": len(before[0]) + ends["subject"]} | ({"DISTRACTOR": before[1]["other"]} if named else {})
        labels = {
            "relation": relation, "distractor": "named" if named else "none", "subject": subject,
            "template": f"{relation} {templates.index(template)}",
        }  # fmt: skip
        return Draft(before[0] + text, before[0] + partner, (f" {facts[subject]}", f" {facts[other]}"), labels, marks)

    return drawn_prompts(
        model, n, draw, name="factual prompts" + (" with distractors" if distractors else ""), left_out=lists.left_out,
        progress=progress, cancel=cancel,
    )  # fmt: skip
