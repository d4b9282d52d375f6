"""Name features by a service that the user gives, and test each name on contexts that it was not made from."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch

from residscope import fields
from residscope.declare.methods import method
from residscope.directions import Dictionary, Direction
from residscope.engine.model import Model
from residscope.errors import BadArguments, NamingError, NoEndpoint
from residscope.features.atlas import Atlas
from residscope.features.endpoint import Namer
from residscope.features.gathering import only
from residscope.features.held_out import Halves, Tokens, halves, rows_read, with_inactive
from residscope.features.names import FeatureName, FeatureNames
from residscope.features.questions import asked, fitting_in, fitting_question, name_in, naming_question
from residscope.methods._lib.intervals import bootstrap, wilson
from residscope.progress import Cancel, Progress, stage
from residscope.written import name_of

LEAST = 4  # contexts of either kind: with fewer nothing is tested
PATIENCE = 4  # questions without an answer, one after the other, until the rest are not asked


@method("name-features", title="Name features", group="directions")
def name_features(
    model: Model,
    atlas: Annotated[Atlas, fields.atlas()],
    features: Annotated[Sequence[int] | None, fields.indices(help="their numbers; the highest 10 unless said")] = None,
    dictionary: Annotated[Dictionary | Direction | None, fields.dictionary(help="that the atlas is of")] = None,
    *,
    endpoint: Annotated[
        Namer | None,
        fields.endpoint(help="what the examples are sent to: an OpenAI-compatible service of your own choice"),
    ],
    held_out: Annotated[int, fields.count(low=LEAST, high=40, help="contexts of either kind that test a name")] = 10,
    decoys: Annotated[int, fields.count(low=0, high=20, help="other features' names that each is compared with")] = 3,
    seed: Annotated[int, fields.seed()] = 0,
    at_once: Annotated[int, fields.count(low=1, high=16, help="questions under way")] = 4,
    names: Mapping[int, str] | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> FeatureNames:
    """Ask a service for a name of each feature, and then, by the name alone, in which of some contexts the feature is active.

        endpoint = rs.features.Endpoint("http://127.0.0.1:11434/v1", "qwen3:8b")
        named = rs.name_features(model, atlas, [12, 519], sae, endpoint=endpoint)

    A name is made from half of a feature's examples in the atlas, the highest and those drawn of intervals. It is tested on other
    rows of the text: as many contexts where the feature is active as where it is not, in a random order. The share that the
    service tells rightly is the balanced accuracy; beside it stands the same with `decoys` names of other features, and a name
    that does no better is marked so (Bills et al., 2023; Paulo et al., 2024, arXiv:2410.13928). names: given ones, by the
    feature's number, which are tested and not asked for. A feature takes 2 + decoys questions.

    What is sent: excerpts of the atlas' text of 21 tokens each, and names. Nothing is, unless an endpoint is said.

    Raises:
        NoEndpoint: none is said, or its key is not there. EndpointFailed: the first questions get no answer; later ones leave
        their features without a test, and say why. DirectionError, WrongModel: no such feature; another model's atlas.
        BadText: a given name that cannot be shown. Cancelled: with what was finished.
    """
    if not isinstance(endpoint, Namer):
        raise NoEndpoint(
            "no service is said that could be asked", received=repr(endpoint)[:100],
            allowed="an Endpoint, or an object with `ask` and `told`",
            fix='endpoint=rs.features.Endpoint("http://127.0.0.1:11434/v1", "qwen3:8b")',
            on_page="say its address and model",
        )  # fmt: skip
    if isinstance(dictionary, Direction):
        dictionary = only(dictionary)
    atlas.check(model, dictionary)
    given = {index: name_of(name) for index, name in (names or {}).items()}
    indices = [*dict.fromkeys(features if features is not None else [*given] or strongest(atlas))]
    for index in (*indices, *given):
        atlas.check_index(index)
    if not indices:
        raise BadArguments("no features to name", received="[]", allowed="one or more of their numbers")
    label = atlas.label if dictionary is None else dictionary.label
    naming = Naming(endpoint, at_once, {index: given.get(index, "") for index in indices})
    draw = random.Random(seed)
    parts = {index: halves(model, atlas, index, held_out) for index in indices}
    with stage("Reading contexts", rows_read(atlas), progress, cancel) as tell:
        parts = with_inactive(model, atlas, dictionary, parts, seed=seed, tell=tell)

    def report() -> FeatureNames:
        rows = tuple(naming.row(index, label(index), parts[index], seed) for index in indices)
        about = {"method": "name-features", "seed": seed, "questions": naming.questions, **endpoint.told}
        return FeatureNames(atlas.of, atlas.place, atlas.hash, rows, {**atlas.provenance, **about})

    unnamed = [index for index in indices if not naming.names[index] and naming.can_name(index, parts[index])]
    with stage("Asking for names", len(unnamed), progress, cancel, partial=report) as tell:
        naming.name(unnamed, parts, tell)
    trials = naming.trials(indices, parts, decoys, draw)
    with stage("Testing the names", len(trials), progress, cancel, partial=report) as tell:
        naming.test(trials, tell)
    return report()


def strongest(atlas: Atlas, n: int = 10) -> list[int]:
    """The features with the highest values, of those that are active at all."""
    order = atlas.highest.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    return [i for i in order[:n].tolist() if atlas.firing.fired[i] > 0]


class Trial:
    """One question: which contexts does a name fit? order: where each context stands in it."""

    def __init__(self, index: int, name: str, own: bool, contexts: Sequence[Tokens], draw: random.Random) -> None:
        self.index, self.own = index, own
        self.order = draw.sample(range(len(contexts)), len(contexts))
        self.question = fitting_question(name, [contexts[i] for i in self.order])


class Naming:
    """The names and answers so far. told: of each feature and each name tried on it, whether each context was told rightly."""

    def __init__(self, endpoint: Namer, at_once: int, names: dict[int, str]) -> None:
        self.endpoint, self.at_once, self.names = endpoint, at_once, names
        self.notes: dict[int, str] = {}
        self.own: dict[int, list[float]] = {}
        self.others: dict[int, list[list[float]]] = {index: [] for index in names}
        self.questions = 0
        self._silent = 0

    def can_name(self, index: int, half: Halves) -> bool:
        if not half.shown:
            self.notes[index] = "no example of it is known"
        return bool(half.shown)

    def name(self, indices: Sequence[int], parts: Mapping[int, Halves], tell: Any) -> None:
        """Ask for names."""

        def heard(number: int, answer: str) -> None:
            self.names[indices[number]] = name_in(answer)

        self._ask([naming_question(parts[index].shown) for index in indices], indices, heard, tell)

    def trials(
        self, indices: Sequence[int], parts: Mapping[int, Halves], decoys: int, draw: random.Random
    ) -> list[Trial]:
        """What tests each name that there is: its own question, and the same contexts with names of other features."""
        found = []
        for index in indices:
            half, name = parts[index], self.names[index]
            if not name:
                continue
            if len(half.active) < LEAST:
                self.notes[index] = (
                    f"not tested: {len(half.active)} held-out contexts of either kind, {LEAST} are needed"
                )
                continue
            others = sorted({other for other in self.names.values() if other and other != name})
            chosen = draw.sample(others, min(decoys, len(others)))
            contexts = (*half.active, *half.inactive)
            found.append(Trial(index, name, True, contexts, draw))
            found += [Trial(index, other, False, contexts, draw) for other in chosen]
        return found

    def test(self, trials: Sequence[Trial], tell: Any) -> None:
        """Ask which contexts the names fit."""

        def heard(number: int, answer: str) -> None:
            trial = trials[number]
            n = len(trial.order)
            fits = {trial.order[i] for i in fitting_in(answer, n)}
            right = [float((i in fits) == (i < n // 2)) for i in range(n)]
            if trial.own:
                self.own[trial.index] = right
            else:
                self.others[trial.index].append(right)

        self._ask([trial.question for trial in trials], [trial.index for trial in trials], heard, tell)

    def _ask(self, questions: Sequence[str], indices: Sequence[int], heard: Any, tell: Any) -> None:
        """Ask, and note of whose question no use could be made; once it answers nothing, the rest is not asked."""

        def take(number: int, answer: str | NamingError) -> None:
            try:
                if isinstance(answer, NamingError):
                    raise answer
                heard(number, answer)
                self.questions, self._silent = self.questions + 1, 0
            except NamingError as error:
                self._silent += 1
                self.notes[indices[number]] = f"{error.failed}: {error.received}" if error.received else error.failed
                if not self.questions and (
                    isinstance(error, NoEndpoint) or self._silent >= min(PATIENCE, len(questions))
                ):
                    raise

        ask = Patient(self.endpoint, lambda: self._silent)
        asked(ask, questions, self.at_once, tell, take)

    def row(self, index: int, label: str, half: Halves, seed: int) -> FeatureName:
        """What is known of one name by now."""
        name, own, others = self.names[index], self.own.get(index), self.others[index]
        note = self.notes.get(index, "")
        if own is None:
            return FeatureName(index, label, name, note=note)
        right = int(sum(own))
        one = FeatureName(index, label, name, len(own), right / len(own), wilson(right, len(own)), note=note)
        if not others:
            return replace(one, note=note or "no other feature has a name to compare with")
        with_others = torch.tensor(others, dtype=torch.float64).mean(0)
        gap = torch.tensor(own, dtype=torch.float64) - with_others
        low, high = (float(end) for end in bootstrap(gap, seed=seed))
        return replace(one, shuffled=float(with_others.mean()), gap=(float(gap.mean()), low, high), better=low > 0)


class Patient:
    """A service that is not asked any more once it has answered nothing for long. silent: how many answers are owed in a row."""

    def __init__(self, namer: Namer, silent: Any) -> None:
        self._namer, self._silent = namer, silent

    @property
    def told(self) -> Mapping[str, Any]:
        return self._namer.told

    def ask(self, question: str) -> str:
        if self._silent() >= PATIENCE:
            raise NamingError("not asked: the service had stopped answering")
        return self._namer.ask(question)
