"""The maps of a session's runs: read once, and kept while their runs are looked at."""

import json
import threading
from collections.abc import Callable, Sequence

import torch

from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.errors import Cancelled, UnknownLayer
from residscope.methods._lib.direct import direct_effects
from residscope.metrics import logit_diff
from residscope.session.compute import Held, Latest, top_tokens
from residscope.session.editing import find_run
from residscope.session.maps.attention import Head, attention
from residscope.session.maps.files import AttentionFile, LayerFile, MapFile, MapTensors, RowsLens, Stopped
from residscope.session.maps.layer import layer_file
from residscope.session.maps.reading import Mapped, read, streamed, without_heads
from residscope.session.maps.sums import Pair, Sum, head_sum, logit_sum, score_sum
from residscope.session.state import State, top
from residscope.world.loaded import Loaded
from residscope.world.values import Run, RunKey

Named = tuple[int | str, int | str | None]


class Maps:
    """The maps of the latest runs. now: the session's state. stream: a run's stream, which the session holds, or makes again."""

    def __init__(self, now: Callable[[], State], stream: Callable[[Loaded, Run, State], Held]) -> None:
        self._now, self._stream = now, stream
        self._turn = threading.Lock()  # around the model: two queries of one run do not both read it
        self._guard = threading.Lock()  # around what is held
        self._held: Latest[tuple[int, RunKey, int], Mapped] = Latest()
        self._reading, self._stops = 0, 0

    def clear(self) -> None:
        """Forget all, and stop what is being read."""
        with self._guard:
            self._held.clear()
            self._stops += 1

    def stop(self) -> Stopped:
        """Stop what is being read: whoever waits for it is refused with Cancelled."""
        with self._guard:
            self._stops += 1
            return {"stopped": self._reading}

    def map(self, run: str, *, positive: int, negative: int, pos: int = -1) -> MapFile:
        """Every part's direct effect on a logit difference at one position of a run, and every head's pattern made small.

        The sum of embed, attn, mlp and the other terms is the metric of the run's own logits (`rs.direct_attribution`).

        Raises:
            NotFound, UnknownPosition, UnknownToken, Cancelled. As `rs.direct_attribution`.
        """
        mapped, model = self._mapped(run, pos)
        recording, at = mapped.recording, mapped.recording.offset
        metric = logit_diff(model.token_id(positive), model.token_id(negative), pos=at)
        effects = direct_effects(recording, metric, at, heads="z" in model.sites.names)
        terms = {name: float(x[0, 0]) for name, x in effects.components.items() if "_out." not in name}
        attn = effects.attn[:, 0, 0].float()
        none = attn.new_zeros(model.n_layers, model.n_heads)  # of a model whose heads are not seen
        tensors: MapTensors = {
            "attn": attn,
            "heads": none if effects.heads is None else effects.heads[:, :, 0, 0].float(),
            "attn_bias": attn if effects.attn_bias is None else effects.attn_bias[:, 0, 0].float(),
        }
        if effects.mlp is not None:
            tensors["mlp"] = effects.mlp[:, 0, 0].float()
        if mapped.thumbs is not None:
            tensors["thumbs"] = mapped.thumbs
        if mapped.looks is not None:
            tensors["looks"] = mapped.looks
        value, lacking = float(effects.metric[0, 0]), without_heads(model)
        where, whole = json.dumps(at), json.dumps(value)
        return MapFile.of(
            tensors, {"pos": where, "metric": whole, "terms": json.dumps(terms), "absent": json.dumps(lacking)}
        )

    def layer(
        self, run: str, *, layer: int, positive: int, negative: int, pos: int = -1, neurons: bool = True
    ) -> LayerFile:
        """One layer of a run in full: patterns, lengths of z, every site with its shape, and, unless not asked for, the strongest
        neurons by direct effect.

        Raises:
            NotFound, UnknownLayer, UnknownPosition, Cancelled. As `rs.direct_attribution`.
        """
        whole, model = self._run(run)
        at = whole.index(pos)
        if not 0 <= layer < model.n_layers:
            n = model.n_layers
            raise UnknownLayer(f"the model has {n} layers", received=layer, allowed=f"0 to {n - 1}")
        if not neurons or not model.sites.has("mlp_post", layer):
            return layer_file(whole, layer, at)
        metric = logit_diff(model.token_id(positive), model.token_id(negative), pos=at)
        return layer_file(whole, layer, at, metric=metric, row=self._mapped(run, pos)[0].recording)

    def attention(
        self, run: str, heads: Sequence[Head], *, over: str = "mean", weighted: bool = False
    ) -> AttentionFile:
        """The pattern of some heads of a run, in full; of several as one. Raises NotFound, and as `attention`."""
        whole, _ = self._run(run)
        pattern = attention(whole, heads, over=over, weighted=weighted)
        return AttentionFile.of({"pattern": pattern.float()}, {"heads": json.dumps([*heads])})

    def logit_sum(self, run: str, pair: Named, *, row: int | None, pos: int) -> Sum:
        """`logit_sum` of a run, its tokens by id or as text. Raises NotFound, UnknownToken, and as it does."""
        state = self._now()
        found, (whole, model) = find_run(state, run), self._run(run)
        made = state.world().on(found.prompt).made(found.active)
        return logit_sum(whole, made, _ids(model, pair), row=row, pos=pos)

    def head_sum(self, run: str, pair: Named, layer: int, head: int, *, pos: int) -> Sum:
        whole, model = self._run(run)
        return head_sum(whole, _ids(model, pair), layer, head, pos=pos)

    def score_sum(self, run: str, layer: int, head: int, *, query: int, key: int) -> Sum:
        return score_sum(self._run(run)[0], layer, head, query=query, key=key)

    def lens(self, run: str, *, pos: int = -1) -> RowsLens:
        """The likeliest token of the logit lens at each row of one position: `embed`, then what each layer leaves.

        Raises NotFound, UnknownPosition, Cancelled.
        """
        mapped, model = self._mapped(run, pos)
        recording, n = mapped.recording, model.n_layers
        rows = [recording[f"resid_pre.{layer}"][0, 0] for layer in range(n)]
        found = model.lens(torch.stack(rows)).float()
        last = recording.logits_at(recording.offset)[:1].float()
        best = [top_tokens(model, logits, 1) for logits in torch.cat([found, last.to(found)])]
        return {"top": [one for row in best for one in top(row)]}

    def _run(self, run: str) -> tuple[Recording, Model]:
        """A run by its stream."""
        state = self._now()
        found = find_run(state, run)
        loaded = state.loaded_of(found)
        model, held = loaded.model, self._stream(loaded, found, state)
        with self._guard:
            mapped = [one.recording for key, one in self._held.items() if key[:2] == (id(model), found.key)]
        if mapped and mapped[0].version == held.version == model.weights_version():
            return streamed(mapped[0], held.rows), model
        ids, edits = list(found.prompt.ids), state.world().on(found.prompt).made(found.active)
        if held.version != model.weights_version():  # the model was changed since: its stream is another
            return model.run(ids, "resid_pre", edits=edits), model
        return streamed(model.run(ids, "resid_pre.0", edits=edits), held.rows), model

    def _mapped(self, run: str, pos: int) -> tuple[Mapped, Model]:
        state = self._now()
        found = find_run(state, run)
        loaded = state.loaded_of(found)
        length = len(found.prompt.ids)
        key = id(loaded.model), found.key, pos + length if pos < 0 else pos
        with self._guard:
            stops = self._stops
            self._reading += 1
        try:
            with self._turn:
                self._going_on(stops)
                with self._guard:
                    mapped = self._held.get(key)
                if mapped is None or mapped.recording.stale:
                    whole, _ = self._run(run)
                    mapped = read(whole, whole.index(pos), lambda: self._going_on(stops, run))
                    with self._guard:
                        self._going_on(stops)
                        self._held.put(key, mapped)
        finally:
            with self._guard:
                self._reading -= 1
        return mapped, loaded.model

    def _going_on(self, stops: int, run: str | None = None) -> None:
        """Whether it is still wanted: nobody stopped it, and no other waits while its run is shown no more. Raises Cancelled."""
        state = self._now()
        passed = run is not None and run not in (state.a, state.b) and self._reading > 1
        if passed or stops != self._stops:
            raise Cancelled("the map was not read to its end", fix="ask for it again")


def _ids(model: Model, pair: Named) -> Pair:
    """Raises UnknownToken."""
    positive, negative = pair
    return model.token_id(positive), None if negative is None else model.token_id(negative)
