"""A door to a session over messages with octets beside them, which a Jupyter comm has: what docs/wire.md says of a WebSocket.

Messages may be lost before a page listens, so a page says hello until it is answered; and several pages may stand behind one
door (the views of one widget), each by the name it gave itself, which stands as `to` in what is meant for it alone.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from residscope.declare import shorten
from residscope.errors import MalformedJSON, ResidscopeError, explain
from residscope.session import Session

Send = Callable[[dict[str, Any], Sequence[bytes]], None]
MOST_PAGES = 64
ASKERS = 3  # queries answered at once: one that waits for the model does not hold the others
LAST_WORDS = 2.0  # seconds
_log = logging.getLogger(__name__)


class Door:
    """What the pages of one widget ask, and what they are told, in order, from a thread of its own.

    send: sends a message with octets beside it to every page; called from that thread alone. who: asks, where a library is to
    know it. Every method may be called from any thread, and none waits for the model.
    """

    def __init__(self, session: Session, send: Send, *, who: Any = None) -> None:
        self._session, self._send, self._who = session, send, who
        self._outbox: queue.SimpleQueue[tuple[dict[str, Any], list[bytes]] | str | None] = queue.SimpleQueue()
        self._pages: dict[str, set[tuple[str, str]]] = {}  # by name, what each was sent beside the news
        self._changes: Executor = ThreadPoolExecutor(1, "residscope-intents")
        self._questions: Executor = ThreadPoolExecutor(ASKERS, "residscope-queries")
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="residscope-door", daemon=True)
        self._stop = session.subscribe(lambda seq, patch: self._outbox.put(({"seq": seq, "patch": patch}, [])))[2]
        self._thread.start()

    @property
    def pages(self) -> int:
        """How many pages are open behind it."""
        return len(self._pages)

    def hear(self, message: Any, buffers: Sequence[Any] = ()) -> None:
        """What a page says; the answer goes out by itself."""
        if self._closed or not isinstance(message, Mapping):
            return
        page = message.get("page")
        if not isinstance(page, str) or len(page) > 64:
            return
        if "hello" in message:
            self._outbox.put(page)
        elif "bye" in message:
            self._pages.pop(page, None)
        elif "ping" in message:
            self._outbox.put(({"to": page, "pong": message["ping"]}, []))
        else:
            executor = self._changes if "intent" in message else self._questions
            executor.submit(self._answer, page, dict(message), [bytes(buffer) for buffer in buffers])

    def close(self) -> None:
        """Tell the pages that it is over, and then nothing more."""
        self._closed = True
        self._stop()
        for executor in (self._changes, self._questions):
            executor.shutdown(wait=False, cancel_futures=True)
        self._outbox.put(({"ended": True}, []))
        self._outbox.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(LAST_WORDS)

    # ── the threads ─────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, page: str, message: dict[str, Any], files: list[bytes]) -> None:
        head: dict[str, Any] = {"to": page, "id": message.get("id")}
        try:
            if "file" in message:
                self._file(head, message["file"])
                return
            kinds = {"intent", "query"} & message.keys()
            if len(kinds) != 1 or not isinstance(message[kind := kinds.pop()], str):
                allowed = "{page, id, intent, args} or {page, id, query, args}"
                raise MalformedJSON("the message does not parse", received=shorten(message), allowed=allowed)
            args = message.get("args")
            if files:
                args = {**(args or {}), "data": files[0]}
            ask = self._session.intent if kind == "intent" else self._session.query
            value = ask(message[kind], args, self._who)
        except ResidscopeError as error:
            self._outbox.put(({**head, "error": error.to_dict()}, []))
        except Exception as error:
            _log.exception("an intent or a query failed")
            self._outbox.put(({**head, "error": explain(error)}, []))
        else:
            if isinstance(value, bytes):
                self._outbox.put(({**head, "ok": True, "tensors": True}, [bytes(value)]))
            else:
                self._outbox.put(({**head, "ok": True, "value": value}, []))

    def _file(self, head: dict[str, Any], asked: Any) -> None:
        """An item as a file, which a server has an address for."""
        if not isinstance(asked, Mapping) or not all(isinstance(asked.get(key), str) for key in ("name", "ending")):
            raise MalformedJSON("the file asked for does not parse", received=shorten(asked), allowed="{name, ending}")
        name, data = self._session.file(asked["name"], asked["ending"])
        self._outbox.put(({**head, "ok": True, "value": name}, [bytes(data)]))

    def _work(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                if isinstance(message, str):
                    self._welcome(message)
                else:
                    self._tell(*message)
            except Exception:  # a front end that is gone: the session goes on
                _log.debug("a message was not sent", exc_info=True)

    def _welcome(self, page: str) -> None:
        """The whole state, to a page that is new or has lost its place."""
        while len(self._pages) >= MOST_PAGES:
            self._pages.pop(next(iter(self._pages)))
        self._pages[page] = set()
        seq, state = self._session.snapshot()
        self._push({"to": page}, state, self._pages[page])
        self._send({"to": page, "seq": seq, "state": state}, [])

    def _tell(self, message: dict[str, Any], files: list[bytes]) -> None:
        if "patch" not in message:
            self._send(message, files)
        elif self._pages:
            for page, sent in [*self._pages.items()]:
                self._push({"to": page}, message["patch"], sent)
            self._send(message, [])

    def _push(self, head: dict[str, Any], news: Mapping[str, Any], sent: set[tuple[str, str]]) -> None:
        """The tensors of a new run go before the news of it, so that a page need not ask for them."""
        runs = [run for run in dict.fromkeys((news.get("current") or {}).values()) if run is not None]
        for query, args, data in self._session.reads.pictures(runs, sent) if runs else ():
            self._send({**head, "pushed": {"query": query, "args": args}}, [bytes(data)])
