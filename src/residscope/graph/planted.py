"""`rs.planted()`: the transformer written by hand, with the dictionaries of its own directions and the path that is in it."""

import random
from dataclasses import dataclass

from residscope.directions import EncoderDictionary
from residscope.engine.loading import load
from residscope.engine.model import Model
from residscope.errors import BadArguments
from residscope.model.planted import CAPITALS, FILLERS, NAME
from residscope.sae.planted import FEATURES, planted_dictionaries


@dataclass(frozen=True, eq=False)
class Planted:
    """A model whose one path is known: a positive control for whatever looks for paths.

    dictionaries: of what each block adds to the stream, at `resid_post.0` to `.2`; their directions are the model's own.
    prompt, token: what it is asked, and what it answers by the path alone. path: the ids of the path's nodes in a causal graph.
    contexts: other sentences that ask for the same answer. texts: sentences that do not, made of its words.

        known = rs.planted()
        graph = rs.causal_graph(known.model, known.prompt, known.dictionaries)
    """

    model: Model
    dictionaries: tuple[EncoderDictionary, ...]
    prompt: str
    token: str
    path: tuple[str, ...]
    contexts: tuple[str, ...]
    texts: tuple[str, ...]


def planted(country: str = "France", *, texts: int = 400, seed: int = 0) -> Planted:
    """The planted transformer, and its path for one of its four countries. texts: so many sentences without it, drawn by `seed`.

    What is planted, weight by weight, is told in `residscope.model.planted`; `rs.load("planted")` is the model alone. Raises
    BadArguments: it knows no such country.
    """
    if country not in CAPITALS:
        raise BadArguments("no such country is planted", received=repr(country), allowed=", ".join(CAPITALS))
    capital = CAPITALS[country]
    model = load(NAME)
    made = tuple(planted_dictionaries().values())
    named = (f"country {country}", f"asked {country}", f"answer {country}")
    path = [f"{NAME}@resid_post.{layer}/{FEATURES[layer].index(name)}" for layer, name in enumerate(named)]
    asks = (
        "we went to {} and",
        "people live in {} near",
        "over the road from {} was",
        "the river by {} is",
        "they saw {} with a",
    )
    return Planted(
        model=model, dictionaries=made, prompt=f"the capital of {country} is", token=f" {capital}", path=tuple(path),
        contexts=tuple(ask.format(country) for ask in asks), texts=tuple(_sentences(country, texts, seed)),
    )  # fmt: skip


def _sentences(without: str, n: int, seed: int) -> list[str]:
    """Sentences of the model's own words, one in four with another country in it."""
    drawn = random.Random(seed)
    others = [country for country in CAPITALS if country != without]
    made = []
    for number in range(n):
        words = drawn.choices(FILLERS, k=12)
        if number % 4 == 0:
            words[drawn.randrange(len(words))] = drawn.choice(others)
        made.append(" ".join(words))
    return made
