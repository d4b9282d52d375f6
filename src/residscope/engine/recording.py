"""Recordings: what a run left at the sites asked for; everything else is recomputed from that, on demand."""

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.forward import forward
from residscope.engine.protocols import Edit, overlays_of
from residscope.engine.turns import in_turn, lock_of
from residscope.engine.windows import Window
from residscope.errors import NotRecorded, RecordingError, UnknownPosition, WeightsChanged, WrongModel
from residscope.items import save_item
from residscope.model.prompts import Batch
from residscope.model.sites import Site, SiteTable, rank
from residscope.views import Grid

if TYPE_CHECKING:
    from residscope.engine.model import Model

FINAL_NORM, LOGITS = Site("final_norm"), Site("logits")


class Recording:
    """The values of one run, by site.

        rec["resid_post.10"]      rec["resid_post", 10]      rec[Site("resid_post", 10)]

    A site that was not captured is recomputed, one block at a time, from the nearest captured `resid_pre` below it, with
    the run's own edits, and then kept. That is refused once the weights have changed.
    """

    kind: ClassVar[str] = "recording"

    def __init__(
        self,
        model: "Model",
        batch: Batch,
        values: dict[Site, Tensor],
        *,
        edits: Sequence[Edit] = (),
        window: Window | None = None,
        unedited: dict[Site, Tensor] | None = None,
        weights: tuple[int, ...] = (),
    ) -> None:
        self.model = model
        self.batch = batch
        self.edits = tuple(edits)
        self.window = window
        self.readout: Tensor | None = None
        self._values = dict(values)
        self.unedited = dict(unedited or {})
        self._weights = weights

    @property
    def tokens(self) -> Int[Tensor, "batch pos"]:
        """Token ids, right-padded; `lengths` says where each row ends."""
        return self.batch.ids

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.batch.lengths

    @property
    def offset(self) -> int:
        """The position that index 0 of the tensors stands for: not 0 for a window over the later positions."""
        return 0 if self.window is None else self.window.pos

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites it holds now."""
        return tuple(sorted(self._values, key=lambda site: (rank(site, self.model.n_layers), site.name)))

    @property
    def held(self) -> dict[Site, Tensor]:
        """What it holds now, by site; nothing is recomputed."""
        return dict(self._values)

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes, each storage counted once."""
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in self._values.values()}
        return sum(storages.values())

    @property
    def provenance(self) -> dict[str, Any]:
        """The model as it is now, the sites held, how many prompts, and how many edits they ran under."""
        facts = {"prompts": len(self.batch), "edits": len(self.edits), "sites": [str(site) for site in self.sites]}
        return {**self.model.provenance, **facts}

    def view(self) -> Grid:
        """How long the stream is at each token, layer by layer, where it is held; and what else is. Nothing is recomputed."""
        from residscope.engine.recording_view import shown

        return shown(self)

    def save(self, path: str | Path) -> None:
        """`rs.save_recording`; a page for `x.html`, a figure for `x.png`, `.svg`, `.pdf`."""
        save_item(self, path, lambda place: _room().save_recording(self, place))

    @classmethod
    def load(cls, path: str | Path, model: "Model | None" = None) -> "Recording":
        """`rs.load_recording`: on the model it is of. Raises WrongModel where none is given."""
        if model is None:
            raise WrongModel(
                "a recording is read on the model it is of, and none is given",
                received="no model",
                fix="Recording.load(path, model)",
            )
        recording: Recording = _room().load_recording(path, model)
        return recording

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()

    def __getitem__(self, key: str | Site | tuple[str, int]) -> Tensor:
        """The value at a site, of the site's own shape.

        Raises:
            UnknownSite, UnknownLayer, AbsentSite: no such place. NotRecorded: below the window this run took.
            WeightsChanged: it would have to be recomputed with other weights.
        """
        if isinstance(key, tuple):
            key = Site(*key)
        site = self.model.sites.canonical(key)
        return self.several([site])[site]

    def several(self, sites: Iterable[str | Site]) -> dict[Site, Tensor]:
        """The values at some sites, by their canonical names; what is not held is recomputed in one pass. Raises as `[]` does."""
        wanted = dict.fromkeys(self.model.sites.canonical(site) for site in sites)
        if missing := [site for site in wanted if site not in self._values]:
            self._values.update(self._recompute(missing))
        return {site: self._values[site] for site in wanted}

    @property
    def logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        return self["logits"]

    def logits_at(
        self, pos: int = -1, ids: Sequence[int] | None = None, *, rows: Sequence[int] | None = None
    ) -> Float[Tensor, "row column"]:
        """The run's logits at one position of each row (-1: its own end), of all tokens or of `ids`.

        Only those are computed, unless the logits are held already. rows: of some rows, all unless said.
        Raises UnknownPosition.
        """
        chosen = range(len(self.batch)) if rows is None else rows
        index = [self.index(pos, row) for row in chosen]
        if self._whole_logits():
            logits = self.logits[list(chosen), index]
            return logits if ids is None else logits[:, list(ids)]
        first = min(index)
        normed = self._final_norm(first)[list(chosen), [i - first for i in index]]
        return self.unembed(normed, ids)

    def logits_of(self, ids: Sequence[int]) -> Float[Tensor, "batch pos column"]:
        """The run's logits of some tokens at every position; of the others nothing is computed, unless they are held."""
        if self._whole_logits():
            return self.logits[..., list(ids)]
        return self.unembed(self._final_norm(0), ids)

    def keeping(self, *sites: str | Site) -> "Recording":
        """The same run with these sites alone held, computed if need be: what is left is recomputed from them."""
        values = {self.model.sites.canonical(site): self[site].clone() for site in sites}
        return Recording(
            self.model,
            self.batch,
            values,
            edits=self.edits,
            window=self.window,
            unedited=self.unedited,
            weights=self.version,
        )

    def holding(self, sites: Iterable[str | Site]) -> "Recording":
        """The same run with these of its values alone, which are not copied: what else is asked of it is kept by neither."""
        wanted = [self.model.sites.canonical(site) for site in sites]
        values = {site: self._values[site] for site in wanted if site in self._values}
        return Recording(
            self.model,
            self.batch,
            values,
            edits=self.edits,
            window=self.window,
            unedited=self.unedited,
            weights=self.version,
        )

    def logits_in_parts(self, size: int = 256) -> Iterator[Float[Tensor, "batch pos d_vocab"]]:
        """The run's logits, so many positions at a time, so that those of a long prompt need not be held at once."""
        length = self.tokens.shape[1] - self.offset
        source = self.logits if self._whole_logits() else self._final_norm(0)
        for first in range(0, length, size):
            part = source[:, first : first + size]
            yield part if self._whole_logits() else self.unembed(part)

    def _whole_logits(self) -> bool:
        """Whether logits are read where the run has them: because it holds them, or edits them."""
        table = self.model.sites
        return LOGITS in self._values or any(LOGITS in edit.places(table) for edit in self.edits)

    def _final_norm(self, first: int) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the final norm, from an index on."""
        if FINAL_NORM in self._values:
            return self._values[FINAL_NORM][:, first:]
        n = self.model.n_layers
        with in_turn(self.model.hf):
            _ = self[_stream(n, n)]  # computed now, with all that the window must start from
            self._refuse_stale([FINAL_NORM])
            return self._forward([FINAL_NORM], self._from(n, first + self.offset))[FINAL_NORM]

    def unembed(
        self, x: Float[Tensor, "*batch d_model"], ids: Sequence[int] | None = None
    ) -> Float[Tensor, "*batch column"]:
        """The logits of a stream after the final norm, under the run's own weight changes; of all tokens or of `ids`."""
        self._refuse_stale([LOGITS])
        with lock_of(self.model.hf), torch.set_grad_enabled(x.requires_grad):
            return self.model.layout.logits(x, ids, overlays_of(self.edits, self.model.layout))

    def stack(self, name: str) -> Float[Tensor, "layer batch pos ..."]:
        """Every layer's value at the sites of one name: `rec.stack("resid_pre")`.

        Raises RecordingError: they are of several shapes, as where layers differ in their heads.
        """
        values = [*self.several(self.model.sites.expand(name)).values()]
        if len(shapes := {tuple(x.shape) for x in values}) > 1:
            raise RecordingError(
                f"the layers' {name} are of several shapes, so they make no one tensor",
                received=" and ".join(map(str, sorted(shapes))),
                fix=f"read one layer's: rec[{name!r}, layer]",
            )
        return torch.stack([x.to(values[0].device) for x in values])  # blocks may stand on several devices

    def project(self, direction: Any, *, space: str | None = None) -> Float[Tensor, "batch pos"]:
        """The direction's coordinate at its own site, and of its own head; see `Direction.project`."""
        x = self[direction.site]
        return direction.project(
            x if direction.head is None else x[:, :, direction.head], space=space, model=self.model
        )

    def top(self, k: int = 10, *, pos: int = -1, row: int = 0) -> list[tuple[str, int, float]]:
        """The k likeliest next tokens at a position, as (text, id, probability); -1 is the row's own end."""
        probs = self.logits_at(pos, rows=[row])[0].float().softmax(-1)
        p, ids = probs.topk(min(k, probs.shape[-1]))
        return list(zip(self.model.token_texts(ids.tolist()), ids.tolist(), p.tolist(), strict=True))

    def index(self, pos: int, row: int = 0) -> int:
        """Where a position of a row stands in the tensors; negative ones count from the row's own end."""
        length = self.lengths[row]
        if not isinstance(pos, SupportsIndex):
            raise UnknownPosition(
                "a position is counted here", received=repr(pos)[:80], allowed=f"{-length} to {length - 1}"
            )
        place = (pos + length if pos < 0 else pos) - self.offset
        if not 0 <= place < length - self.offset:
            raise UnknownPosition(
                f"row {row} holds positions {self.offset} to {length - 1}",
                received=f"pos={pos}",
                allowed="a position it holds",
            )
        return place

    def keys_values(self, pos: int, *, start: int = 0, stop: int | None = None) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values of the first `pos` positions at layers start to stop, each [batch kv_head pos d_head] as in a cache."""
        last = self.model.n_layers - 1 if stop is None else stop
        layers = range(start, last + 1)
        held = self.several(Site(name, layer) for layer in layers for name in ("k", "v"))
        k, v = ([held[Site(name, layer)].transpose(1, 2)[:, :, :pos] for layer in layers] for name in ("k", "v"))
        return dict(zip(layers, zip(k, v, strict=True), strict=True))

    @property
    def version(self) -> tuple[int, ...]:
        """The model's version that it was recorded on; see `Model.weights_version`."""
        return self._weights

    @property
    def stale(self) -> bool:
        """Whether the model's weights have changed since this run."""
        return self.model.weights_version() != self._weights

    def _recompute(self, sites: list[Site]) -> dict[Site, Tensor]:
        """Run the blocks these sites stand in once more, from the nearest stream held below them."""
        with in_turn(self.model.hf):
            self._refuse_stale(sites)
            n, window = self.model.n_layers, self.window
            first = min(max(rank(site, n), 0) for site in sites)
            lowest = 0 if window is None else window.start
            if first < lowest:
                raise NotRecorded(
                    "below the window this run took",
                    received=", ".join(map(str, sites)),
                    allowed=f"layers {lowest} and up",
                    fix="run without a window, or read it from the window's base",
                )
            start = max((a for a in range(lowest, first + 1) if _stream(a, n) in self._values), default=lowest)
            if self.model.layout.fed and acts_early(self.edits, self.model.sites):
                start = lowest
            if start > lowest:
                window = self._from(start, self.offset)
            return self._forward(sites, window)

    def _refuse_stale(self, sites: Sequence[Site]) -> None:
        if self.stale:
            raise WeightsChanged(
                "the model has changed since this run",
                received=", ".join(map(str, sites)),
                allowed="the sites captured: " + (", ".join(map(str, self.sites)) or "none"),
                fix="run the prompt again, or capture these sites in the first place",
            )

    def _from(self, start: int, pos: int) -> Window:
        """This run from a layer and a position on: the streams it holds, and the keys and values before."""
        return Window(self if self.window is None else _Rebased(self), start, None, pos)

    def _forward(self, sites: Sequence[Site], window: Window | None) -> dict[Site, Tensor]:
        """More of this run; without a window of `_from`, the whole of it again."""
        again = window is self.window
        own, earlier = (self.edits, ()) if again else ((), self.edits)
        return forward(
            self.model.layout,
            self.batch,
            capture=sites,
            edits=own,
            earlier=earlier,
            window=window,
            unedited=self.unedited,
        )


