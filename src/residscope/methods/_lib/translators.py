"""Affine translators of the stream while they are trained: least squares first, then the slope of the KL itself."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.turns import lock_of
from residscope.errors import TrainingDiverged

RIDGE = 0.1  # for each dimension, in sums over vectors of unit deviation
FLAT = 1e-6  # of the largest deviation: an axis along which nothing varies


class Translators:
    """One for each layer, x -> x + weight z + bias with z = (x - mean) / sigma, those of the first vectors that are seen."""

    def __init__(self, streams: Sequence[Float[Tensor, "n d"]]) -> None:
        self.mean = torch.stack([x.float().mean(0) for x in streams])
        sigma = torch.stack([x.float().std(0) for x in streams])
        self.sigma = torch.where(sigma > FLAT * sigma.amax(1, keepdim=True), sigma, 1.0)
        layers, d = self.mean.shape
        self.weight, self.bias = self.mean.new_zeros(layers, d, d), self.mean.new_zeros(layers, d)
        self._squares = self.mean.new_zeros(layers, d + 1, d + 1)
        self._products = self.mean.new_zeros(layers, d + 1, d)
        self._adam: torch.optim.Adam | None = None

    def add(self, streams: Sequence[Float[Tensor, "n d"]], end: Float[Tensor, "n d"]) -> None:
        """Vectors for the least squares: each layer's, and the end's at the same tokens."""
        for layer, x in enumerate(streams):
            z = self._coordinates(x, layer)
            z = torch.cat([z, torch.ones_like(z[:, :1])], 1)
            self._squares[layer].addmm_(z.T, z)
            self._products[layer].addmm_(z.T, end.float() - x.float())

    def solve(self) -> None:
        """weight, bias: the least sum |x + weight z + bias - end|^2 + ridge |weight|^2."""
        d = self.bias.shape[1]
        ridge = torch.diag(torch.tensor([RIDGE * d] * d + [0.0], dtype=torch.float64))
        for layer in range(len(self.bias)):
            squares = self._squares[layer].double().cpu() + ridge
            found = torch.linalg.solve(squares, self._products[layer].double().cpu()).to(self.bias)
            self.weight[layer], self.bias[layer] = found[:-1].T, found[-1]

    def step(
        self, model: Model, streams: Sequence[Float[Tensor, "n d"]], end: Float[Tensor, "n d"], rate: float
    ) -> float:
        """One of Adam's: each entry moves by some `rate` of its layer's deviation. The mean KL before it, in nats.

        Raises TrainingDiverged.
        """
        if self._adam is None:
            groups = [{"params": [w, b]} for w, b in zip(self.weight, self.bias, strict=True)]
            self._adam = torch.optim.Adam(groups)
        said = lens_logits(model, end).log_softmax(-1)
        total = 0.0
        for layer, (x, group) in enumerate(zip(streams, self._adam.param_groups, strict=True)):
            group["lr"] = rate * float(self.sigma[layer].square().mean().sqrt())
            w, b = (p.detach().requires_grad_() for p in group["params"])
            with torch.enable_grad():
                loss = distance(said, lens_logits(model, x.float() + self._coordinates(x, layer) @ w.T + b)).mean()
                slopes = torch.autograd.grad(loss, [w, b])
            for p, slope in zip(group["params"], slopes, strict=True):
                p.grad = slope
            total += float(loss.detach())
        self._adam.step()
        if not total < float("inf") or not all(bool(torch.isfinite(p).all()) for p in (self.weight, self.bias)):
            raise TrainingDiverged(
                "the lens is no numbers any more", received=f"rate={rate:g}", fix="give a smaller rate"
            )
        return total / len(streams)

    def folded(self) -> tuple[Float[Tensor, "layer d d"], Float[Tensor, "layer d"]]:
        """A and b of x -> x + A x + b."""
        A = self.weight / self.sigma[:, None]
        return A.cpu(), (self.bias - torch.einsum("loi,li->lo", A, self.mean)).cpu()

    def _coordinates(self, x: Float[Tensor, "n d"], layer: int) -> Float[Tensor, "n d"]:
        return (x.float() - self.mean[layer]) / self.sigma[layer]


def lens_logits(model: Model, x: Float[Tensor, "n d"]) -> Float[Tensor, "n vocab"]:
    """As `model.lens`, in float32, and differentiable where gradients are on."""
    with lock_of(model.hf):
        normed = model.layout.final_norm.module(x.to(model.dtype)[None])
        return model.layout.logits(normed)[0].float()


def distance(said: Float[Tensor, "n vocab"], logits: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """KL(said || softmax logits) of each token, in nats; said: log-probabilities."""
    share = said.exp()
    return torch.where(share > 0, share * (said - logits.log_softmax(-1)), 0.0).sum(-1)
