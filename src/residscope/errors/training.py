"""What is refused, or goes wrong, when a dictionary is trained."""

from residscope.errors.base import ResidscopeError


class TrainingError(ResidscopeError):
    """The dictionary cannot be trained."""


class BadTraining(TrainingError):
    """Sizes, kinds or sites that do not fit each other, or a folder that holds another training."""


class TrainingDiverged(TrainingError):
    """A loss or a gradient that is no number any more; what was kept last is whole."""


class CheckpointNotWritten(TrainingError):
    """A checkpoint that could not be written, as on a full disk; the one before it is whole."""
