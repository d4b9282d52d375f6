"""Which sites direct effects are read from, and which of them a run's edits change."""

from collections.abc import Iterable, Sequence
from itertools import chain

from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.engine.protocols import Edit
from residscope.errors import BadEdit
from residscope.model.sites import Site

STREAM = ("resid_pre", "resid_mid", "resid_post")
WRITTEN = (*STREAM, "embed", "pos_embed", "attn_out", "mlp_out")


def direct_sites(
    model: Model,
    *,
    heads: bool = True,
    neurons: Iterable[int] = (),
    sources: bool = False,
    experts: bool = False,
    features: Dictionary | None = None,
    edits: Sequence[Edit] = (),
) -> list[str]:
    """The sites that direct effects are read from: captured in the run itself, they cost no second pass.

    neurons: the layers whose neurons are to be read too. sources: whether heads are read by source. experts, features: whether
    the MLPs are read by expert; the dictionary whose features are. edits: those of the run.
    """
    names = ["embed", "pos_embed", "attn_out", "mlp_out", *(["z", "attn_post_scale"] if heads else [])]
    sites = [site for name in names if name in model.sites.names for site in model.sites.expand(name)]
    sites += [site for name in ("pattern", "v") if sources for site in model.sites.expand(name)]
    sites += [site for name in ("mlp_in", "router") if experts for site in model.sites.expand(name)]
    sites += [] if features is None else feature_sites(model, features)
    for layer in neurons:
        posted = "mlp_post_scale" in model.sites.names
        sites += [Site("mlp_post", layer), *([Site("mlp_post_scale", layer)] if posted else [])]
    changed = changed_sites(model, edits)
    posts = ("mlp_post_scale",) if experts else ()
    sites += [site for name in posts if name in model.sites.names for site in model.sites.expand(name)]
    sites += [site for site in changed if site.name == "result" and heads]
    if any(site.name in STREAM for site in changed):
        sites += [*model.sites.expand("resid_pre"), *(site for site in changed if site.name in STREAM)]
    last = [Site("resid_post", model.n_layers - 1)] if changed else []
    return [*dict.fromkeys(map(str, [*sites, *last, Site("final_scale"), Site("final_norm")]))]


def feature_sites(model: Model, dictionary: Dictionary) -> list[Site]:
    """Where a dictionary is read and written, and the divisor of the norm that its writes go through."""
    read, write = (model.sites.canonical(site) for site in (dictionary.read_site, dictionary.write_site))
    post = "attn_post_scale" if write.name in ("z", "result", "attn_raw") else "mlp_post_scale"
    through = write.name not in WRITTEN and post in model.sites.names
    return [read, write, *([Site(post, write.layer)] if through else [])]


def changed_sites(model: Model, edits: Sequence[Edit]) -> set[Site]:
    """The sites that edits put something else at. Refuses those of the logits, which nothing in the stream answers for.

    A change of a weight is no such edit: what the module writes has it, and is read where it is written.
    """
    here = [edit for edit in edits if not edit.overlays(model.layout)]
    places = set(chain.from_iterable(edit.places(model.sites) for edit in here))
    if Site("logits") in places:
        raise BadEdit(
            "the logits themselves are edited, so the metric is not a sum over the parts of the stream",
            received="an edit of logits",
            allowed="edits of any other site",
            fix="take that edit off",
        )
    return places
