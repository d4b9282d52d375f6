"""Every error Residscope raises on purpose, as one tree.

    ResidscopeError
    ├── PromptError          EmptyPrompt, BadPrompt, PaddedPrompt, PromptTooLong, PageTooLarge, UnknownToken, NoTokenizer,
    │                        NoBOS, NoChatTemplate, BadConversation
    ├── SiteError            UnknownSite, UnknownLayer, UnknownHead, UnknownNeuron, UnknownPosition, AbsentSite,
    │                        NoVectors
    ├── DirectionError       WrongWidth, ZeroDirection, CappedLogits, NegativeActivations, BadFit, NotFitted
    ├── EditError            BadEdit, ClashingEdits, CannotAlign
    ├── TooLarge
    ├── BadSampling
    ├── RecordingError       NotRecorded, WeightsChanged, WrongModel
    ├── ModelError           ModelNotFound, DamagedModel, HashMismatch, Offline, UnknownFamily, UnknownConfig,
    │                        CertificateFailed, RemoteCodeRefused, QuantisedModel, UnmergedAdapter, NotFinite,
    │                        NoWeights
    ├── ResultError          BadResult, UnknownLabel
    ├── DeclarationError     BadArguments, UnknownMethod, NameAlreadyDeclared
    ├── ShelfFull, NotWritten
    ├── FileError            FileNotThere, DamagedFile, WrongEnding, NotPlain
    ├── CorpusError          EmptyCorpus, TooFewVectors, TextTooShort
    ├── TaskError            BadTable, TooFewWords, MissingLabel, TooFewPrompts, UnknownTask
    ├── ProbeError           OneClass, UnseenLabel, SingularCovariance, Unreachable
    ├── BlindTestError       NoOrder, TooFewContexts, NotOneVector
    ├── WireError            MalformedJSON, MalformedTensors, NotFound, NotAllowed, ForeignHost
    ├── StoreError           NoUser, NotYours, NameTaken, BadText, EditedSince, CannotUndo, TooFast, DamagedStore,
    │                        StoreTooNew, StoreNotEmpty, StoreUnreachable
    ├── BadView
    ├── PortInUse, NoPage
    ├── MissingExtra
    ├── SweepError           BadSweep, NoGradient, UnalignedPrompts
    └── Cancelled            Interrupted, SweepCancelled, SweepInterrupted

Each says what failed, what was received, what is allowed and how to fix it; `str(error)` holds all four.

What is true but easily misread is a warning: ResidscopeWarning, of which GridEdge.
"""

from typing import Any


class ResidscopeError(Exception):
    """What failed, with what came, what is allowed, and the way out.

    >>> str(ResidscopeError("no such layer", received=31, allowed="0 to 29", fix="ask for a layer below 30"))
    'no such layer. Received: 31. Allowed: 0 to 29. To fix: ask for a layer below 30.'
    """

    def __init__(
        self, failed: str, *, received: Any = None, allowed: str | None = None, fix: str | None = None
    ) -> None:
        self.failed = failed
        self.received = None if received is None else str(received)
        self.allowed = allowed
        self.fix = fix
        labelled = [("", failed), ("Received: ", self.received), ("Allowed: ", allowed), ("To fix: ", fix)]
        super().__init__(" ".join(f"{label}{text.rstrip('.')}." for label, text in labelled if text is not None))

    def to_dict(self) -> dict[str, str | None]:
        """The one shape every refusal has on the wire."""
        return {
            "type": type(self).__name__,
            "message": str(self),
            "received": self.received,
            "allowed": self.allowed,
            "fix": self.fix,
        }


class ResidscopeWarning(UserWarning):
    """Something in a result that its reader should know."""


class GridEdge(ResidscopeWarning):
    """A probe's C that stands at an end of the grid it was looked for on: the grid chose it as much as the data."""


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


class DirectionError(ResidscopeError):
    """The direction does not fit."""


class WrongWidth(DirectionError):
    """A vector of a width other than its site's."""


class ZeroDirection(DirectionError):
    """A direction of length zero (or not finite) where a unit vector is needed."""


class CappedLogits(DirectionError):
    """A logit asked for as a direction of a model whose logits are capped, and so not linear."""


class NotFitted(DirectionError):
    """A direction that no fit made, or whose fit cannot be done again here, asked how stable its fit is."""


class BadFit(DirectionError):
    """A method of finding directions with options that it does not take, or without one that it needs."""


class NegativeActivations(DirectionError):
    """Entries below zero where non-negative parts are asked for."""


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
    """A model type without a family file."""


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


class NotFinite(ModelError):
    """Weights, or what they make of a short prompt, that are NaN or infinite; the message names where first."""


class NoWeights(ModelError):
    """A model, or a part of it, whose weights are not in memory (on the `meta` device)."""


class ResultError(ResidscopeError):
    """The result cannot be made or asked so."""


class BadResult(ResultError):
    """Values, dimensions, labels or intervals that do not fit together."""


class UnknownLabel(ResultError):
    """A dimension, or a label along one, that the result does not have."""


class DeclarationError(ResidscopeError):
    """Something is wrong with what a method or an edit was asked for, or with how it is declared."""


