"""Translation into English, after two examples: "French: pain\\nEnglish: bread\\n\\n ... French: chien\\nEnglish:" -> " dog".

Todd et al., 2024, Function Vectors in Large Language Models (arXiv:2310.15213), on such prompts.
"""

import random

from residscope.declare.tasks import task
from residscope.engine.model import Model
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.tasks.drafts import Draft, Lists, drawn_prompts, two_or_more
from residscope.tasks.spans import words

ENGLISH = words(
    """
    water bread house dog cat tree book school king night day milk wine hand head heart city street door window sun moon
    """
)
OTHERS = {
    "French": words(
        """
        eau pain maison chien chat arbre livre école roi nuit jour lait vin main tête coeur ville rue porte fenêtre soleil lune
        """
    ),
    "Spanish": words(
        """
        agua pan casa perro gato árbol libro escuela rey noche día leche vino mano cabeza corazón ciudad calle puerta ventana sol
        luna
        """
    ),
    "German": words(
        """
        Wasser Brot Haus Hund Katze Baum Buch Schule König Nacht Tag Milch Wein Hand Kopf Herz Stadt Straße Tür Fenster Sonne Mond
        """
    ),
}


@task("translation", title="Translation", label="language", position="WORD")
def translation(
    model: Model, n: int = 200, *, seed: int = 0, shots: int = 2, progress: Progress = None, cancel: Cancel = None
) -> PromptSet:
    """n foreign words, French, Spanish and German in turn, each after `shots` others with their English.

    Only the English word has to be one token; the partner asks for another word of as many tokens, whose English is the wrong
    answer. Labels: `language`, `word`, `tokens` (the word's). Positions: WORD (its last token), END.

    Raises:
        TooFewPrompts: fewer than two, or none that holds on this tokenizer. TooFewWords. NoTokenizer. Cancelled.
    """
    two_or_more(n, "words to translate")
    lists = Lists(model)
    known = {*lists.take(ENGLISH, least=shots + 2, what="English words")}
    pairs = {
        language: [(word, english) for word, english in zip(some, ENGLISH, strict=True) if english in known]
        for language, some in OTHERS.items()
    }
    drawn, languages = random.Random(seed), [*OTHERS]
    tokens = {word: len(model.encode(f" {word}", bos=False)) for some in pairs.values() for word, _ in some}

    def draw(i: int) -> Draft:
        language = languages[i % len(languages)]
        asked = drawn.choice(pairs[language])
        fitting = [one for one in pairs[language] if one != asked and tokens[one[0]] == tokens[asked[0]]]
        other = drawn.choice(fitting or pairs[language])
        examples = drawn.sample([one for one in pairs[language] if one not in (asked, other)], shots)
        shown = "".join(f"{language}: {word}\nEnglish: {english}\n\n" for word, english in examples)
        text, partner = (f"{shown}{language}: {word}\nEnglish:" for word, _ in (asked, other))
        labels = {"language": language, "word": asked[0], "tokens": tokens[asked[0]]}
        marks = {"WORD": len(shown) + len(language) + 2 + len(asked[0])}
        return Draft(text, partner, (f" {asked[1]}", f" {other[1]}"), labels, marks)

    return drawn_prompts(
        model, n, draw, name="words to translate", left_out=lists.left_out, progress=progress, cancel=cancel
    )
