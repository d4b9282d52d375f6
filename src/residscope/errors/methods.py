"""What methods refuse: directions, attributions, results, arguments, texts, tasks, probes, blind tests, views."""

from residscope.errors.base import ResidscopeError


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


class Misplaced(BadFit):
    """A dictionary that does not fit where it is hooked; the message names the place, centring and BOS that fit."""


class NegativeActivations(DirectionError):
    """Entries below zero where non-negative parts are asked for."""


class AttributionError(ResidscopeError):
    """The metric cannot be taken apart."""


class NotLinear(AttributionError):
    """A metric that is no linear function of the logits, and so no sum over the parts of the stream."""


class NotAdditive(AttributionError):
    """Parts that do not sum to what the run itself has."""


class NotComplete(AttributionError):
    """Integrated gradients that do not sum to what the metric changes by from the baseline."""


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


class CorpusError(ResidscopeError):
    """The text cannot be used."""


class EmptyCorpus(CorpusError):
    """A text without a single usable token."""


class TooFewVectors(CorpusError):
    """A text with fewer vectors than directions are asked for."""


class TextTooShort(CorpusError):
    """A text of which too little is left once what was fitted or looked at is taken away."""


class NamingError(ResidscopeError):
    """Features cannot be named."""


class NoEndpoint(NamingError):
    """No service to ask is said, its address is none, or its key is not there."""


class EndpointFailed(NamingError):
    """A service that does not answer in time, refuses, or answers otherwise than was asked."""


class HarvestError(ResidscopeError):
    """The harvest cannot be gathered."""


class OtherHarvest(HarvestError):
    """A folder of another harvest (another model, text, statistics or sizes), or of none."""


class HarvestNotWritten(HarvestError):
    """A shard's partial that could not be written: a full disk, a folder that is gone."""


class WorkerLost(HarvestError):
    """A shard, or a start, that ends every process that is given it."""


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


class NotNumbers(ProbeError):
    """A label whose values are not numbers, for a probe that reads one."""


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


class BadView(ResidscopeError):
    """Data that the view's kind cannot draw."""


class GraphError(ResidscopeError):
    """The causal graph cannot be drawn, or asked this."""


class NoFeatures(GraphError):
    """A prompt at which no feature of any dictionary is active."""
