"""Induction: random tokens written twice, the second time up to one of them, whose follower is the answer.

Olsson et al., 2022, In-context Learning and Induction Heads (arXiv:2209.11895).
"""

import random

from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.errors import TooFewWords
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, stage
from residscope.tasks.drafts import two_or_more

LENGTH = 16  # tokens that are repeated
COMMON = 10_000  # byte-pair vocabularies are learnt commonest first, so low ids are common tokens


@task("induction", title="Induction", label="place", position="END")
def induction(
    model: Model, n: int = 200, *, seed: int = 0, length: int = LENGTH, progress: Progress = None, cancel: Cancel = None
) -> PromptSet:
    """n sequences of random tokens ... A B ... A, after which B is to come; token ids, so that no tokenizer can split them.

    The `length` tokens of the first copy all differ: common words that begin with a space, where the vocabulary has enough of
    them, else any. Labels: `answer` (its id), `place` (early or late: where A stands in the first copy,
    half each). Positions: FIRST (A), NEXT (B), END (A again). Answers: (B, C), C another token of the first copy, which has
    not come again. In the partner B and C change places in the first copy and nothing else changes, so that C is right.

    Raises:
        TooFewPrompts: fewer than two. TooFewWords: the vocabulary has not so many tokens. Cancelled.
    """
    two_or_more(n, "induction prompts")
    pool = _pool(model, length)
    begin = (model.tokenizer.bos_token_id,) if model.bos and model.tokenizer is not None else ()
    drawn, rows = random.Random(seed), []
    with stage("Writing prompts", n, progress, cancel) as tell:
        for i in range(n):
            tokens = drawn.sample(pool, length)
            middle = (length - 3) // 2
            at = drawn.randint(1, middle) if i % 2 == 0 else drawn.randint(middle + 1, length - 3)
            other = drawn.randint(at + 2, length - 1)
            swapped = list(tokens)
            swapped[at + 1], swapped[other] = tokens[other], tokens[at + 1]
            again = tokens[: at + 1]
            own, partner = (*begin, *tokens, *again), (*begin, *swapped, *again)
            first = len(begin) + at
            labels = (tokens[at + 1], ("early", "late")[i % 2])
            rows.append((own, partner, (tokens[at + 1], tokens[other]), labels, (first, first + 1, len(own) - 1)))
            tell(i + 1)
    prompts, corrupted, answers, labelled, placed = zip(*rows, strict=True)
    return PromptSet(
        prompts=prompts,
        corrupted=corrupted,
        texts=None if model.tokenizer is None else tuple(model.text(ids) for ids in prompts),
        answers=answers,
        labels=dict(zip(("answer", "place"), zip(*labelled, strict=True), strict=True)),
        positions=dict(zip(("FIRST", "NEXT", "END"), zip(*placed, strict=True), strict=True)),
        name="repeated random tokens with answers",
    )


def _pool(model: Model, length: int) -> list[int]:
    """The tokens to draw from. Raises TooFewWords."""
    ids = list(range(model.d_vocab))
    if model.tokenizer is not None:
        ids = [i for i, kind in zip(ids, model.token_kinds(ids), strict=True) if kind == "text"]
        texts = model.token_texts(ids[:COMMON])
        common = [i for i, text in zip(ids, texts, strict=False) if text[:1] == " " and text[1:].isalpha()]
        ids = common if len(common) >= 4 * length else ids
    if len(ids) < length or length < 5:
        raise TooFewWords(
            "no sequence of that length", received=f"length={length}", allowed=f"5 to {len(ids)}, the tokens there are"
        )
    return ids