def acts_early(edits: Iterable[Edit], table: SiteTable) -> bool:
    """Whether edits act in front of the first block: what else than the stream blocks are given is then another."""
    return any(
        rank(site, table.sizes.n_layers) < 0 for edit in edits for site in edit.places(table) if site.layer is None
    )


def _room() -> Any:
    """Recordings in files: a room above this one, since runs have edits."""
    return import_module("residscope.recording_files")


class _Rebased:
    """A windowed recording as the base of another window: its own stream, its base's keys and values."""

    def __init__(self, recording: Recording) -> None:
        self.model, self.tokens, self._recording = recording.model, recording.tokens, recording

    def __getitem__(self, site: Site) -> Tensor:
        window = self._recording.window
        assert window is not None
        n = self.model.n_layers
        if window.start and rank(site, n) < window.start and site != _stream(window.start, n):
            return window.base[site]  # below the window nothing differs from its base
        own = self._recording[site]
        return torch.cat([own.new_zeros(own.shape[0], window.pos, *own.shape[2:]), own], 1)

    def keys_values(self, pos: int, *, start: int = 0, stop: int | None = None) -> dict[int, tuple[Tensor, Tensor]]:
        assert self._recording.window is not None
        return self._recording.window.base.keys_values(pos, start=start, stop=stop)


def _stream(layer: int, n_layers: int) -> Site:
    """The stream before a block; after the last one for layer n_layers."""
    return Site("resid_pre", layer) if layer < n_layers else Site("resid_post", n_layers - 1)
