"""Gathering evidence for a direction beside the live run, which goes first; and what the page is told of it."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import Field

from residscope.corpus.text import BUILT_IN
from residscope.engine.model import Model
from residscope.engine.planner.pricing import prices_of
from residscope.errors import Cancelled, NotFound, explain
from residscope.fields.base import Spec
from residscope.fields.texts import TextRef
from residscope.methods.evidence import Evidence, gather
from residscope.session.evidence_views import describe_evidence
from residscope.session.stack import parse_ref
from residscope.session.state import Gathering, State
from residscope.session.world import need_model, source_of

MOST_HELD = 12
TOKENS = 8_000
PACK = 512  # tokens: a live run waits for one pass of so many at most
PAUSE = 0.01  # seconds between two looks at whether the live run is done
PROGRESS_EVERY = 0.1  # seconds


class GatherEvidence(Spec):
    direction: Any
    text: TextRef | None = None
    tokens: int = Field(default=TOKENS, ge=1_000, le=200_000)


def gather_evidence(state: State, args: GatherEvidence) -> tuple[State, Any]:
    """The intent: resolves the direction and the text, so that what cannot be gathered is refused at once."""
    loaded = need_model(state.model)
    ref = parse_ref(args.direction)
    direction = state.world().direction(ref)
    corpus = BUILT_IN[0] if args.text is None else source_of(args.text)
    asked = repr((loaded.model.hash, ref.model_dump_json(), args.text and args.text.model_dump_json(), args.tokens))
    key = hashlib.sha256(asked.encode()).hexdigest()[:16]
    now = state.evidence
    if now is not None and now.key == key and not now.done and now.error is None:
        return state, {"key": key}
    return replace(
        state, evidence=Gathering(key, direction.name, ref.model_dump(mode="json"), direction, corpus, args.tokens)
    ), {"key": key}


def cancel_evidence(state: State, args: Any) -> tuple[State, Any]:
    return replace(state, evidence=None), None


class EvidenceJobs:
    """Threads that gather evidence, stage by stage. A newer one, a cancel and another model all end the one before.

    now: the session's state. commit: makes a state the session's. lock: held around both.
    """

    def __init__(self, now: Callable[[], State], commit: Callable[[State], None], lock: threading.RLock) -> None:
        self._now, self._commit, self._lock = now, commit, lock
        self._held: OrderedDict[str, tuple[Model, int, bool, Evidence]] = OrderedDict()

    def start(self, asked: Gathering) -> None:
        threading.Thread(target=self._run, args=(asked,), name="residscope-evidence", daemon=True).start()

    def describe(self, key: str) -> dict[str, Any]:
        """`GET api/evidence` of the wire. Raises NotFound."""
        with self._lock:
            held = self._held.get(key)
            loaded = self._now().model
        if held is None or loaded is None or held[0] is not loaded.model:
            raise NotFound(
                "no evidence of that key is held", received=key[:40], allowed=f"the latest {MOST_HELD} of this model",
                fix="gather it again",
            )  # fmt: skip
        _, revision, done, evidence = held
        return {"key": key, "revision": revision, "done": done, **describe_evidence(evidence)}

    def _run(self, asked: Gathering) -> None:
        known, told = asked, 0.0

        def report(now: Gathering, found: tuple[Model, Evidence] | None = None) -> None:
            nonlocal known
            while self._now().status.phase == "running" and self._now().evidence is known:
                time.sleep(PAUSE)
            with self._lock:
                state = self._now()
                if state.evidence is not known:
                    raise Cancelled("the gathering was cancelled")
                if found is not None:
                    self._keep(now, *found)
                self._commit(replace(state, evidence=now))
                known = now

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal told
            if stage == known.stage and done < total and time.monotonic() - told < PROGRESS_EVERY:
                if self._now().evidence is not known:
                    raise Cancelled("the gathering was cancelled")
                return
            told = time.monotonic()
            report(replace(known, stage=stage, progress=min(done / total, 1.0) if total else None))

        try:
            model = need_model(self._now().model).model
            with self._lock:
                held = self._held.get(asked.key)
            if held is not None and held[0] is model and held[2]:
                report(replace(known, revision=held[1], done=True, progress=None), (model, held[3]))
                return
            found = None
            for found in gather(
                model, asked.direction, asked.corpus, tokens=asked.tokens, memory=_memory(model), progress=tell
            ):
                report(replace(known, revision=known.revision + 1), (model, found))
            assert found is not None
            report(replace(known, done=True, progress=None, revision=known.revision + 1), (model, found))
        except Cancelled:
            return
        except Exception as error:
            with self._lock:
                if self._now().evidence is known:
                    self._commit(replace(self._now(), evidence=replace(known, progress=None, error=explain(error))))

    def _keep(self, now: Gathering, model: Model, found: Evidence) -> None:
        self._held[now.key] = (model, now.revision, now.done, found)
        self._held.move_to_end(now.key)
        for key in [key for key, held in self._held.items() if held[0] is not model]:
            del self._held[key]
        while len(self._held) > MOST_HELD:
            self._held.popitem(last=False)


def _memory(model: Model) -> int:
    """So little for a sweep that one pass of it is short."""
    return 2 * PACK * prices_of(model.layout).bytes
