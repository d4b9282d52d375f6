"""`rs.load`: from a name or an object to a model that has passed its certificate."""

from collections.abc import Callable
from typing import Any

import torch

from residscope.engine.certificate import certify
from residscope.engine.model import Model, weights_hash
from residscope.errors import CertificateFailed, ModelNotFound

Progress = Callable[[str, int, int], None]


def load(
    name: str | tuple[Any, Any] | Any,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Model:
    """A model to work with, certified on this machine.

    name: a catalog name, a hub id, a local folder, or `(hf_model, tokenizer or None)`. dtype: float32 unless said (an object
    keeps its own). device: the CPU unless said.

    Raises:
        ModelError: not found, damaged, of an unknown family, or failing a check of its certificate (named).
    """
    if isinstance(name, str):
        from residscope.model.weights import open_source, resolve

        source = resolve(name, revision=revision, progress=progress)
        hf, tokenizer = open_source(
            source, dtype=dtype, device=str(device or "cpu"), trust_remote_code=trust_remote_code
        )
        model = Model(hf, tokenizer, name=source.name, hash=source.fingerprint, bos=source.bos)
    else:
        hf, tokenizer = name if isinstance(name, tuple) else (name, None)
        if not hasattr(hf, "config"):
            raise ModelNotFound(
                "not a Hugging Face model",
                received=type(hf).__name__,
                allowed="a name, a folder, or (hf_model, tokenizer or None)",
            )
        model = Model(hf, tokenizer, hash=weights_hash(hf))
    model.certificate = certify(model, progress=progress)
    if not model.certificate.passed:
        raise CertificateFailed(
            f"{model.name} does not pass its certificate: {model.certificate.failures()}",
            received=f"{model.certificate.worst:.1e} in {model.certificate.worst_check}",
            allowed=f"{model.certificate.tolerance:.0e} relative",
            fix=f"the family file residscope/model/families/{model.family.name}.py does not describe this model",
        )
    return model
