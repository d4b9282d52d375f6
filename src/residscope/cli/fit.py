"""`residscope directions fit METHOD`: the older name of `residscope run` for the methods that find directions."""

import typer

from residscope.cli.run import call, schema_of, schemas
from residscope.cli.words import Taken
from residscope.errors import UnknownMethod

ALIASES = {"unembedding": "unembedding-rows"}
RENAMED = {"-o": "--save", "--out": "--save", "--text": "--corpus", "--words": "--tokens"}
OPTIONS = (*RENAMED, "--second")
DEFAULT_TEXT = "python-docs"


def fit(context: typer.Context) -> None:
    """Find directions at a site over a text: pca, svd, nmf, mean_difference, unembedding.

    The same as `residscope run METHOD`, whose --help says what it takes: --site SITE, --text TEXT (python-docs unless said),
    --second TEXT (of mean_difference), --words TOKENS (of unembedding), -o FILE.
    """
    method, *words = context.args or ["--help"]
    id = ALIASES.get(method, method.replace("_", "-"))
    fitting = [name for name, schema in schemas().items() if schema["group"] == "directions"]
    if id not in fitting:
        raise UnknownMethod("nothing fits directions so", received=method, allowed=", ".join(fitting))
    taken = Taken.of(schema_of(id))
    call(id, taken.sort(translated(words, taken)))


def translated(words: list[str], taken: Taken) -> list[str]:
    """The older options as the method's own."""
    split = [part for word in words for part in (word.split("=", 1) if word.partition("=")[0] in OPTIONS else [word])]
    own = [RENAMED[word] if RENAMED.get(word) in taken.arity else word for word in split]
    if "--corpus" in taken.slots and "--corpus" not in own:
        own += ["--corpus", DEFAULT_TEXT]
    if "--corpora" in taken.arity:
        first, second = (_taken_out(own, name) for name in ("--text", "--second"))
        own += [] if second is None else ["--corpora", first or DEFAULT_TEXT, second]
    return own


def _taken_out(words: list[str], name: str) -> str | None:
    """The word after an option, both taken out."""
    if name not in words[:-1]:
        return None
    at = words.index(name)
    return [words.pop(at), words.pop(at)][1]
