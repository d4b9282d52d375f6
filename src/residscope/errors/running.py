"""What a run refuses: prompts, sites, edits, recordings, sweeps."""

from residscope.errors.base import Cancelled, Interrupted, ResidscopeError


class PromptError(ResidscopeError):
    """The prompt cannot be run."""


class EmptyPrompt(PromptError):
    """No text, or no tokens."""


class BadPrompt(PromptError):
    """What is neither text nor token ids, or is both; text that no tokenizer reads."""


class PaddedPrompt(PromptError):
    """Token ids that look padded, where nothing says which of them are padding, or a mask with holes."""


class PromptTooLong(PromptError):
    """More tokens than the model's context."""


class PageTooLarge(PromptError):
    """A page of prompts whose stream takes more memory than there is for it."""


class UnknownToken(PromptError):
    """A string that is not exactly one token, or an id outside the vocabulary."""


class NoTokenizer(PromptError):
    """Text given to a model that came without a tokenizer."""


class NoChatTemplate(PromptError):
    """A conversation given to a model whose tokenizer has no chat template."""


class NoBOS(PromptError):
    """A prompt that is to begin with BOS, where the tokenizer has none."""


class BadConversation(PromptError):
    """Messages of another shape than the chat template takes, or that it refuses."""


class SiteError(ResidscopeError):
    """The place asked for is not in this model."""


class UnknownSite(SiteError):
    """No site of that name."""


class UnknownLayer(SiteError):
    """A layer outside the model, missing, or given where there is none."""


class UnknownHead(SiteError):
    """A head outside the model, or on a site without heads."""


class UnknownNeuron(SiteError):
    """A neuron outside the layer, or on a site without neurons."""


class UnknownPosition(SiteError):
    """A token position outside the prompt."""


class AbsentSite(SiteError):
    """A site of the vocabulary which this family does not have; the reason is given."""


class NoVectors(SiteError):
    """A site without one vector a token, asked for directions."""


class EditError(ResidscopeError):
    """The edit cannot be applied."""


class BadEdit(EditError):
    """An edit that does not parse, or whose parts contradict each other."""


class ClashingEdits(EditError):
    """Two edits that hold the same entries to different things: the first would be lost without a word."""


class CannotAlign(EditError):
    """Prompts whose positions do not correspond as the edit would need."""


class TooLarge(ResidscopeError):
    """A run that would keep more than fits in memory; the message says how much, and what there is."""


class BadSampling(ResidscopeError):
    """A temperature, cut or stop that generation cannot go by."""


class RecordingError(ResidscopeError):
    """The recording cannot answer."""


class NotRecorded(RecordingError):
    """A site that was not recorded and cannot be recomputed from what was."""


class WeightsChanged(RecordingError):
    """The model's weights are no longer those of the recording."""


class WrongModel(RecordingError):
    """A recording or direction of another model."""


class SweepError(ResidscopeError):
    """The sweep cannot be planned."""


class BadSweep(SweepError):
    """No cells, or a way of running them that there is not."""


class NoGradient(SweepError):
    """A gradient asked for where there is none."""


class UnalignedPrompts(SweepError):
    """Prompts whose positions do not correspond."""


class SweepCancelled(Cancelled):
    """A sweep stopped by request; `partial` is the Result of what was finished, NaN elsewhere."""


class SweepInterrupted(SweepCancelled, Interrupted):
    """A sweep stopped by Ctrl-C; still a KeyboardInterrupt."""