class BadArguments(DeclarationError):
    """The arguments do not parse."""


class UnknownMethod(DeclarationError):
    """No method, or edit, has this id."""


class NameAlreadyDeclared(DeclarationError):
    """Two methods, edits or tasks have one id."""


class ShelfFull(ResidscopeError):
    """No more items fit on the session's shelf."""


class NotWritten(ResidscopeError):
    """An item of the session's shelf whose file could not be written, changed or removed; the message says how it stands."""


class FileError(ResidscopeError):
    """The file cannot be used."""


class FileNotThere(FileError):
    """No file of that name."""


class DamagedFile(FileError):
    """A saved file that is truncated, was changed since, or holds something else."""


class WrongEnding(FileError):
    """A file's name whose ending says another kind of file than is written there."""


class NotPlain(FileError):
    """A value that has no form in JSON, or JSON that is no such form."""


class CorpusError(ResidscopeError):
    """The text cannot be used."""


class EmptyCorpus(CorpusError):
    """A text without a single usable token."""


class TooFewVectors(CorpusError):
    """A text with fewer vectors than directions are asked for."""


class TextTooShort(CorpusError):
    """A text of which too little is left once what was fitted or looked at is taken away."""


class TaskError(ResidscopeError):
    """The labelled prompts cannot be made, or not be used so."""


class BadTable(TaskError):
    """A file of prompts with a mistake in it; the line and the column are named."""


class TooFewWords(TaskError):
    """A tokenizer that keeps too few of a task's words whole, or a text with too few usable sentences."""


class MissingLabel(TaskError):
    """A label, or answers, that the prompts do not have."""


class TooFewPrompts(TaskError):
    """Fewer prompts than the question needs."""


class UnknownTask(TaskError):
    """A task of that name does not exist."""


class ProbeError(ResidscopeError):
    """The probe cannot be fitted, or the edit that it asks for does not exist."""


class OneClass(ProbeError):
    """A label with one value only: nothing to tell apart."""


class UnseenLabel(ProbeError):
    """A class that is held out but not in the training half, or that the probe does not know."""


class SingularCovariance(ProbeError):
    """A covariance along which the probe's normal cannot be moved."""


class Unreachable(ProbeError):
    """A class that no activation has with the odds asked for; the message says which odds some have."""


class BlindTestError(ResidscopeError):
    """The blind test cannot be made, or not be scored."""


class NoOrder(BlindTestError):
    """Guesses or values that are all alike: nothing to compare."""


class TooFewContexts(BlindTestError):
    """A text too short to draw contexts from."""


class NotOneVector(BlindTestError):
    """A site where a token has no vector, or several."""


class WireError(ResidscopeError):
    """The request cannot be answered."""


class MalformedJSON(WireError):
    """A body that is not JSON, or not of the shape asked for."""


class MalformedTensors(WireError):
    """A body that is not safetensors, or not of the shape asked for."""


class NotFound(WireError):
    """No such page, run, intent or entry of the library."""


class NotAllowed(WireError):
    """No token, or a wrong one."""


class ForeignHost(WireError):
    """A Host or Origin header that is not this server's."""


class BadView(ResidscopeError):
    """Data that the view's kind cannot draw."""


class PortInUse(ResidscopeError):
    """Another program listens there."""


class NoPage(ResidscopeError):
    """The page was not built into this installation."""


class MissingExtra(ResidscopeError):
    """An optional dependency is not installed."""


class Cancelled(ResidscopeError):
    """Stopped by request; `partial` is what was finished, where the call can keep it, else None."""

    def __init__(self, failed: str, *, partial: Any = None, **said: Any) -> None:
        super().__init__(failed, **said)
        self.partial = partial


class Interrupted(Cancelled, KeyboardInterrupt):
    """Stopped by Ctrl-C; still a KeyboardInterrupt."""


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


class StoreError(ResidscopeError):
    """The library cannot do that."""


class NoUser(StoreError):
    """A change by nobody: a name comes first."""


class NotYours(StoreError):
    """A change to what somebody else wrote."""


class NameTaken(StoreError):
    """A second direction of one's own under the same name."""


class BadText(StoreError):
    """A name or text that is empty, too long, or has characters that mislead."""


class EditedSince(StoreError):
    """A change to what is no longer as it was when it was read."""


class CannotUndo(StoreError):
    """Nothing to undo, or what was done has been changed since."""


class TooFast(StoreError):
    """More changes at once than a person makes."""


class DamagedStore(StoreError):
    """A database, a tensor or a backup that is not what was saved; the message names it."""


class StoreTooNew(StoreError):
    """A database written by a newer Residscope."""


class StoreNotEmpty(StoreError):
    """A backup restored over what is there."""


class StoreUnreachable(StoreError):
    """A database that does not answer, or a URL that is none."""


def explain(error: Exception) -> dict[str, str | None]:
    """Any failure in the one shape refusals have."""
    if isinstance(error, ResidscopeError):
        return error.to_dict()
    return ResidscopeError(f"{type(error).__name__}: {error}", fix="please report this").to_dict()
