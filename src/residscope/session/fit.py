"""Fitting components for a model that ships without: one pass over the built-in text, beside the runs."""

from collections.abc import Callable

from residscope.corpus.pca import pca_many
from residscope.session.loaded import Loaded

TEXT, COMPONENTS = "python-docs", 30
Progress = Callable[[str, int, int], None]


def fit(loaded: Loaded, *, tokens: int, progress: Progress) -> Loaded:
    """The model with principal components of every row of the stream. `progress` may raise to cancel."""
    model = loaded.model
    sites = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.n_layers))]
    n = min(COMPONENTS, model.d_model)
    found = pca_many(model, TEXT, sites, n, tokens=tokens, progress=progress)
    return loaded.with_fitted(
        [(found[site], f"rs.pca(model, {TEXT!r}, {site!r}, {n}, tokens={tokens})") for site in sites]
    )
