"""How far an edited next-token distribution is from the unedited one."""

from jaxtyping import Float
from torch import Tensor


def shift(
    edited: Float[Tensor, "*batch d_vocab"], base: Float[Tensor, "*batch d_vocab"]
) -> tuple[Float[Tensor, "*batch d_vocab"], Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """The logits' change d, log E_p e^d, and KL(p || edited), p the unedited distribution; in nats.

        KL(p || q) = log E_p e^d - E_p d,        loss of a token t with q less that with p = log E_p e^d - d_t

    which stays exact where the change is small.
    """
    d = edited - base
    p = base.softmax(-1)
    most = d.amax(-1, keepdim=True)
    normaliser = most[..., 0] + (p * (d - most).exp()).sum(-1).log()
    return d, normaliser, (normaliser - (p * d).sum(-1)).clamp_min(0)
