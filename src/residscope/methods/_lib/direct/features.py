"""The direct effect of each feature of a dictionary, and of what the dictionary leaves out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary, Direction
from residscope.errors import DirectionError, WrongWidth
from residscope.methods._lib.direct.reading import SLACK, Reading, require
from residscope.methods._lib.direct.sites import STREAM, WRITTEN

WRITES = (*WRITTEN, "attn_raw", "mlp_raw", "result", "z", "mlp_post")


@dataclass(frozen=True)
class FeatureEffects:
    """What stands at a dictionary's write site as a sum over its features, in logits.

        whole = sum_i features[i] + bias + error,    features[i] = a_i write_i . read / sigma

    a = encode(x). bias: what the dictionary writes whatever is active (its decoder's bias, a linear path beside the features);
    error: what it leaves out. whole: the component that it decomposes: `mlp_out.3` itself, or, of the stream, all components
    written before; of z or the neurons, what goes through the projection.
    """

    features: Float[Tensor, "feature batch pos"]
    bias: Float[Tensor, "batch pos"]
    error: Float[Tensor, "batch pos"]
    whole: Float[Tensor, "batch pos"]


def feature_effects(
    reading: Reading,
    dictionary: Dictionary,
    components: Mapping[str, Float[Tensor, "batch pos"]],
    allowed: Float[Tensor, "batch pos"],
) -> FeatureEffects:
    """Each feature's write, read as the final norm reads it; the sum is checked against the component's own effect.

    components: of the run, by the sites that write them. Raises DirectionError: it writes nothing into the stream, or is in the
    lens space; WrongWidth; NotAdditive.
    """
    read, divisor = _read(reading, dictionary)
    x, target = (_vectors(reading, dictionary, site) for site in (dictionary.read_site, dictionary.write_site))
    a = dictionary.encode(x)

    def effect(write: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos"]:
        return torch.einsum("bpd,bd->bp", write.to(read), read) / divisor

    made, rebuilt = dictionary.added(x, a, range(len(dictionary))), dictionary.reconstruct(x)
    slopes = read @ dictionary.write.to(read).T
    own = (a.to(read) * slopes[:, None] * dictionary.write_scale(x).to(read) / divisor[..., None]).movedim(-1, 0)
    bias, error = effect(rebuilt - made), effect(target.to(rebuilt) - rebuilt)
    whole = _whole(reading, dictionary, components)
    whole = effect(target) if whole is None else whole
    size = own.square().sum(0).sqrt() + bias.abs() + error.abs()
    slack = allowed + size * reading.eps * SLACK * len(x.flatten()) ** 0.5
    failed = f"the features of {dictionary.name} do not sum to what stands at {dictionary.write_site}"
    require(failed, own.sum(0) + bias + error, whole, slack)
    return FeatureEffects(own, bias, error, whole)


def as_dictionary(given: Dictionary | Direction | Sequence[Direction]) -> Dictionary:
    """Directions as a dictionary of them, each with its own coordinate; a dictionary as it is.

    Raises DirectionError: they stand at several places or are not in the raw or centred space, or no one vector can be
    subtracted for all of them.
    """
    if isinstance(given, Dictionary):
        return given
    several = [given] if isinstance(given, Direction) else [*given]
    if not several or not all(isinstance(one, Direction) for one in several):
        raise DirectionError("not a dictionary", received=repr(given)[:80], allowed="a Dictionary, or directions")
    first = several[0]
    if {(one.site, one.head, one.space) for one in several} != {(first.site, first.head, first.space)}:
        raise DirectionError(
            "the directions stand at different sites or in different spaces",
            received=", ".join(dict.fromkeys(f"{one.site} ({one.space})" for one in several)),
            allowed="one site, one space",
        )
    read, write = (torch.stack([getattr(one, name) for one in several]) for name in ("read", "write"))
    offsets = torch.tensor([0.0 if first.space == "raw" else one.offset for one in several], dtype=torch.float64)
    mean = torch.linalg.pinv(read.double().cpu()) @ offsets
    if not torch.allclose(read.double().cpu() @ mean, offsets, rtol=1e-4, atol=1e-4):
        raise DirectionError(
            "directions that depend on each other have offsets that do not", received=f"{len(several)}"
        )
    names = tuple(one.name for one in several)
    return Dictionary(
        name=names[0] if len(names) == 1 else "directions", site=first.site, read=read, write=write, mean=mean.to(read),
        head=first.head, space=first.space, names=names, provenance=dict(first.provenance),
    )  # fmt: skip


def _read(reading: Reading, dictionary: Dictionary) -> tuple[Float[Tensor, "batch d"], Float[Tensor, "batch pos"]]:
    """What reads the vectors at the write site, and over what."""
    site = reading.model.sites.canonical(dictionary.write_site)
    if site.name not in WRITES or dictionary.space == "lens":
        raise DirectionError(
            "a feature has a direct effect where it writes into the stream",
            received=f"{dictionary.name}, which writes {dictionary.write_site}, in the {dictionary.space} space",
            allowed=", ".join(WRITES) + ", in the raw or centred space",
        )
    read, divisor = reading.read, reading.sigma
    if site.name not in WRITTEN and site.layer is not None:
        parts, attn = reading.layout.blocks[site.layer], site.name in ("z", "result", "attn_raw")
        post, scale = (parts.attn_post_norm, "attn_post_scale") if attn else (parts.mlp_post_norm, "mlp_post_scale")
        projection = parts.attn_proj if attn else parts.mlp_down or parts.mlp
        passing = reading.through if site.name in ("z", "mlp_post") else reading.onward
        read, divisor, _ = passing(projection, post, f"{scale}.{site.layer}")
    if site.name in ("z", "result"):
        n = reading.model.sites.size(site, "head") or 0
        by_head = read.reshape(len(read), n, -1) if site.name == "z" else read[:, None].expand(-1, n, -1)
        read = by_head.flatten(-2) if dictionary.head is None else by_head[:, dictionary.head]
    if dictionary.write.shape[-1] != read.shape[-1]:
        raise WrongWidth(
            f"{dictionary.name} does not fit {site}",
            received=f"width {dictionary.write.shape[-1]}",
            allowed=f"width {read.shape[-1]}",
        )
    return read, divisor


def _vectors(reading: Reading, dictionary: Dictionary, site: str) -> Float[Tensor, "batch pos d"]:
    """What the run has at a site, as the dictionary reads or writes it: one head's vectors, or all heads' end to end."""
    value = reading.at(reading.model.sites.canonical(site))
    if value.ndim == 3:
        return value
    return value.flatten(-2) if dictionary.head is None else value[:, :, dictionary.head]


def _whole(
    reading: Reading, dictionary: Dictionary, components: Mapping[str, Float[Tensor, "batch pos"]]
) -> Float[Tensor, "batch pos"] | None:
    """The effect of the component that a dictionary decomposes, by what was written there; None where it is part of one."""
    site = reading.model.sites.canonical(dictionary.write_site)
    if site.name not in STREAM:
        return components.get(str(site))
    if any(changed.name in STREAM for changed in reading.changed) or site.layer is None:
        return None
    own = {"resid_pre": (), "resid_mid": ("attn_out",)}.get(site.name, ("attn_out", "mlp_out"))
    terms = [effect for name, effect in components.items() if _before(name, site.layer, own)]
    return torch.stack(terms).sum(0)


def _before(component: str, at: int, own: tuple[str, ...]) -> bool:
    """Whether a component is written before a place of the stream: in an earlier layer, or in this one and one of `own`."""
    name, _, layer = component.partition(".")
    earlier = layer.isdigit() and (int(layer) < at or (int(layer) == at and name in own))
    return earlier or name in ("embed", "pos_embed")
