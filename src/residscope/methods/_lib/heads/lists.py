"""Prompts of our own for translation and few-shot heads: which tokens each asks about stands in the label `asked`."""

import random
from collections.abc import Sequence

from residscope.engine.model import Model
from residscope.errors import NoTokenizer
from residscope.model.prompts import PromptSet
from residscope.tasks.spans import words

TRANSLATION, FEW_SHOT = "word lists in two languages", "few-shot prompts"
ENGLISH = words(
    """
    water bread house dog cat tree book school king night day milk wine hand head heart city street door window sun moon sea
    mountain river horse bird fish flower summer winter
    """
)
OTHERS = {
    "French": words(
        """
        eau pain maison chien chat arbre livre école roi nuit jour lait vin main tête coeur ville rue porte fenêtre soleil lune
        mer montagne rivière cheval oiseau poisson fleur été hiver
        """
    ),
    "Spanish": words(
        """
        agua pan casa perro gato árbol libro escuela rey noche día leche vino mano cabeza corazón ciudad calle puerta ventana sol
        luna mar montaña río caballo pájaro pez flor verano invierno
        """
    ),
    "German": words(
        """
        Wasser Brot Haus Hund Katze Baum Buch Schule König Nacht Tag Milch Wein Hand Kopf Herz Stadt Straße Tür Fenster Sonne Mond
        Meer Berg Fluss Pferd Vogel Fisch Blume Sommer Winter
        """
    ),
}
KINDS = {
    "fruit": words("apple banana cherry orange lemon grape peach pear"),
    "animal": words("dog horse tiger rabbit cow sheep wolf lion"),
    "color": words("red blue green yellow purple black white pink"),
    "metal": words("iron copper silver gold tin lead steel zinc"),
    "month": words("January March April June July August October May"),
    "city": words("Paris London Berlin Rome Tokyo Madrid Vienna Moscow"),
}
WORDS, QUESTIONS = 7, 9
Piece = tuple[str, object]  # text, and what it is, or None


def translation(model: Model, n: int, seed: int) -> PromptSet:
    """n lists of seven English words, and the same words in another language in another order.

    Asked of each translated word but that of the last English one: the word that follows its counterpart, among all the English
    words but the first. Raises NoTokenizer.
    """
    drawn, prompts = random.Random(seed), []
    for i in range(n):
        language = [*OTHERS][i % len(OTHERS)]
        some = drawn.sample(range(len(ENGLISH)), WORDS)
        again = drawn.sample(range(WORDS), WORDS)
        pieces: list[Piece] = [("English:", None)]
        pieces += [(f" {ENGLISH[word]}", ("en", at)) for at, word in enumerate(some)]
        pieces += [(f"\n{language}:", None)]
        pieces += [(f" {OTHERS[language][some[at]]}", ("other", at)) for at in again]
        ids, where = _joined(model, pieces)
        among = [where["en", at] for at in range(1, WORDS)]
        prompts.append((ids, [(where["other", at][-1], [where["en", at + 1]], among) for at in range(WORDS - 1)]))
    return _set(prompts, TRANSLATION)


def few_shot(model: Model, n: int, seed: int) -> PromptSet:
    """n prompts of nine questions each, such as "wolf: animal", of three kinds.

    Asked at the colon of each question whose kind was asked before, and another kind too: the answers to that kind, among all the
    answers before. Raises NoTokenizer.
    """
    drawn, prompts = random.Random(seed), []
    for _ in range(n):
        kinds = drawn.sample([*KINDS], 3)
        each = kinds * (QUESTIONS // 3)
        drawn.shuffle(each)
        named = {kind: drawn.sample(KINDS[kind], QUESTIONS // 3) for kind in kinds}
        pieces: list[Piece] = []
        for at, kind in enumerate(each):
            start = "" if at == 0 else "\n"
            pieces += [(f"{start}{named[kind].pop()}", None), (":", ("ask", at)), (f" {kind}", ("answer", at))]
        ids, where = _joined(model, pieces)
        asked = []
        for at, kind in enumerate(each):
            right = [where["answer", b] for b in range(at) if each[b] == kind]
            among = [where["answer", b] for b in range(at)]
            if 0 < len(right) < len(among):
                asked.append((where["ask", at][-1], right, among))
        prompts.append((ids, asked))
    return _set(prompts, FEW_SHOT)


def _joined(model: Model, pieces: Sequence[Piece]) -> tuple[tuple[int, ...], dict[object, tuple[int, ...]]]:
    """The pieces' tokens one after the other, behind BOS where that is the model's habit, and where each named one stands."""
    if model.tokenizer is None:
        raise NoTokenizer("words are not to be had", received="no tokenizer", allowed="a model with one")
    ids: list[int] = [model.tokenizer.bos_token_id] if model.bos else []
    where: dict[object, tuple[int, ...]] = {}
    for text, name in pieces:
        own = model.encode(text, bos=False)
        if name is not None:
            where[name] = tuple(range(len(ids), len(ids) + len(own)))
        ids += own
    return tuple(ids), where


def _set(prompts: Sequence[tuple[tuple[int, ...], object]], name: str) -> PromptSet:
    ids, asked = zip(*prompts, strict=True)
    return PromptSet(tuple(ids), labels={"asked": tuple(asked)}, name=name)
