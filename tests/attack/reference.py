"""The reference: what a stack of edits, as plain data, makes of each prompt. Shares no code with the engine or the edits."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attack.forward import forward
from attack.meaning import Here, Values, changed, isolated, positions, taken, where
from attack.wiring import Wiring, matrix_of, wire

Stack = Sequence[Mapping[str, Any]]


class Reached(Exception):
    """A second reading has come to its receiver."""


def recorded(wiring: Wiring, ids: list[int]) -> Values:
    """Every site of the unedited run of one prompt."""
    found: Values = {}

    def tap(site: str, value: Tensor) -> Tensor:
        found[wiring.canonical(site)] = value.clone()
        return value

    forward(wiring, ids, tap)
    return found


class Reference:
    """A stack of edits on some prompts, of one model; values by site for each prompt, each without padding."""

    def __init__(self, hf: Any) -> None:
        self.wiring = wire(hf)
        self.second = wire(hf)  # for a second reading while a forward is under way
        self._plain: dict[tuple[int, ...], Values] = {}

    def unedited(self, ids: Sequence[int]) -> Values:
        key = tuple(ids)
        if key not in self._plain:
            self._plain[key] = recorded(self.wiring, list(ids))
        return self._plain[key]

    def runs(
        self, rows: Sequence[Sequence[int]], stack: Stack, *, prompts: Sequence[int] | None = None
    ) -> list[Values]:
        """Values by canonical site, a dictionary for each prompt. `prompts`: how long each prompt was, before tokens came."""
        data = {}
        for number, spec in enumerate(stack):
            tokens = spec.get("source") or spec.get("over")
            if tokens is not None:
                edited = spec.get("source_stack")
                values = [self.unedited(t) for t in tokens] if edited is None else self.runs(tokens, edited)
                data[number] = (values, [list(t) for t in tokens])
        found = []
        for row, ids in enumerate(rows):
            prompt = None if prompts is None else prompts[row]
            here = Here(self.wiring, row, len(rows), list(ids), self.unedited(ids[:prompt]), data, prompt=prompt)
            with overlaid(self.wiring, stack), overlaid(self.second, stack):
                found.append(self._run(here, stack))
        return found

    def _run(self, here: Here, stack: Stack) -> Values:
        acts = by_site(self.wiring, stack)

        def tap(site: str, value: Tensor) -> Tensor:
            site = self.wiring.canonical(site)
            here.hide(site, value)
            for act in acts.get(site, ()):
                value = self._after(act, site, value, here, acts)
            here.seen[site] = value.clone()
            return value

        forward(self.wiring, here.ids, tap)
        return here.seen

    def _after(self, act: Any, site: str, value: Tensor, here: Here, acts: Mapping[str, Any]) -> Tensor:
        new = self._edited(act, site, value, here, acts)
        if "key" not in self.wiring.axes(site):
            return new
        return torch.where(here.hidden[site.partition(".")[2]], value, new)  # what a query cannot see stays unseen

    def _edited(self, act: Any, site: str, value: Tensor, here: Here, acts: Mapping[str, Any]) -> Tensor:
        kind = act[0][1]["kind"]
        if kind == "isolate":
            return isolated(act, site, value, here)
        if kind == "path":
            return self._received(act, site, value, here, acts)
        ((number, spec),) = act
        return changed(spec, number, site, value, here)

    # ── paths ───────────────────────────────────────────────────────────────────────────────────────────────

    def _received(self, act: Any, site: str, value: Tensor, here: Here, acts: Mapping[str, Any]) -> Tensor:
        """Each head of a receiver as it would be, had it read the stream with the sum of its own senders' changes."""
        axes, new = self.wiring.axes(site), value.clone()
        axis = next((i for i, name in enumerate(axes) if name in ("head", "kv_head")), None)
        for head in range(1 if axis is None else value.shape[axis]):
            own = [
                (number, spec) for number, spec in act
                if axis is None or (heads := spec.get(axes[axis])) is None or head in heads
            ]  # fmt: skip
            if not own:
                continue
            stream = here.seen[self._stream_of(site)]
            for number, spec in own:
                stream = stream + self._sent(number, spec, here, acts)
            read = self._reread(site, stream, here, acts)
            mask = torch.zeros(value.shape, dtype=torch.bool)
            for _, spec in own:
                mask[:, positions(spec, here)] = True
            if axis is not None:
                only = torch.zeros(value.shape[axis], dtype=torch.bool)
                only[head] = True
                mask = mask & only.view([-1 if i == axis else 1 for i in range(value.ndim)])
            new = torch.where(mask, read, new)
        return new

    def _stream_of(self, receiver: str) -> str:
        name, _, layer = receiver.partition(".")
        if name == "final_norm":
            return f"resid_post.{self.wiring.n_layers - 1}"
        return f"resid_mid.{layer}" if name == "mlp_in" and "resid_mid" in self.wiring.names else f"resid_pre.{layer}"

    def _sent(self, number: int, spec: Mapping[str, Any], here: Here, acts: Mapping[str, Any]) -> Tensor:
        """The sender's write under the source less its write in this run."""
        w = self.wiring
        site = w.canonical(spec["sender"])
        seen = here.seen[site]
        change = taken(spec, number, site, seen, here) - seen
        mask = where({"kind": "path", "head": spec.get("sender_head"), "pos": spec.get("pos")}, site, seen, here)
        change = torch.where(mask, change, torch.zeros_like(change))
        name, _, layer = site.partition(".")
        if name != "z":
            return change
        parts = w.blocks[int(layer)]
        W = matrix_of(parts.attn_proj)
        write = change.flatten(2) @ W
        if parts.attn_post_norm is not None:
            raw = here.seen[f"attn_raw.{layer}"]
            write = self._post_normed(int(layer), raw + write, here, acts) - self._post_normed(
                int(layer), raw, here, acts
            )
        return write * w.factors.residual

    def _post_normed(self, layer: int, x: Tensor, here: Here, acts: Mapping[str, Any]) -> Tensor:
        """The norm after attention, of x, with the run's own edits of its divisor: a forward in which it reads x."""
        norm, got = self.second.blocks[layer].attn_post_norm, []
        handle = norm.register_forward_hook(lambda module, args, output: got.append(output))
        try:
            self._second(f"attn_out.{layer}", (norm, x), here, acts)
        finally:
            handle.remove()
        return got[-1]

    def _reread(self, site: str, stream: Tensor, here: Here, acts: Mapping[str, Any]) -> Tensor:
        """The receiver in a forward whose branch reads this stream."""
        name, _, layer = site.partition(".")
        if name == "final_norm":
            return self._second(site, (self.second.module(self.wiring.family.final_norm), stream), here, acts)
        parts = self.second.blocks[int(layer)]
        if name != "mlp_in":
            reader = parts.attn_norm or parts.attn
        elif parts.mlp_norm is None and "resid_mid" not in self.wiring.names:
            reader = parts.attn_norm
        else:
            reader = parts.mlp_norm or parts.mlp
        return self._second(site, (reader, stream), here, acts)

    def _second(self, goal: str, reader: tuple[Any, Tensor], here: Here, acts: Mapping[str, Any]) -> Tensor:
        """The value at a site, before its own edits, in a forward where one module reads something else; paths sleep."""
        goal, got = self.wiring.canonical(goal), []
        before = dict(here.seen)

        def tap(site: str, value: Tensor) -> Tensor:
            site = self.wiring.canonical(site)
            if site == goal:
                got.append(value.clone())
                raise Reached
            here.hide(site, value)
            for act in acts.get(site, ()):
                if act[0][1]["kind"] != "path":
                    value = self._after(act, site, value, here, acts)
            return value

        try:
            forward(self.second, here.ids, tap, reader=reader)
        except Reached:
            pass
        finally:
            here.seen = before
        return got[0]


