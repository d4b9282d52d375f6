"""The user's library of directions, in a notebook's session as on a server's page."""

from typing import Any

from residscope.errors import ResidscopeError
from residscope.server.library import LibraryHandlers
from residscope.server.people import People, Person, Present
from residscope.session import Session
from residscope.store import Library, open_library


class Desk:
    """The library, and whoever sits at this notebook: nobody until they choose a name on the page."""

    def __init__(self, session: Session) -> None:
        self.who: Any = Person()
        self.library: Library | None = None
        self._present = Present(session.tell_present)
        try:
            self.library = open_library()
            people = People(self.library.database.folder)
        except ResidscopeError as error:
            session.notify(f"The library cannot be opened: {error}")
            return
        handlers = LibraryHandlers(session, self.library, people, self._present)
        session.bring(queries=handlers.queries, intents=handlers.intents)
        session.tell_library()
        self._present.enter(self.who)

    def close(self) -> None:
        if self.library is not None:
            self._present.leave(self.who)
            self.library.close()
