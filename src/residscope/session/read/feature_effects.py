"""What taking a feature out does on its examples: it runs the model, beside live runs, for whoever asked last."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from residscope.errors import Cancelled
from residscope.features.atlas import Atlas
from residscope.features.feature_page import FeaturePage, page
from residscope.features.removal import effects
from residscope.session.read.feature_parts import Opened
from residscope.session.read.feature_shapes import EffectsLeft, FeatureEffects
from residscope.session.read.features import Features
from residscope.session.state import State
from residscope.world.session_world import need_model

KEPT_PAGES, KEPT_ASKERS = 24, 64


class FeatureEffectsReads:
    """now: the session's state; features: the atlases; quiet: waits until no live run does.

    Of each asker (a page has a name of its own) only the latest question is answered: the one before is refused with Cancelled.
    """

    def __init__(self, now: Callable[[], State], features: Features, quiet: Callable[[], object]) -> None:
        self._now, self._features, self._quiet = now, features, quiet
        self._turn = threading.Lock()  # around the model: one feature is measured at a time
        self._guard = threading.Lock()  # around what is held
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._number = 0
        self._under: set[str] = set()
        self._held: OrderedDict[tuple[int, int], tuple[Atlas, FeaturePage]] = OrderedDict()

    def measure(self, name: str, index: int, *, asker: str = "") -> FeatureEffects:
        """A feature's examples, with what taking it out at each does to the next token.

        Raises NotFound, WrongModel, DirectionError; Cancelled where the asker has asked for another since, or has left.
        """
        number = self._ask(asker)

        def passed() -> bool:
            return self._asked.get(asker) != number

        opened = self._features.open(name)
        opened.atlas.check_index(index)
        key = id(opened.atlas), index
        with self._turn:
            held = self._held.get(key)
            if held is None or held[0] is not opened.atlas:
                if passed():
                    raise Cancelled("another feature has been asked for since", fix="ask for it again")
                with self._guard:
                    self._under.add(asker)
                try:
                    made = self._measured(opened, index, passed)
                finally:
                    with self._guard:
                        self._under.discard(asker)
                with self._guard:
                    self._held[key] = held = opened.atlas, made
                    while len(self._held) > KEPT_PAGES:
                        self._held.popitem(last=False)
        return {"atlas": name, "index": index, "examples": held[1].examples().to_dict()}

    def leave(self, asker: str) -> EffectsLeft:
        """Nobody waits for what this asker asked for last."""
        with self._guard:
            self._asked.pop(asker, None)
            return {"left": asker in self._under}

    def _ask(self, asker: str) -> int:
        with self._guard:
            self._number += 1
            self._asked[asker] = self._number
            self._asked.move_to_end(asker)
            while len(self._asked) > KEPT_ASKERS:
                self._asked.popitem(last=False)
            return self._number

    def _measured(self, opened: Opened, index: int, passed: Callable[[], bool]) -> FeaturePage:
        model = need_model(self._now().model).model
        whole = page(model, opened.atlas, index, opened.dictionary, effects=False)
        places = [(one.row, one.pos) for one in whole.shown]
        found = effects(
            model, opened.atlas, index, places, opened.dictionary, progress=lambda *_: self._quiet(), cancel=passed
        )
        return replace(whole, effects=found)
