"""The shelf as a mapping: items by name, read and put."""

from collections.abc import Iterator, MutableMapping
from typing import Any

from residscope.errors import BadArguments
from residscope.items import Item
from residscope.session import Session


class Items(MutableMapping[str, Any]):
    """`wb.items["name"]`; put one, and it is on the page's shelf too; `del` takes it off."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getitem__(self, name: str) -> Any:
        return self._session.items[name]

    def __setitem__(self, name: str, item: Any) -> None:
        """Raises BadArguments: it is no item. BadText, ShelfFull, NotWritten."""
        if not isinstance(item, Item):
            raise BadArguments(
                "only an item can be put on the shelf", received=type(item).__name__,
                allowed="a result, report, direction, dictionary, probe, recording, prompts, generation",
            )  # fmt: skip
        if name in self._session.items:
            self._session.take_off(name)
        self._session.keep(name, item)

    def __delitem__(self, name: str) -> None:
        if name not in self._session.items:
            raise KeyError(name)
        self._session.take_off(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._session.items)

    def __len__(self) -> int:
        return len(self._session.items)

    def __repr__(self) -> str:
        return f"<{len(self)} items: {', '.join(self)}>" if self else "<no items>"
