"""Two models side by side: whether their sites, shapes and tokens are the same."""

from dataclasses import asdict

from residscope.engine.model import Model
from residscope.errors import OtherModel


def require_alike(model: Model, other: Model) -> None:
    """Refuse two models that cannot be compared site by site and token by token.

    Raises:
        OtherModel: their sizes, their sites or their vocabularies differ; it says which.
    """
    own, theirs = asdict(model.layout.sizes), asdict(other.layout.sizes)
    differ = [f"{name} {theirs[name]}" for name in own if own[name] != theirs[name]]
    if differ:
        wanted = ", ".join(f"{name} {own[name]}" for name in own if own[name] != theirs[name])
        raise OtherModel(
            f"{other.name} has another shape than {model.name}", received=", ".join(differ), allowed=wanted,
            fix="compare a model with its own fine-tune, adapter or revision",
        )  # fmt: skip
    if strange := sorted(model.sites.absent.keys() ^ other.sites.absent.keys()):
        raise OtherModel(
            f"{other.name} has other sites than {model.name}",
            received=f"{other.family.name}: one of the two lacks {', '.join(strange)}",
            allowed=f"a model of {model.family.name}",
        )
    if model.tokenizer is not None and other.tokenizer is not None:
        ours, others = model.tokenizer.get_vocab(), other.tokenizer.get_vocab()
        if ours != others:
            odd = sorted(token for token in ours.keys() | others.keys() if ours.get(token) != others.get(token))
            raise OtherModel(
                f"{other.name} has other tokens than {model.name}",
                received=f"{len(odd)} tokens that differ, such as {', '.join(map(repr, odd[:3]))}",
                allowed="the same tokenizer, so that one position is one token in both",
            )
    if model.bos != other.bos:
        raise OtherModel(
            f"{other.name} begins prompts otherwise than {model.name}", received=f"bos {other.bos}",
            allowed=f"bos {model.bos}",
        )  # fmt: skip
