"""The latest pages of prompts, made beside the live run, which goes first."""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from residscope.corpus.text import Source
from residscope.declare import shorten
from residscope.errors import Cancelled, NotFound
from residscope.session import prompt_page
from residscope.session.prompt_page import PAGE_BYTES, Page, Recorded
from residscope.session.session import Session
from residscope.world.loaded import Loaded
from residscope.world.mixing import dictionary_of
from residscope.world.session_world import need_model
from residscope.world.values import Prompt

MOST_PAGES = 3
PAUSE = 0.01  # seconds between two looks at whether the live run is done


class PromptPages:
    """Pages by id. A newer request stops the one before; what was drawn for the same text, number, length and seed is kept."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._pages: OrderedDict[str, tuple[Loaded, object, Page]] = OrderedDict()
        self._asked = 0

    def make(self, text: Source, *, key: str, n: int, length: int, seed: int, own: Sequence[str]) -> dict[str, Any]:
        """A new page. `key` names the text; n may be 0: then one's own prompts alone.

        Raises:
            ModelNotFound, EmptyPrompt, PromptTooLong, PageTooLarge, CorpusError; Cancelled: a newer one was asked for.
        """
        loaded = self._loaded()
        with self._lock:
            self._asked += 1
            number = self._asked

        def turn() -> None:
            self._wait()
            if number != self._asked or self._loaded().model is not loaded.model:
                raise Cancelled("another page of prompts was asked for meanwhile", fix="ask for this one again")

        mine = prompt_page.fitting(loaded, [loaded.prompt(text) for text in own])
        drawing = (key, n, length, seed)
        drawn = self._drawn(loaded, drawing)
        wanted = () if drawn is not None or n == 0 else prompt_page.draw(loaded, text, n=n, length=length, seed=seed)
        there = drawn or ()
        tokens = [*mine, *wanted, *(recorded.prompt for recorded in there)]
        prompt_page.check_room(loaded, sum(len(prompt.tokens) for prompt in tokens))
        recorded_own = self._own(loaded, mine, turn)
        page = Page(f"p{number}", recorded_own, there or prompt_page.record(loaded, wanted, turn=turn))
        if not page.prompts:
            raise NotFound("there is no prompt to show", fix="type one, or ask for some from a text")
        turn()
        self._keep(loaded, drawing, page)
        return prompt_page.describe(page, loaded)

    def coef(self, id: str, *, dictionary: str, row: int) -> bytes:
        """A row in the coordinates of a dictionary, or of a saved direction, `saved:NAME`. Raises NotFound, UnknownLayer."""
        loaded, page = self._page(id)
        found = dictionary_of(dictionary, loaded, self._session.state.directions)
        return prompt_page.coef(page, loaded, found, row, turn=self._wait)

    def logits(self, id: str, *, positive: int, negative: int, row: int) -> bytes:
        """Raises NotFound, UnknownLayer, UnknownToken."""
        loaded, page = self._page(id)
        model = loaded.model
        return prompt_page.logits(
            page, loaded, positive=model.token_id(positive), negative=model.token_id(negative), row=row
        )

    def _own(self, loaded: Loaded, prompts: Sequence[Prompt], turn: prompt_page.Turn) -> tuple[Recorded, ...]:
        """One's own prompts: taken from runs that are still held, from the latest pages, or run."""
        with self._lock:
            pages = [page for model, _, page in self._pages.values() if model.model is loaded.model]
        known = {recorded.prompt.ids: recorded for page in pages for recorded in page.own}
        for prompt in prompts:
            if prompt.ids not in known and (held := self._session.kept(prompt)) is not None:
                k = prompt_page.NEXT
                known[prompt.ids] = Recorded(prompt, held.rows, held.sink, held.next_id[:, :k], held.next_p[:, :k])
        missing = [prompt for prompt in prompts if prompt.ids not in known]
        known |= {recorded.prompt.ids: recorded for recorded in prompt_page.record(loaded, missing, turn=turn)}
        return tuple(known[prompt.ids] for prompt in prompts)

    def _drawn(self, loaded: Loaded, drawing: object) -> tuple[Recorded, ...] | None:
        with self._lock:
            for model, known, page in self._pages.values():
                if known == drawing and model.model is loaded.model:
                    return page.drawn
        return None

    def _keep(self, loaded: Loaded, drawing: object, page: Page) -> None:
        with self._lock:
            for id, (model, _, _) in list(self._pages.items()):
                if model.model is not loaded.model:
                    del self._pages[id]
            self._pages[page.id] = (loaded, drawing, page)
            while len(self._pages) > MOST_PAGES or (
                len(self._pages) > 1 and sum(page.bytes for _, _, page in self._pages.values()) > PAGE_BYTES
            ):
                self._pages.popitem(last=False)

    def _page(self, id: str) -> tuple[Loaded, Page]:
        loaded = self._loaded()
        with self._lock:
            model, _, page = self._pages.get(id, (None, None, None))
        if model is None or page is None or model.model is not loaded.model:
            raise NotFound(
                "that page of prompts is no longer held, or never was",
                received=shorten(id),
                allowed=f"the latest {MOST_PAGES}",
                fix="ask for it again",
            )
        return loaded, page

    def _wait(self) -> None:
        """Until the live run is done."""
        while self._session.state.status.phase == "running":
            time.sleep(PAUSE)

    def _loaded(self) -> Loaded:
        return need_model(self._session.state.model)
