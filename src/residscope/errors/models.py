"""What loading a model refuses."""

from residscope.errors.base import ResidscopeError


class ModelError(ResidscopeError):
    """The model cannot be loaded or trusted."""


class ModelNotFound(ModelError):
    """No catalog entry, folder or hub repository of that name."""


class DamagedModel(ModelError):
    """A model file that is truncated, unreadable or incomplete."""


class HashMismatch(ModelError):
    """A download whose content is not what the catalog names."""


class Offline(ModelError):
    """Not in the cache, and the network does not answer."""


class UnknownFamily(ModelError):
    """A model that no file describes, and of which looking finds no description that could be served."""


class UnknownConfig(ModelError):
    """A configuration field that the family file does not know."""


class CertificateFailed(ModelError):
    """A check of the certificate is over its tolerance; the message names it."""


class RemoteCodeRefused(ModelError):
    """A repository that wants to run its own Python code."""


class QuantisedModel(ModelError):
    """A question that needs the exact weights, asked of a model that has them quantised."""


class UnmergedAdapter(ModelError):
    """A model with an adapter (LoRA and its like) that is not merged into its weights."""


class WrongAdapter(ModelError):
    """An adapter that is no plain LoRA, or whose matrices fit another model than the one it is asked for."""


class OtherModel(ModelError):
    """Two models that cannot be laid side by side: their shapes or their tokens differ; the message says which."""


class NotFinite(ModelError):
    """Weights, or what they make of a short prompt, that are NaN or infinite; the message names where first."""


class NoTinyCopy(ModelError):
    """A configuration that no tiny random model can be built from; the message says what its class wants."""


class NoWeights(ModelError):
    """A model, or a part of it, whose weights are not in memory (on the `meta` device)."""
