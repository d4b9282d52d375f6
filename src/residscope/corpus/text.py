"""Text: where a corpus comes from."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from residscope.corpus.hub import DataSet, data_set
from residscope.corpus.sources.built_in import BUILT_IN as BUILT_IN
from residscope.corpus.sources.built_in import english as english
from residscope.corpus.sources.built_in import python_docs as python_docs
from residscope.corpus.sources.described import OF_THE_MODEL, Text, described, name_of, spoken
from residscope.corpus.sources.documents import Labels
from residscope.corpus.sources.files import json_documents, paragraphs
from residscope.corpus.sources.pieces import Files, local, pieces_of
from residscope.corpus.sources.sampled import TOKENS, Sampled, sampled_text
from residscope.engine.model import Model
from residscope.errors import CorpusError
from residscope.incoming import path_of

Source = str | Path | DataSet | Files | Sampled | Text | Iterable[str]
WRITTEN = "model"
"""The text that the model itself writes."""
ALLOWED = (
    ", ".join(BUILT_IN)
    + ", a .txt, .jsonl or .parquet file (.txt and .jsonl also packed: .gz, .zst), a folder or a pattern of them, "
    + "hub:org/name for a data set, model for what the model writes, or a list of texts"
)


class NamedTexts(list[str]):
    """Texts that have a name: that of the file they were pasted from."""

    def __init__(self, name: str, texts: Iterable[str]) -> None:
        super().__init__(texts)
        self.name = name


def text(
    source: Source,
    *,
    pack: bool = False,
    shuffle: int | None = None,
    window: int | None = None,
    split: str | None = None,
    held_out: float | None = None,
    labels: Iterable[str] = (),
    cache: bool = True,
) -> Text:
    """A corpus with how it is read: it is taken wherever a corpus is.

    pack: documents joined into rows without a gap, each with the model's own BOS in front where that is its habit and the token
    that ends documents behind; tokens of a row then attend to those of the documents before them in it. shuffle: a seed, by which
    files, then the documents of each `window` (1,000) and their rows are shuffled. split: "train" or "held-out", by each
    document's content, so that a share of `held_out` (0.05) is held out and copies of one document are on one side. labels:
    fields of .jsonl and .parquet that go with the rows. cache: whether the ids are kept for a second pass.

        train = rs.text("stories.jsonl.zst", pack=True, shuffle=0, split="train")
        rs.pca(model, train, "resid_post.6")

    As one line it is `stories.jsonl.zst?pack&shuffle=0&split=train`, with `#field` behind it where the text is in another field.

    Raises:
        CorpusError: no such text, or it is not read so. Offline: no hub answers.
    """
    of = opened(source)
    options: dict[str, Any] = {"pack": pack, "shuffle": shuffle, "window": window, "split": split, "held_out": held_out}
    options |= {"labels": tuple(labels), "cache": cache}
    if isinstance(of, Text):
        said = of.options
        if any(options[name] not in (None, False, ()) for name in said):
            raise CorpusError("how the text is read is said twice", received=of.named("text"), fix="say it once")
        options |= {**said, "cache": cache and of.cache}
        of = of.source
    return described(of, options)


def texts(source: Source, model: Model | None = None) -> Iterator[str]:
    """The texts of a corpus.

    source: `"python-docs"` or `"english"`; a .txt file (its paragraphs), a .jsonl or .parquet file (its `text` fields), packed or
    not; a folder or a pattern of such; a hub's data set, `"hub:org/name"`, `"hub:org/name@revision#field"`; `"model"`; what
    `rs.text` made; or the texts themselves. model: whose text `"model"` is.

    Raises:
        CorpusError: no such file or data set, or a line that is not of the form; the line is named. Offline: no hub answers.
        MissingExtra: a file of Parquet without pyarrow, of Zstandard without zstandard.
    """
    source = opened(source, model)
    if isinstance(source, str) and is_built_in(source) and source not in BUILT_IN:
        raise CorpusError("what a model writes needs a model", received=source, fix="give rs.sampled_text(model)")
    if isinstance(source, str | Path | DataSet | Files):
        for piece in pieces_of(source):
            yield from (document.text for document in piece.read(lambda: None))
    else:
        yield from source


def opened(source: Source, model: Model | None = None) -> Source:
    """The same corpus, known to exist: a built-in's name, files, a data set at its commit, what a model writes, or texts.

    What has options behind a ? is a `Text`. Without a model, `"model"` stays as it is.
    """
    if not isinstance(source, str | Path) or source in BUILT_IN:
        return source
    if isinstance(source, str) and (said := spoken(source)) and not path_of(source).is_file():
        return _described(*said, model)
    if source == WRITTEN:
        return source if model is None else sampled_text(model)
    if isinstance(source, str) and source.startswith("hub:"):
        return data_set(source)
    files = local(source)
    if files is None:
        raise CorpusError("no such text", received=str(source), allowed=ALLOWED)
    return files


def _described(base: str, options: dict[str, str], model: Model | None) -> Source:
    """What a line with options means."""
    of_model = {name: options.pop(name) for name in OF_THE_MODEL if base == WRITTEN and name in options}
    if base != WRITTEN:
        source: Any = opened(base)
    elif model is None:
        return f"{WRITTEN}?" + "&".join(f"{name}={value}" for name, value in (of_model | options).items())
    else:
        source = _written(model, of_model)
    return described(source, options) if options else source


def _written(model: Model, said: dict[str, str]) -> Sampled:
    try:
        tokens, seed = int(said.get("tokens", TOKENS)), int(said.get("seed", 0))
        return sampled_text(model, tokens, seed=seed, temperature=float(said.get("temperature", 1.0)))
    except ValueError as error:
        line = "&".join(f"{name}={value}" for name, value in said.items())
        raise CorpusError(
            "the model writes no such text", received=line, allowed="tokens=N, seed=N, temperature=T"
        ) from error


def is_built_in(name: str) -> bool:
    """Whether a line names a text that needs no file: a built-in one or the model's own, with options or not."""
    said = spoken(name)
    return (name if said is None else said[0]) in (*BUILT_IN, WRITTEN)


def called(source: Source) -> str:
    """What a corpus is called where a direction says what it was fitted on."""
    return name_of(source)


def typed(name: str, text: str) -> NamedTexts:
    """Text that was typed or pasted, as what a file of that name would hold: JSON lines for .jsonl, paragraphs for the rest."""
    if name.endswith(".jsonl"):
        return NamedTexts(name, json_lines(text.splitlines(), name))
    return NamedTexts(name, paragraphs([text]))


def json_lines(lines: Iterable[str | bytes], name: str, field: str = "text") -> Iterator[str]:
    """The `field` of each line's JSON object; empty lines, and fields that are null, give nothing. Raises CorpusError by line."""
    return (document.text for document in json_documents(lines, name, field, Labels(())))
