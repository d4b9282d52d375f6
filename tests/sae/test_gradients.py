"""Each kind's hand-written gradients beside autograd's, of the losses as they are written down."""

import pytest
import torch
from torch import Tensor

from residscope.sae.training.choose import BatchTopK, Products, top_k
from residscope.sae.training.learner import AUX, Learner
from residscope.sae.training.plan import Plan

D, F, B, K = 12, 40, 64, 5
KINDS = ("batchtopk", "topk", "jumprelu", "gated", "relu", "matryoshka")


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randn(B, D, generator=draw), torch.randn(B, D, generator=draw)
    return x / D**0.5 + 0.1, y / D**0.5 - 0.2


def learner(kind: str, *, transcoder: bool = False, skip: bool = False) -> tuple[Learner, Tensor, Tensor]:
    x, y = batch()
    y = y if transcoder else x
    written = "mlp_out.3" if transcoder else "resid_post.3"
    one = Learner(Plan(kind, "resid_post.3", written, F, K, skip=skip), 100, 10_000)
    one.begin(x, y)
    draw = torch.Generator().manual_seed(1)
    for name, value in one.parameters.items():  # away from the start, where much is zero
        value += 0.05 * torch.randn(value.shape, generator=draw)
        if name == "W_dec":
            value /= value.norm(dim=1, keepdim=True)
    return one, x, y


def active_of(kind: str, p: Tensor, P: dict[str, Tensor], u: Tensor, width: float) -> Tensor:
    if kind in ("batchtopk", "matryoshka"):
        least = p.flatten().sort(descending=True).values[K * B - 1]
        return torch.where((p >= least) & (p > 0), p, 0)
    if kind == "topk":
        least = p.sort(dim=-1, descending=True).values[:, K - 1 : K]
        return torch.where((p >= least) & (p > 0), p, 0)
    if kind == "gated":
        return (u * P["r_mag"].exp() + P["b_mag"]).relu() * (p > 0)
    return p.relu()


class Jump(torch.autograd.Function):
    """JumpReLU as the paper has it: a rectangle of height 1 and this width as the step's derivative."""

    @staticmethod
    def forward(ctx, p, threshold, width):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(p, threshold)
        ctx.width = width
        return p * (p > threshold), (p > threshold).to(p)

    @staticmethod
    def backward(ctx, grad, grad_step):  # type: ignore[no-untyped-def]
        p, threshold = ctx.saved_tensors
        near = ((p - threshold).abs() < ctx.width / 2).to(p) / ctx.width
        return grad * (p > threshold), (-(threshold * grad + grad_step) * near).sum(0), None


def loss_of(one: Learner, P: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    kind = one.plan.kind
    centre = one.centre if one.plan.transcoder else P["b_dec"]
    u = (x - centre) @ P["W_enc"].T
    p = u + P["b_enc"]
    base = P["b_dec"] + ((x - centre) @ P["W_skip"].T if one.plan.skip else 0)
    if kind == "jumprelu":
        a, on = Jump.apply(p, P["log_threshold"].exp(), one.kind.memory["width"])
        return ((a @ P["W_dec"] + base - y) ** 2).sum(1).mean() + (on.sum(1).mean() / K - 1) ** 2
    a = active_of(kind, p, P, u, 0.0)
    if kind == "matryoshka":
        errors = [((a[:, :end] @ P["W_dec"][:end] + base - y) ** 2).sum(1).mean() for end in one.plan.prefixes]
        return torch.stack(errors).mean()
    loss = ((a @ P["W_dec"] + base - y) ** 2).sum(1).mean()
    if kind == "relu":
        loss = loss + WEIGHT * p.relu().sum(1).mean()
    if kind == "gated":
        rebuilt = p.relu() @ P["W_dec"].detach() + P["b_dec"].detach()
        loss = loss + WEIGHT * p.relu().sum(1).mean() + ((rebuilt - y.detach()) ** 2).sum(1).mean()
    return loss


WEIGHT = 0.03


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("transcoder", "skip"), [(False, False), (True, False), (True, True)])
def test_gradients_are_autograds(kind: str, transcoder: bool, skip: bool, dense: bool, monkeypatch) -> None:
    if dense and kind not in ("relu", "gated", "jumprelu"):
        pytest.skip("never dense")
    one, x, y = learner(kind, transcoder=transcoder, skip=skip)
    if hasattr(one.kind, "turn"):
        monkeypatch.setattr(one.kind, "turn", lambda active: WEIGHT)
    monkeypatch.setattr("residscope.sae.training.kinds.DENSE", 0.0 if dense else 1.0)
    grads, *_ = one.gradients(x, y)
    P = {name: value.clone().requires_grad_() for name, value in one.parameters.items()}
    loss_of(one, P, x, y).backward()
    assert grads.keys() == P.keys()
    for name, value in P.items():
        torch.testing.assert_close(grads[name], value.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_dead_features_learn_from_the_error() -> None:
    """The auxiliary loss by autograd: of the d/2 strongest dead features, over the error's variance."""
    one, x, _ = learner("batchtopk")
    plain, residual, *_ = one.gradients(x, x)
    dead = torch.tensor([1, 7, 8, 30, 31, 32, 33, 34])
    one.silent[dead] = one.patience
    grads, *_ = one.gradients(x, x)
    P = {name: value.clone().requires_grad_() for name, value in one.parameters.items()}
    error = -residual.detach()
    p = ((x - one.centre) @ P["W_enc"].T + P["b_enc"])[:, dead].relu()
    least = p.sort(dim=-1, descending=True).values[:, D // 2 - 1 : D // 2]
    rebuilt = (p * (p >= least)) @ P["W_dec"][dead]
    loss = AUX * ((rebuilt - error) ** 2).sum() / ((error - error.mean(0)) ** 2).sum()
    loss.backward()
    for name in ("W_enc", "W_dec", "b_enc"):
        torch.testing.assert_close(grads[name] - plain[name], P[name].grad, rtol=1e-3, atol=1e-6)


def test_a_batchs_largest_are_exactly_those() -> None:
    draw = torch.Generator().manual_seed(0)
    choose = BatchTopK(K)
    weight, bias = torch.randn(F, D, generator=draw), torch.randn(F, generator=draw)
    for scale in (1.0, 1.0, 0.2, 5.0, 0.01):  # also where the last batch's level says nothing of this one's
        x = scale * torch.randn(B, D, generator=draw)
        at, values = choose(Products(x, weight, bias))
        p = (x @ weight.T + bias).flatten()
        best = p.topk(K * B)
        positive = best.indices[best.values > 0].sort().values
        assert torch.equal(at, positive)
        torch.testing.assert_close(values, p[at])


def test_of_equal_products_no_more_than_asked_for_are_chosen() -> None:
    x, weight = torch.ones(B, D), torch.ones(F, D)
    at, values = BatchTopK(K)(Products(x, weight, torch.zeros(F)))
    assert len(at) == len(values) == K * B
    assert len(at.unique()) == len(at)


def test_where_few_are_positive_those_alone_are_active() -> None:
    x, weight = torch.ones(B, D), -torch.ones(F, D)
    weight[3] = 1
    for at, _ in (BatchTopK(K)(Products(x, weight, torch.zeros(F))), top_k(Products(x, weight, torch.zeros(F)), K)):
        assert torch.equal(at, torch.arange(B) * F + 3)
