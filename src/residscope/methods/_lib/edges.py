"""The edges of a transformer: who writes to the stream, and who reads what was written before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits
from residscope.edits.paths import read_from, written
from residscope.engine.model import Model
from residscope.engine.protocols import Edit
from residscope.errors import BadSweep
from residscope.model.sites import Site
from residscope.results import Result

NODES = ("every", "heads")
READS = ("all", "q", "k", "v", "each")
LOGITS = Site("final_norm")


@dataclass(frozen=True)
class Sender:
    """What writes to the stream: a head's z, an MLP, the token embedding."""

    site: Site
    head: int | None = None

    @property
    def label(self) -> str:
        if self.site.layer is None:
            return self.site.name
        return f"mlp {self.site.layer}" if self.head is None else f"{self.site.layer}.{self.head}"


@dataclass(frozen=True)
class Receiver:
    """What reads the stream: a head through some of its queries, keys and values (`reads`), an MLP, the final norm."""

    site: Site
    head: int | None = None
    reads: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        if self.site == LOGITS:
            return "logits"
        if self.head is None:
            return f"mlp {self.site.layer}"
        return f"{self.site.layer}.{self.head}" + (f" {self.reads[0]}" if len(self.reads) == 1 else "")

    @property
    def ends(self) -> list[Site]:
        """The sites it reads the stream by."""
        return [Site(read, self.site.layer) for read in self.reads] or [self.site]


@dataclass(frozen=True)
class Edges:
    """Senders and receivers in the order of the forward pass."""

    senders: tuple[Sender, ...]
    receivers: tuple[Receiver, ...]
    model: Model

    def joined(self, sender: Sender, receiver: Receiver) -> bool:
        """Whether the receiver reads what the sender writes."""
        return written(sender.site) < read_from(receiver.ends[0], self.model.sites)

    def into(self, receiver: Receiver) -> list[int]:
        """Which of the senders it reads."""
        return [i for i, sender in enumerate(self.senders) if self.joined(sender, receiver)]

    def groups(self) -> list[list[int]]:
        """Receivers that read together: the heads of a layer through one input, an MLP, the logits."""
        found: dict[Any, list[int]] = {}
        for i, receiver in enumerate(self.receivers):
            found.setdefault((receiver.site, receiver.reads), []).append(i)
        return [group for group in found.values() if self.into(self.receivers[group[0]])]

    @property
    def count(self) -> int:
        """How many edges there are."""
        return sum(len(group) * len(self.into(self.receivers[group[0]])) for group in self.groups())

    def path(self, sender: Sender, receiver: Receiver, source: Mapping[str, Tensor]) -> list[Edit]:
        """The sender's other value, as the receiver's site reads it: all its heads."""
        site = str(sender.site)
        return [edits.path(site, str(end), {site: source[site]}, sender_head=sender.head) for end in receiver.ends]


def edges_of(
    model: Model, *, nodes: str = "every", read: str = "all", senders: Sequence[int] | None = None,
    receivers: Sequence[int] | None = None,
) -> Edges:  # fmt: skip
    """The edges between the heads of a model, or between every part of it; of some layers. Raises BadSweep."""
    if nodes not in NODES or read not in READS:
        raise BadSweep(
            "no such edges", received=f"nodes={nodes!r}, read={read!r}",
            allowed=f"nodes: {', '.join(NODES)}; read: {', '.join(READS)}",
        )  # fmt: skip
    for layers in (senders, receivers):
        if layers is not None and (strange := {*layers} - {*range(model.n_layers)}):
            raise BadSweep("no such layers", received=str(sorted(strange)), allowed=f"0 to {model.n_layers - 1}")
    every = nodes == "every"
    mlps = every and "mlp_out" not in model.sites.absent
    reads = {"all": (("q", "k", "v"),), "each": (("q",), ("k",), ("v",))}.get(read, ((read,),))
    from_, to = [], []
    if every and senders is None:
        from_.append(Sender(Site("embed")))
    for layer in range(model.n_layers):
        if senders is None or layer in senders:
            from_ += [Sender(Site("z", layer), head) for head in range(model.n_heads)]
            from_ += [Sender(Site("mlp_out", layer))] if mlps else []
        if receivers is None or layer in receivers:
            to += [Receiver(Site("z", layer), head, r) for head in range(model.n_heads) for r in reads]
            to += [Receiver(Site("mlp_in", layer))] if mlps else []
    if every and receivers is None:
        to.append(Receiver(LOGITS))
    return Edges(tuple(from_), tuple(to), model)


def unknown(edges: Edges, prompts: int) -> Float[Tensor, "sender receiver prompt"]:
    """NaN for each edge, zero where there is none."""
    values = torch.zeros(len(edges.senders), len(edges.receivers), prompts, dtype=torch.float64)
    for group in edges.groups():
        for row in edges.into(edges.receivers[group[0]]):
            values[row, group] = float("nan")
    return values


def table(
    edges: Edges, values: Float[Tensor, "sender receiver prompt"], *, name: str, unit: str, about: Mapping[str, Any],
    exact: bool | str = True,
) -> Result:  # fmt: skip
    """A number for each edge over sender and receiver, and prompt where there are several."""
    several = values.shape[2] > 1
    return Result(
        values if several else values[..., 0],
        ("sender", "receiver", "prompt") if several else ("sender", "receiver"),
        {"sender": [s.label for s in edges.senders], "receiver": [r.label for r in edges.receivers]},
        name=name, unit=unit, exact=exact, provenance=about,
    )  # fmt: skip
