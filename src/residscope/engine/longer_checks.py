"""The certificate's look at a longer prompt: what acts at later positions alone is not in the short one of the other checks.

One block at a time, so that no more than one block's values are held.
"""

from collections.abc import Iterator

from residscope.engine.checks import (
    LONGER,
    Bench,
    Pair,
    check,
    linear,
    mixture,
    norm_before_mlp,
    normed,
    softmaxed,
    summed,
    written,
)
from residscope.engine.windows import Window
from residscope.model.sites import Site

# what the check of a longer prompt looks at, one block at a time
WITHIN = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_in",
    "v",
    "scores",
    "pattern",
    "z",
    "result",
    "attn_raw",
    "attn_out",
    "mlp_in",
    "mlp_post",
    "mlp_raw",
    "mlp_out",
)


@check("a longer prompt", f"the sums and products of each block hold at the positions up to {LONGER} too")
def _longer_prompt(b: Bench) -> Iterator[Pair]:
    base = b.longer
    for i, parts in enumerate(b.model.layout.blocks):
        sites = [Site(name, i) for name in WITHIN if b.has(name, i)]
        rec = b.model.run(base.batch, capture=sites, window=Window(base, i) if i else None)
        b.blamed = None
        yield from summed(b, rec, i)
        b.at("heads", i)
        if b.model.dtype.itemsize > 2:  # whose rounding picks other experts
            yield rec["resid_post", i], base["resid_post", i]
        if b.has("pattern", i):
            yield softmaxed(rec, i, parts)
            if b.has("z", i) and not parts.z_changed:
                yield mixture(rec, i), rec["z", i]
        b.at("z", i)
        if b.has("z", i) and parts.attn_beside is None:
            yield linear(parts.attn_proj, rec["z", i].flatten(2)), rec["attn_raw", i]
        if b.has("result", i) and parts.attn_beside is None:
            yield from written(rec, i, parts)
        b.at("neurons", i)
        if parts.mlp_down is not None and b.has("mlp_post", i):
            yield linear(parts.mlp_down, rec["mlp_post", i]), rec["mlp_raw", i]
        b.at("attn_in", i)
        if b.has("attn_in", i):
            yield rec["attn_in", i], normed(parts.attn_norm, rec["resid_pre", i])
        b.at("mlp_in", i)
        if b.has("mlp_in", i):
            stream, norm = norm_before_mlp(b, i, parts)
            yield rec["mlp_in", i], normed(norm, rec[stream, i])
