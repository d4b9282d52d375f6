"""Fitting a dictionary: what is asked for, whether it can be, and the pass over the text."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from residscope.corpus.mean_difference import mean_difference
from residscope.corpus.nmf import nmf
from residscope.corpus.pca import pca_many
from residscope.corpus.svd import svd_many
from residscope.corpus.text import called
from residscope.corpus.vectors import check_size, one_vector
from residscope.directions import Dictionary, place, unembedding_rows
from residscope.engine.model import Model
from residscope.errors import BadFit
from residscope.fields.base import Spec
from residscope.fields.texts import BuiltInText, TextRef, TypedText
from residscope.session.dictionaries import row_sites
from residscope.session.loaded import Loaded
from residscope.session.world import source_of

STREAM = "stream"
MOST_TYPED = 4000  # characters of typed text that the copied Python holds
DEFAULT_N = {"pca": 30, "svd": 30, "nmf": 10}
OWN = {
    "n": tuple(DEFAULT_N),
    "second": ("mean_difference",),
    "standardise": ("pca",),
    "clip": ("nmf",),
    "words": ("unembedding",),
    "text": (*DEFAULT_N, "mean_difference"),
}
Progress = Callable[[float], None]


class FitRecipe(Spec):
    """The arguments of the intent `fit`. `site` is one place, or "stream": `embed` and every resid_post, in one pass."""

    method: Literal["pca", "svd", "nmf", "mean_difference", "unembedding"]
    site: str | None = None
    head: int | None = None
    text: TextRef | None = None
    second: TextRef | None = None
    tokens: int = Field(default=20_000, ge=1_000, le=1_000_000)
    n: int | None = Field(default=None, ge=1, le=200)
    standardise: bool = False
    clip: bool = False
    words: list[str] | None = Field(default=None, min_length=1, max_length=200)

    @property
    def place(self) -> str:
        return "" if self.site is None else place(self.site, self.head)

    @property
    def first(self) -> TextRef:
        return self.text or BuiltInText(kind="builtin", name="python-docs")


def check(recipe: FitRecipe, loaded: Loaded) -> None:
    """Refuse what cannot be fitted before a pass is spent on it.

    Raises:
        BadFit: an option of another method, or one that is missing. SiteError, DirectionError, UnknownToken, CorpusError.
    """
    method, model = recipe.method, loaded.model
    for option, methods in OWN.items():
        if getattr(recipe, option) not in (None, False) and method not in methods:
            raise BadFit(f"{method} takes no {option}", received=option, allowed=f"with {', '.join(methods)}")
    needed = {"mean_difference": "second", "unembedding": "words"}.get(method)
    if needed and getattr(recipe, needed) is None:
        raise BadFit(f"{method} needs {needed}", received=f"no {needed}")
    if method == "unembedding":
        if recipe.head is not None:
            raise BadFit("unembedding is of no head", received=f"head {recipe.head}", allowed="no head")
        unembedding_rows(model, recipe.words or [], site=recipe.site)
        return
    if recipe.site is None:
        raise BadFit("say where", received="no site", allowed="a site such as resid_post.3, or stream")
    if recipe.site == STREAM and method not in ("pca", "svd"):
        raise BadFit(f"{method} is of one place", received=STREAM, allowed="stream with pca or svd; a site")
    if recipe.n is not None:
        check_size(recipe.n, min(_width(site, recipe, model) for site in _sites(recipe, model)), what="directions")
    for site in _sites(recipe, model):
        one_vector(model, site, recipe.head)
    for text in (recipe.first, recipe.second):
        if text is not None:
            source_of(text)


def fit(loaded: Loaded, recipe: FitRecipe, *, progress: Progress) -> list[Dictionary]:
    """The dictionaries asked for. `progress` takes the share done, and may raise to cancel.

    Raises:
        Whatever the method raises: EmptyCorpus, TooFewVectors, NegativeActivations, ZeroDirection, Offline ...
    """
    model, method = loaded.model, recipe.method
    if method == "unembedding":
        return [unembedding_rows(model, recipe.words or [], site=recipe.site)]
    sites = _sites(recipe, model)
    common: dict[str, Any] = {"head": recipe.head, "tokens": recipe.tokens, "progress": _stages(method, progress)}
    if method == "mean_difference":
        found = [mean_difference(model, {n: source_of(t) for n, t in _two(recipe).items()}, sites[0], **common)]
    elif method == "nmf":
        found = [nmf(model, source_of(recipe.first), sites[0], _n(recipe, model), clip=recipe.clip, **common)]
    elif method == "svd":
        found = [*svd_many(model, source_of(recipe.first), sites, _n(recipe, model), **common).values()]
    else:
        common["standardise"] = recipe.standardise
        found = [*pca_many(model, source_of(recipe.first), sites, _n(recipe, model), **common).values()]
    return [_named(dictionary, recipe) for dictionary in found]


def code(recipe: FitRecipe, loaded: Loaded) -> Callable[[str, Dictionary], str]:
    """Python that fits each dictionary again; where the text is too long to be written out, reads the file it is kept in."""

    def line(id: str, dictionary: Dictionary) -> str:
        texts = [] if recipe.method == "unembedding" else [recipe.first, *([recipe.second] if recipe.second else [])]
        long = any(isinstance(text, TypedText) and len(text.text) > MOST_TYPED for text in texts)
        if long and loaded.file is not None:
            return stored_code(loaded, id)
        given = [_source_code(text, dictionary) for text in texts]
        if recipe.method == "unembedding":
            given = [repr(recipe.words)]
        elif recipe.method == "mean_difference":
            names = dict(zip(_two(recipe), given, strict=True))
            given = [f"{{{', '.join(f'{name!r}: {source}' for name, source in names.items())}}}"]
        more: dict[str, Any] = {"site": dictionary.site} if recipe.method == "unembedding" else {}
        if recipe.method != "unembedding":
            given.append(repr(dictionary.site))
            more = {"head": recipe.head, "tokens": recipe.tokens}
        if recipe.method in DEFAULT_N:
            given.append(repr(_n(recipe, loaded.model)))
            more |= {"standardise": recipe.standardise or None, "clip": recipe.clip or None}
        options = [f"{name}={value!r}" for name, value in more.items() if value is not None]
        function = "unembedding_rows" if recipe.method == "unembedding" else recipe.method
        return f"rs.{function}({', '.join(['model', *given, *options])})"

    return line


def stored_code(loaded: Loaded, id: str) -> str:
    return f"directions.read({str(loaded.file)!r}, model)[{id!r}]"


def _sites(recipe: FitRecipe, model: Model) -> list[str]:
    if recipe.site == STREAM:
        return row_sites(None, model.sites)
    return [recipe.site or ""]


def _width(site: str, recipe: FitRecipe, model: Model) -> int:
    return model.sites.width(one_vector(model, site, recipe.head))


def _n(recipe: FitRecipe, model: Model) -> int:
    return recipe.n or min(DEFAULT_N[recipe.method], _width(_sites(recipe, model)[0], recipe, model))


def _two(recipe: FitRecipe) -> dict[str, TextRef]:
    """The texts of a mean difference by names that tell them apart."""
    assert recipe.second is not None
    first, second = recipe.first, recipe.second
    return {first.name: first, second.name if second.name != first.name else f"{second.name} (2)": second}


def _named(dictionary: Dictionary, recipe: FitRecipe) -> Dictionary:
    """With the name of a typed text, of which the method knows the texts alone."""
    told = dict(dictionary.provenance)
    if isinstance(recipe.first, TypedText) and "corpus" in told:
        told["corpus"] = recipe.first.name
    if "corpora" in told:
        texts = _two(recipe)
        told["corpora"] = {
            name: name if isinstance(texts[name], TypedText) else held for name, held in told["corpora"].items()
        }
    return replace(dictionary, provenance=told)


def _source_code(text: TextRef, dictionary: Dictionary) -> str:
    """The corpus in Python. A long typed text is the file it was pasted from; a data set is at the commit that was read."""
    if isinstance(text, TypedText):
        return repr(source_of(text) if len(text.text) <= MOST_TYPED else text.name)
    known = {dictionary.provenance.get("corpus"), *dictionary.provenance.get("corpora", {}).values()}
    source = called(source_of(text))
    stem = source.split("#")[0].split("@")[0]
    return repr(next((held for held in known if held and str(held).startswith(f"{stem}@")), source))


def _stages(method: str, progress: Progress) -> Callable[[str, int, int], None]:
    """One share of the whole out of the method's stages, which each count from zero."""
    stages: list[str] = []
    expected = 2 if method in ("mean_difference", "nmf") else 1

    def told(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            stages.append(stage)
        progress(min(1.0, (stages.index(stage) + done / max(total, 1)) / expected))

    return told
