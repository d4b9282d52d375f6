"""Dictionaries of other libraries' files, as our own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch

from residscope import fields
from residscope.corpus.text import Source
from residscope.declare.methods import method
from residscope.directions import EncoderDictionary
from residscope.directions.encoder import MORE, PARTS
from residscope.engine.model import Model
from residscope.errors import (
    BadArguments,
    DamagedFile,
    DirectionError,
    FileError,
    NotFinite,
    WrongEnding,
    WrongModel,
    WrongWidth,
)
from residscope.json_values import as_json
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage
from residscope.sae import folding
from residscope.sae.cross_layer import CrossLayer
from residscope.sae.files import AGAIN, ENDINGS
from residscope.sae.fits import CENTRED, TOKENS, refuse_misplaced
from residscope.sae.folding import Parts
from residscope.sae.formats import UNDERSTOOD, Found, Unit, cross_layer, format_of
from residscope.sae.shipped import SHIPPED, shipped
from residscope.sae.source import Place, place_of

MOST = 64  # dictionaries of one call, where they have to be fetched
USUAL = ("sae_weights.safetensors", "ae.pt", "sae.safetensors", "params.npz", "params.safetensors")
OTHER = ("sparsity", "optimizer", "scheduler", "activations_store_state", "trainer_state", "activation_whitening")


class Said(NamedTuple):
    """What is said by whoever loads it, over what the files say."""

    site: str | None
    written: str | None
    scale: float | None
    centred: bool | None
    bos: bool | None


def load(
    source: str | Path,
    model: Model | None = None,
    *,
    site: str | None = None,
    written: str | None = None,
    scale: float | None = None,
    centred: bool | None = None,
    bos: bool | None = None,
    check: bool = True,
    corpus: Source = "english",
    tokens: int = TOKENS,
    progress: Progress = None,
    cancel: Cancel = None,
) -> EncoderDictionary | dict[str, EncoderDictionary] | CrossLayer:
    """The dictionary in a file, a folder or a repository of the hub, whichever library wrote it; several by their ids.

    source: "shipped" for those that come with Residscope, or one of them by its id ("shipped/sae@resid_post.8"); else what is on
    this machine first, then `owner/name/folder@revision` on the hub. model: the one it is of; with it the
    width, the model's name and, unless check=False, the place it is hooked at are checked on a text (`sae.fit_check`). What its
    files do not say, or say wrongly: site, written: where it reads and writes; scale: of one whose input was scaled in training
    (`expected_average_only_in`), sqrt(d) over the mean length of its inputs; centred: whether the model had
    `center_writing_weights`; bos: whether its texts began with BOS. A folder of cross-layer transcoders gives a `CrossLayer`;
    site and written then are names without a layer.

        rs.sae.load("jbloom/GPT2-Small-SAEs-Reformatted/blocks.6.hook_resid_pre", model)

    Activations are the peer's own. What is folded into the weights: centring of the model's writes, the scale of the input, the
    decoder's norms. No file is ever unpickled.

    Raises:
        FileNotThere, Offline: no such source. DamagedFile, NotFinite, WrongEnding: truncated, contradicts itself, not finite, or
        of no format that is read. DirectionError: an architecture that is not read, or no place. WrongWidth, WrongModel: of
        another model. BadFit: it is hooked at another place than it says. Cancelled.
    """
    if str(source).partition("/")[0] == SHIPPED and not Path(source).exists():
        if model is None:
            raise BadArguments(
                "what is shipped is of a model", received="no model", fix='rs.sae.load("shipped", model)'
            )
        own = shipped(model, str(source).partition("/")[2])
        return next(iter(own.values())) if len(own) == 1 else own
    place = place_of(source)
    said = Said(site, written, scale, centred, bos)
    watch: dict[str, Any] = {"corpus": corpus, "tokens": tokens, "progress": progress, "cancel": cancel}
    if place.only is None and cross_layer.mine(place):
        return _cross_layer(place, model, site, written)
    units = _units(place)
    loaded: dict[str, EncoderDictionary] = {}
    with stage("Reading the dictionaries", len(units), progress, cancel) as tell:
        for unit in units:
            found = _found(unit, alone=len(units) == 1)
            if found is not None:
                loaded[unit.id] = _made(unit, found, model, said, watch if check else None)
            tell(units.index(unit) + 1)
    if not loaded:
        raise _unknown(place, units)
    return next(iter(loaded.values())) if len(units) == 1 or len(loaded) == 1 else loaded


@method("sae-load", title="Load a dictionary", group="directions")
def sae_load(
    model: Model,
    source: Annotated[str, fields.place(title="file, folder, hub id, or shipped")],
    *,
    site: Annotated[str | None, fields.site(title="reads", help="where its files do not say")] = None,
    written: Annotated[str | None, fields.site(title="writes", help="of a transcoder")] = None,
    check: Annotated[bool, fields.flag(help="refuse one that is hooked at another place than it says")] = True,
    progress: Progress = None,
    cancel: Cancel = None,
) -> dict[str, EncoderDictionary]:
    """Dictionaries by their ids, as `rs.sae.load` reads them; of cross-layer transcoders what each layer writes in itself.

    Raises:
        As `rs.sae.load`.
    """
    found = load(source, model, site=site, written=written, check=check, progress=progress, cancel=cancel)
    if isinstance(found, CrossLayer):
        return {d.site: d for d in found}
    return {**found} if isinstance(found, Mapping) else {found.site: found}


def _units(place: Place) -> list[Unit]:
    """The files that may hold a dictionary, in order."""
    if place.only is not None:
        return [Unit(place, place.only, place.only.rpartition(".")[0] or place.only)]
    files = [name for name in sorted(place.names) if name.endswith(ENDINGS) and not _beside(name)]
    usual = [name for name in files if name.rpartition("/")[2] in USUAL]
    files = usual or files
    if not files:
        raise WrongEnding(
            "there is no file of weights", received=", ".join(sorted(place.names)[:8]) or "nothing", allowed=UNDERSTOOD
        )
    if place.hub and len(files) > MOST:
        raise WrongEnding(
            f"{place.name} has {len(files)} dictionaries, which are not all fetched at once",
            received=place.name,
            allowed=", ".join(file.rpartition("/")[0] or file for file in files[:6]) + " ...",
            fix="name one behind a slash: owner/name/folder",
        )
    alone = {file.rpartition("/")[0] for file in files}
    ids = [file.rpartition("/")[0] if len(alone) == len(files) else file.rpartition(".")[0] for file in files]
    return [Unit(place, file, id or file) for file, id in zip(files, ids, strict=True)]


def _beside(name: str) -> bool:
    return any(word in name.rpartition("/")[2] for word in OTHER)


def _found(unit: Unit, *, alone: bool) -> Found | None:
    """What a unit holds; of several, None for one of no format. Raises DamagedFile."""
    try:
        format = format_of(unit)
        if format is None:
            if alone:
                raise _unknown(unit.place, [unit])
            return None
        return format.read(unit)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedFile(f"{unit.file} is damaged: {reason[:400]}", received=str(unit.path), fix=AGAIN) from error


def _unknown(place: Place, units: list[Unit]) -> FileError:
    held = sorted(units[0].names)[:8] if units else []
    return WrongEnding(
        "it is of no format that is read", received=f"{place.name}, with {', '.join(held)}"[:400], allowed=UNDERSTOOD
    )


def _made(
    unit: Unit, found: Found, model: Model | None, said: Said, watch: Mapping[str, Any] | None
) -> EncoderDictionary:
    read, write = _sites(unit, found, model, said)
    _check_parts(unit, found.parts)
    parts = _scaled(unit, found, said.scale)
    told = _plain(found.more)
    named = told.pop("name", None)
    told |= {"format": found.format, "source": f"{unit.place.name}" + ("" if unit.place.only else f"/{unit.file}")}
    told |= {"model name": found.model} if found.model else {}
    begins = found.bos if said.bos is None else said.bos
    told |= {} if begins is None else {"bos": bool(begins)}
    centred = (found.centred if said.centred is None else said.centred) and Site.parse(read).name in CENTRED
    told |= {"centred": True} if centred else {}
    own = (unit, read, write, told, named)
    dictionary = _dictionary(*own, folding.centred(parts) if centred else parts)
    if model is None:
        return dictionary
    check_model(dictionary, model, named=watch is not None)
    dictionary = _on(dictionary, model)
    if watch is None:
        return dictionary
    plain = _on(_dictionary(*own, parts), model) if centred else None
    return refuse_misplaced(dictionary, model, uncentred=plain, bos=told.get("bos"), **watch)


def _sites(unit: Unit, found: Found, model: Model | None, said: Said) -> tuple[str, str | None]:
    read, write = said.site or found.site, said.written or found.written
    if read is None:
        raise DirectionError(
            f"nothing says where {unit.file} reads",
            received=found.format,
            allowed="a site, such as resid_pre.6",
            fix="say it: site=",
        )
    if model is None:
        return str(Site.parse(read)), None if write is None else str(Site.parse(write))
    read, write = (None if x is None else _own_name(x, model) for x in (read, write))
    assert read is not None
    return read, write


def _own_name(site: str, model: Model) -> str:
    """A site of this model, by the name that is usual where two are the same tensor (`mlp_raw` is `mlp_out`)."""
    where = model.sites.parse(site)
    return str(Site(model.sites.aliases.get(where.name, where.name), where.layer))


def _scaled(unit: Unit, found: Found, scale: float | None) -> Parts:
    s = scale if scale is not None else found.scale
    if s is None:
        raise DirectionError(
            f"{unit.file} was trained on scaled inputs, and nothing says by how much",
            received="expected_average_only_in",
            allowed="a number: sqrt(d) over the mean length of its inputs",
            fix="say it: scale=",
        )
    return found.parts if s == 1.0 else folding.scaled(found.parts, s)


def _dictionary(
    unit: Unit, site: str, written: str | None, told: Mapping[str, Any], name: str | None, parts: Parts
) -> EncoderDictionary:
    own = None if written == site else written
    name = name or ("sae" if own is None else "transcoder")
    try:
        return EncoderDictionary(name=name, site=site, written=own, provenance=told, **parts)
    except (WrongWidth, DirectionError, TypeError) as error:
        raise DamagedFile(f"{unit.file} is damaged: {error}"[:600], received=str(unit.path), fix=AGAIN) from error


def _check_parts(unit: Unit, parts: Parts) -> None:
    k = parts.get("k", 1)
    if isinstance(k, bool) or not isinstance(k, int):
        raise DamagedFile(f"{unit.file} is damaged: topk takes a k that is a number", received=repr(k), fix=AGAIN)
    for name, x in parts.items():
        if isinstance(x, torch.Tensor) and not x.isfinite().all():
            wrong = int((~x.isfinite()).sum())
            raise NotFinite(
                f"{unit.file} has weights that are no numbers", received=f"{wrong} of {x.numel()} in {name}", fix=AGAIN
            )


def check_model(dictionary: EncoderDictionary, model: Model, *, named: bool = True) -> None:
    """Raises WrongWidth: another width than its sites'. WrongModel: of another model's weights, or (named) name."""
    for site, have in ((dictionary.site, dictionary.read.shape[1]), (dictionary.write_site, dictionary.write.shape[1])):
        where = model.sites.parse(site)
        width = model.sites.width(where) * (
            (model.sites.size(where, where.kind.axes[-2]) or 1) if dictionary.flat else 1
        )
        if have != width:
            raise WrongWidth(
                f"the dictionary is of another model: its width is not that of {site} here",
                received=f"width {have}" + _said(dictionary),
                allowed=f"width {width}, of {model.name}",
            )
    if not named:
        return
    hashed = dictionary.provenance.get("hash", dictionary.provenance.get("model"))
    told = dictionary.provenance.get("model name")
    if (hashed and hashed != model.hash) or (hashed is None and told and not _alike(str(told), model.name)):
        raise WrongModel(
            "the dictionary is of another model",
            received=str(told or hashed)[:100],
            allowed=model.name,
            fix="check=False, where that is meant",
        )


def _said(dictionary: EncoderDictionary) -> str:
    told = dictionary.provenance.get("model name")
    return f", said to be of {told}" if told else ""


def _alike(said: str, name: str) -> bool:
    """Whether two names may mean one model: a folder's name says nothing, and one may be the other's finetuned form."""
    if name.startswith((".", "/", "~")) or Path(name).exists():
        return True
    a, b = (text.lower().partition("@")[0].rpartition("/")[2].removesuffix("-small") for text in (said, name))
    return a.startswith(b) or b.startswith(a)


def _on(dictionary: EncoderDictionary, model: Model) -> EncoderDictionary:
    if model.device.type == "cpu":
        return dictionary
    held: dict[str, Any] = {part: getattr(dictionary, part) for part in (*PARTS, *MORE)}
    moved: dict[str, Any] = {part: None if x is None else x.to(model.device) for part, x in held.items()}
    return replace(dictionary, **moved)


def _plain(more: Mapping[str, Any]) -> dict[str, Any]:
    return {key: as_json({"x": value})["x"] for key, value in more.items()}


def _cross_layer(place: Place, model: Model | None, site: str | None, written: str | None) -> CrossLayer:
    try:
        found = cross_layer.read(place, site, written)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedFile(f"{place.name} is damaged: {error}"[:400], received=place.name, fix=AGAIN) from error
    for layer, dictionary in enumerate(found):
        for part in ("read", "write", "bias", "base", "threshold"):
            x = getattr(dictionary, part)
            if x is not None and not x.isfinite().all():
                raise NotFinite(f"layer {layer} has weights that are no numbers", received=part, fix=AGAIN)
        if model is not None:
            check_model(dictionary, model)
    return found
