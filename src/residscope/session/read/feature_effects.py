"""What taking a feature out does on its examples: it runs the model, beside live runs, for whoever asked last."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from residscope.features.atlas import Atlas
from residscope.features.feature_page import FeaturePage, page
from residscope.features.removal import effects
from residscope.session.read.askers import Askers
from residscope.session.read.feature_parts import Opened
from residscope.session.read.feature_shapes import EffectsLeft, FeatureEffects
from residscope.session.read.features import Features
from residscope.session.state import State
from residscope.world.session_world import need_model

KEPT_PAGES = 24


class FeatureEffectsReads:
    """now: the session's state; features: the atlases; quiet: waits until no live run does.

    Of each asker (a page has a name of its own) only the latest question is answered: the one before is refused with Cancelled.
    """

    def __init__(self, now: Callable[[], State], features: Features, quiet: Callable[[], object]) -> None:
        self._now, self._features, self._quiet = now, features, quiet
        self._askers = Askers()
        self._held: OrderedDict[tuple[int, int], tuple[Atlas, FeaturePage]] = OrderedDict()

    def measure(self, name: str, index: int, *, asker: str = "") -> FeatureEffects:
        """A feature's examples, with what taking it out at each does to the next token.

        Raises NotFound, WrongModel, DirectionError; Cancelled where the asker has asked for another since, or has left.
        """
        opened = self._features.open(name)
        opened.atlas.check_index(index)
        key = id(opened.atlas), index
        with self._askers.asking(asker) as passed:
            held = self._held.get(key)
            if held is None or held[0] is not opened.atlas:
                self._held[key] = held = opened.atlas, self._measured(opened, index, passed)
                while len(self._held) > KEPT_PAGES:
                    self._held.popitem(last=False)
        return {"atlas": name, "index": index, "examples": held[1].examples().to_dict()}

    def leave(self, asker: str) -> EffectsLeft:
        """Nobody waits for what this asker asked for last."""
        return {"left": self._askers.leave(asker)}

    def _measured(self, opened: Opened, index: int, passed: Callable[[], bool]) -> FeaturePage:
        model = need_model(self._now().model).model
        whole = page(model, opened.atlas, index, opened.dictionary, effects=False)
        places = [(one.row, one.pos) for one in whole.shown]
        found = effects(
            model, opened.atlas, index, places, opened.dictionary, progress=lambda *_: self._quiet(), cancel=passed
        )
        return replace(whole, effects=found)
