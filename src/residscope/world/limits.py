"""What a server lets those who use it ask of its machine: which folders are opened, which services are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from residscope.errors import NoEndpoint, OwnersAlone
from residscope.features.endpoint import Endpoint, base_of
from residscope.fields.endpoints import EndpointRef
from residscope.incoming import path_of
from residscope.sae.shipped import SHIPPED

ANY = "*"


@dataclass(frozen=True)
class Offered:
    """An endpoint that may be asked: its base, one of its models (None: any), and the environment variable of its key."""

    url: str
    model: str | None = None
    key: str | None = None

    @classmethod
    def parse(cls, words: str) -> "Offered":
        """`URL`, `URL MODEL`, `URL MODEL KEY`; a MODEL of * is any. Raises NoEndpoint."""
        url, *more = words.split() or [""]
        model, key = (*more, None, None)[:2]
        if len(more) > 2:
            raise NoEndpoint(
                "an endpoint has three parts at most", received=words[:200], allowed="URL, URL MODEL, or URL MODEL KEY"
            )
        return cls(base_of(url), None if model == ANY else model, key)


@dataclass(frozen=True)
class Limits:
    """shared: whether several people use the server; where one does, everything that they could do anyway is allowed.

    folders: where dictionaries may be opened. endpoints: services that may be asked for names.
    """

    shared: bool = False
    folders: tuple[Path, ...] = ()
    endpoints: tuple[Offered, ...] = ()

    @classmethod
    def of(cls, *, shared: bool, folders: Sequence[str | Path] = (), endpoints: Sequence[str] = ()) -> "Limits":
        """Raises NoEndpoint."""
        real = tuple(Path(folder).expanduser().resolve() for folder in folders)
        return cls(shared, real, tuple(map(Offered.parse, endpoints)))

    def place(self, source: str) -> str:
        """A source of dictionaries that may be opened: on a shared server what ships, a hub's, and files of its own folders.

        There a name without `/`, `~` or `.` in front is a hub's, whatever lies in the folder the server was started in.

        Raises:
            OwnersAlone.
        """
        if not self.shared:
            return source
        path = path_of(source)
        if ".." in path.parts:
            raise self._closed(source)
        if path.is_absolute() or source.startswith(("~", ".")):
            real = path.resolve()
            if not any(real.is_relative_to(folder) for folder in self.folders):
                raise self._closed(source)
            return str(real)
        return source if source.partition("/")[0] == SHIPPED else f"hub:{source.removeprefix('hub:')}"

    def _closed(self, source: str) -> OwnersAlone:
        folders = ", ".join(map(str, self.folders))
        return OwnersAlone(
            "several people use this server, and it opens no file of its machine's but in folders of its own",
            received=source[:200],
            allowed="shipped, owner/name of the hub" + (f", or a path under {folders}" if folders else ""),
            fix="import the file from your own machine; or whoever started the server adds a folder: --dictionaries FOLDER",
        )

    def endpoint(self, asked: EndpointRef) -> Endpoint:
        """The service that is asked; on a shared server one of those that its owner named, with the key that belongs to it.

        Raises:
            OwnersAlone, NoEndpoint.
        """
        if not self.shared:
            return Endpoint(asked.url, asked.model, asked.key)
        url = base_of(asked.url)
        for own in self.endpoints:
            if own.url == url and own.model in (None, asked.model) and asked.key in (None, own.key):
                return Endpoint(own.url, asked.model, own.key)
        known = ", ".join(f"{own.url} {own.model or ANY}" for own in self.endpoints)
        raise OwnersAlone(
            "several people use this server, and it asks no service but those that its owner named",
            received=f"{url} {asked.model}" + (f", key in {asked.key}" if asked.key else ""),
            allowed=known or "none was named",
            fix='whoever started it names it: --naming-endpoint "URL MODEL KEY_VARIABLE"',
        )


OWN = Limits()