def by_site(wiring: Wiring, stack: Stack) -> dict[str, list[list[tuple[int, Mapping[str, Any]]]]]:
    """What acts at each site, in order. Isolates that meet act as one, and so do paths, in the place of the first."""
    found: dict[str, list[list[tuple[int, Mapping[str, Any]]]]] = {}
    for number, spec in enumerate(stack):
        if spec["kind"] == "overlay":
            continue
        for site in wiring.expand(spec["site"]):
            acts = found.setdefault(site, [])
            first = next((act for act in acts if act[0][1]["kind"] == spec["kind"]), None)
            if first is not None and spec["kind"] in ("isolate", "path"):
                first.append((number, spec))
            else:
                acts.append([(number, spec)])
    return found


@contextmanager
def overlaid(wiring: Wiring, stack: Stack) -> Iterator[None]:
    """W + A B in the place of a module's weight, of that module alone."""
    undo = []
    try:
        for spec in stack:
            if spec["kind"] == "overlay":
                module = wiring.module(spec["site"].removesuffix(".weight"))
                old, change = module.weight, spec["A"] @ spec["B"]
                first = old.shape == change.shape and (
                    isinstance(module, torch.nn.Embedding) or type(module).__name__ == "Conv1D"
                )
                new = torch.nn.Parameter(old.detach() + (change if first else change.T), requires_grad=False)
                undo.append(partial(setattr, module, "weight", old))
                module.weight = new
        yield
    finally:
        for put_back in reversed(undo):
            put_back()
