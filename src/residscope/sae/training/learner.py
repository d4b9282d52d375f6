"""One dictionary that is learning: its parameters, one step of them, and what it is at any moment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import EncoderDictionary
from residscope.errors import TrainingDiverged
from residscope.sae.training.active import Entries, true_at
from residscope.sae.training.adam import WARM, Adam
from residscope.sae.training.choose import Products
from residscope.sae.training.group import ALONE, Group
from residscope.sae.training.kinds import Gated, JumpReLU, kind_of
from residscope.sae.training.plan import Plan, usual_rate

AUX = 1 / 32  # weight of the auxiliary loss
DEAD = 10_000_000  # tokens without being active, or a twentieth of the budget
AROUND = 4096  # vectors that the geometric median is taken of


@dataclass(frozen=True)
class Seen:
    """One step: the FVU of its batch, how many features were active at a token, and the share of those that are dead."""

    fvu: float
    l0: float
    dead: float
    grad: float


class Learner:
    """A dictionary of `plan`, learning in `steps` steps; its inputs have a mean square length of 1.

        p = W_enc (x - c) + b_enc      y' = W_dec a + b_dec (+ W_skip (x - c))      loss = mean |y' - y|^2 + penalties

    c is b_dec for an autoencoder and stays the inputs' geometric median for a transcoder. Rows of W_dec have length 1.
    """

    def __init__(self, plan: Plan, steps: int, budget: int, *, group: Group = ALONE) -> None:
        if plan.lr is None:
            plan = replace(plan, lr=usual_rate(plan.features, steps))
        self.plan, self.steps, self.group = plan, steps, group
        self.kind = kind_of(plan, group)
        self.patience = min(DEAD, max(1, budget // 20))
        self.parameters: dict[str, Tensor] = {}
        self.number = 0

    # ── the start ───────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, x: Float[Tensor, "n d_read"], y: Float[Tensor, "n d_write"]) -> None:
        """Parameters from the first vectors, the same in every process."""
        plan, draw = self.plan, torch.Generator().manual_seed(self.plan.seed)
        rows = torch.randn(plan.features, y.shape[1], generator=draw).to(x)
        base = geometric_median(y[:AROUND])
        self.centre = geometric_median(x[:AROUND]) if plan.transcoder else base
        W_dec = unit(rows)
        W_enc = W_dec.clone()
        if plan.transcoder:
            W_enc = unit(torch.randn(plan.features, x.shape[1], generator=draw).to(x))
            W_dec = unit(W_enc @ ((x - self.centre).T @ (y - base)) + 1e-6 * rows)
        self.parameters = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": x.new_zeros(plan.features), "b_dec": base.clone()}
        if plan.skip:
            self.parameters["W_skip"] = x.new_zeros(y.shape[1], x.shape[1])
        self.kind.begin(self.parameters, self._products(x[:AROUND] - self.centre))
        self._ready(x.device)

    def _ready(self, device: torch.device) -> None:
        self.adam = Adam(self.parameters, self.plan.lr or 0.0, self.steps)
        self.silent = torch.zeros(self.plan.features, device=device)  # tokens since each was active
        self.threshold = 0.0

    def _products(self, centred: Tensor) -> Products:
        return Products(centred, self.parameters["W_enc"], self.parameters["b_enc"])

    # ── a step ──────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def step(self, x: Float[Tensor, "token d_read"], y: Float[Tensor, "token d_write"]) -> Seen:
        """One step on this process's share of a batch.

        Raises TrainingDiverged: the loss or a gradient is no number; the parameters are as they were before.
        """
        tokens = len(x) * self.group.size
        grads, residual, a, fired = self.gradients(x, y)
        totals = torch.stack([squared(residual), squared(y), fired.sum()])
        mean = y.sum(0)
        self.group.sum_([*grads.values(), totals, mean, fired])
        error, squares, active = totals.tolist()
        if not math.isfinite(error):
            raise self._diverged("the loss")
        dead = float((self.silent >= self.patience).float().mean())
        norm = self._move(grads)
        self._threshold(a)
        self.silent = torch.where(fired > 0, 0, self.silent + tokens)
        self.number += 1
        return Seen(error / max(squares - float(mean @ mean) / tokens, 1e-30), active / tokens, dead, norm)

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """This process's part of each parameter's gradient; y' - y, the activations, and which features were active."""
        P, tokens = self.parameters, len(x) * self.group.size
        if not self.plan.transcoder:
            self.centre = P["b_dec"]
        centred = x - self.centre
        entries = self.kind.entries(P, self._products(centred))
        a = self.kind.active(P, entries)
        base = P["b_dec"] + centred @ P["W_skip"].T if self.plan.skip else P["b_dec"]
        wanted = y - base
        residual, rest = self._errors(entries.decode(a, P["W_dec"]), wanted, 2 / tokens)
        grad_p, grads = self.kind.backward(P, entries, entries.dots(rest, P["W_dec"]), tokens)
        first = rest if self.bags == 1 else rest.view(len(x), self.bags, -1)[:, 0]
        grads |= {"W_dec": entries.spread(a, rest), "b_dec": first.sum(0)}
        if isinstance(self.kind, Gated):
            grad_p = grad_p + self._gated(entries, y, grads, tokens)
        else:
            grads["b_enc"] = entries.sums(grad_p)
        grads["W_enc"] = entries.spread(grad_p, centred, tokens=True)
        if not self.plan.transcoder:
            grads["b_dec"] -= entries.sums(grad_p) @ P["W_enc"]
        if self.plan.skip:
            grads["W_skip"] = first.T @ centred
        dead = self.silent >= self.patience
        if self.kind.revived and bool(dead.any()):
            self._revive(true_at(dead), centred, -residual, grads)
        return grads, residual, a, self._fired(entries, a)

    @property
    def bags(self) -> int:
        return max(1, len(self.plan.prefixes))

    def _errors(self, summed: Tensor, wanted: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """y' - y of the whole, and dL/dy' of each bag: of a Matryoshka prefix that of all the prefixes it is part of."""
        if self.bags == 1:
            residual = summed.sub_(wanted)
            return residual, residual * scale
        errors = summed.view(len(wanted), self.bags, -1).cumsum(1).sub_(wanted[:, None])
        rest = errors.flip(1).cumsum(1).flip(1).reshape(-1, wanted.shape[1])
        return errors[:, -1], rest * (scale / self.bags)

    def _gated(self, entries: Entries, y: Tensor, grads: dict[str, Tensor], tokens: int) -> Tensor:
        """dL/dpi of the gates: the penalty, and the reconstruction by max(pi, 0) with the decoder held still."""
        P, kind = self.parameters, self.kind
        assert isinstance(kind, Gated)
        error = entries.decode(entries.values, P["W_dec"]) + P["b_dec"] - y
        grad = kind.gate(entries, entries.dots(error * (2 / tokens), P["W_dec"]), tokens)
        grads["b_enc"] = entries.sums(grad)
        return grad

    def _revive(self, dead: Tensor, centred: Tensor, error: Tensor, grads: dict[str, Tensor]) -> None:
        """The auxiliary loss: what the d/2 strongest dead features make of the error, over the error's own variance.

        Of every n-th token of the batch, so that it costs no more than the encoder does; a batch is in random order.
        """
        P = self.parameters
        every = max(1, -(-5 * len(dead) // self.plan.features))
        centred, error = centred[::every], error[::every]
        W_enc, W_dec = P["W_enc"][dead], P["W_dec"][dead]
        q = torch.addmm(P["b_enc"][dead], centred, W_enc.T).relu_()
        k = error.shape[1] // 2
        if len(dead) > k:
            q *= q >= q.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        residual = torch.addmm(error, q, W_dec, beta=-1)
        mean, squares = error.sum(0), error.square().sum()
        self.group.sum_([mean, squares])
        count = len(error) * self.group.size
        residual *= 2 * AUX / float((squares - mean @ mean / count).clamp_min(1e-30))
        grad_q = (residual @ W_dec.T) * (q > 0)
        grads["W_dec"].index_add_(0, dead, q.T @ residual)
        grads["W_enc"].index_add_(0, dead, grad_q.T @ centred)
        grads["b_enc"].index_add_(0, dead, grad_q.sum(0))

    def _fired(self, entries: Entries, a: Tensor) -> Tensor:
        """How often each feature was active."""
        return entries.sums((a > 0).to(a))

    def _threshold(self, a: Tensor) -> None:
        """The moving average of the least that was active, from step `WARM` on, or the tenth of all where those are few."""
        if self.plan.kind not in ("batchtopk", "matryoshka"):
            return
        horizon = max(1, min(WARM, self.steps // 10))
        least = self.group.least(float(a.min()) if len(a) else math.inf)
        if math.isfinite(least):
            beta = 1 - 1 / horizon if self.number >= horizon else 0.0
            self.threshold = beta * self.threshold + (1 - beta) * least

    def _move(self, grads: dict[str, Tensor]) -> float:
        W_dec, own = self.parameters["W_dec"], grads["W_dec"]
        own.addcmul_(W_dec, torch.linalg.vecdot(own, W_dec)[:, None], value=-1)
        norm = self.adam.length(grads)
        if not math.isfinite(norm):
            raise self._diverged("a gradient")
        self.adam.step(grads, self.number, norm)
        W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True).clamp_min_(1e-30))
        return norm

    def _diverged(self, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"{what} is no number any more", received=f"step {self.number} of {self.steps}, {self.plan.named}",
            fix="train at a lower rate (lr=); what was kept last is whole",
        )  # fmt: skip

    # ── what it is ──────────────────────────────────────────────────────────────────────────────────────────────

    def dictionary(self, scales: Mapping[str, float], provenance: Mapping[str, Any]) -> EncoderDictionary:
        """As it is now, for vectors as the model has them. scales: what those were multiplied by at each site."""
        P, plan = self.parameters, self.plan
        s, t = scales[plan.site], scales[plan.written]
        centre = P["b_dec"] if not plan.transcoder else self.centre
        parts: dict[str, Any] = {
            "read": P["W_enc"] * (s / t), "write": P["W_dec"].clone(), "mean": centre / s, "bias": P["b_enc"] / t,
            "base": P["b_dec"] / t, "activation": "relu",
        }  # fmt: skip
        if plan.skip:
            parts |= {"skip": P["W_skip"] * (s / t), "base": (P["b_dec"] - P["W_skip"] @ self.centre) / t}
        if plan.kind == "topk":
            parts |= {"activation": "topk", "k": plan.k}
        elif isinstance(self.kind, JumpReLU):
            parts |= {"activation": "jumprelu", "threshold": P["log_threshold"].exp() / t}
        elif plan.kind in ("batchtopk", "matryoshka"):
            level = torch.full_like(P["b_enc"], max(0.0, self.threshold / t))
            parts |= {"activation": "jumprelu", "threshold": level}
        elif plan.kind == "gated":
            parts |= {"activation": "gated", "gate_bias": P["b_enc"] / t, "gate_scale": P["r_mag"].clone()}
            parts["bias"] = P["b_mag"] / t
        name, written = ("transcoder", plan.written) if plan.transcoder else ("sae", None)
        parts = {key: x.clone() if isinstance(x, Tensor) else x for key, x in parts.items()}
        return EncoderDictionary(name, plan.site, written=written, provenance={**plan.facts(), **provenance}, **parts)

    # ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {**self.parameters, **self.adam.state(), "silent": self.silent, "centre": self.centre}
        facts = {"plan": self.plan.facts(), "number": self.number, "threshold": self.threshold}
        return tensors, {**facts, "memory": dict(self.kind.memory)}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], device: torch.device) -> None:
        """Be as the learner was whose `state` this is."""
        own = [name for name in tensors if "/" not in name and name not in ("silent", "centre")]
        self.parameters = {name: tensors[name].to(device) for name in own}
        self._ready(device)
        self.adam.restore({name: x.to(device) for name, x in tensors.items() if "/" in name})
        self.silent, self.centre = tensors["silent"].to(device), tensors["centre"].to(device)
        self.number, self.threshold = int(facts["number"]), float(facts["threshold"])
        self.kind.memory = dict(facts["memory"])


def geometric_median(points: Float[Tensor, "n d"], *, rounds: int = 100, close: float = 1e-5) -> Float[Tensor, "d"]:
    """The point with the least sum of distances to all: Weiszfeld's algorithm from the mean."""
    guess = points.mean(0)
    for _ in range(rounds):
        weights = 1 / torch.linalg.vector_norm(points - guess, dim=1).clamp_min(1e-12)
        before, guess = guess, (weights / weights.sum()) @ points
        if float(torch.linalg.vector_norm(guess - before)) < close:
            break
    return guess


def squared(x: Tensor) -> Tensor:
    """The sum of all squares."""
    flat = x.reshape(-1)
    return flat @ flat


def unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-30)
