"""Listening: the port first, so that the page is there while the model loads."""

import errno
import ipaddress
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import uvicorn

from residscope.corpus.text import python_docs
from residscope.errors import BadAddress, PortInUse
from residscope.model import adapters, catalog, weights
from residscope.server.addresses import Addresses, Forwarder
from residscope.server.app import create_app
from residscope.server.people import People
from residscope.server.sockets import MESSAGE_BYTES
from residscope.session import Session
from residscope.session.wire import ModelOffer
from residscope.store import Library, open_library
from residscope.world.limits import Limits

DEFAULT_PORT = 8765
UNENCRYPTED = (
    "Whoever has this link can use this session, and it goes over the network unencrypted. Between machines that others share a\n"
    "network with: ssh -L PORT:127.0.0.1:PORT MACHINE, or a proxy with https that --behind names.\n\n"
)


class Server:
    """A session behind a loopback port, in a thread of its own.

        with Server(session, port=0) as server:
            print(server.url)

    Raises:
        PortInUse, BadAddress: before anything is started.
    """

    def __init__(
        self,
        session: Session,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        token: str | None = None,
        page: Path | None = None,
        library: Library | None = None,
        behind: Sequence[str] = (),
        folders: Sequence[str | Path] = (),
        endpoints: Sequence[str] = (),
    ) -> None:
        """folders, endpoints: what others than its owner may open and ask, where the server is `shared`."""
        limits = Limits.of(shared=False, folders=folders, endpoints=endpoints)
        self.session, self.library = session, library
        self.behind = [Forwarder.parse(url) for url in behind]
        self._socket, self.network = bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        session.limit(replace(limits, shared=self.shared))
        self.host = named(host)
        self.token = token or secrets.token_urlsafe(32)
        people = None if library is None else People(library.database.folder)
        app = create_app(
            session,
            token=self.token,
            port=self.port,
            page=page,
            library=library,
            people=people,
            addresses=Addresses(network=self.network, behind=self.behind),
        )
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # the printed link holds the token
                server_header=False,
                proxy_headers=False,
                ws="websockets-sansio",
                ws_max_size=MESSAGE_BYTES,
                timeout_graceful_shutdown=2,
                lifespan="off",
            )
        )
        self._thread = threading.Thread(target=self.run, name="residscope-server", daemon=True)

    @property
    def url(self) -> str:
        """The one-time link: the forwarder's, where there is one."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """The link for each forwarder, then the one without any."""
        through = [f"{one.url}?token={self.token}&by={number}" for number, one in enumerate(self.behind)]
        return [*through, f"{self.base}?token={self.token}"]

    @property
    def shared(self) -> bool:
        """Whether others than who started it may use it: it listens to a network, or stands behind a forwarder."""
        return self.network or bool(self.behind)

    @property
    def exposed(self) -> bool:
        """Whether the link and all that is said go over a network as they are."""
        return self.network and not any(one.encrypted for one in self.behind)

    @property
    def base(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def run(self) -> None:
        """Serve in this thread until stopped (or, in the main thread, until Ctrl-C)."""
        try:
            self._uvicorn.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def start(self) -> "Server":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        if self._thread.is_alive():
            self._thread.join(10)
        self.close()

    def close(self) -> None:
        self.session.close()
        if self.library is not None:
            self.library.close()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(
    model: Any = None,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    open_browser: bool = True,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    store: str | None = None,
    behind: Sequence[str] = (),
    dictionaries: Sequence[str] = (),
    naming: Sequence[str] = (),
) -> None:
    """Open the workbench on a model and serve it until Ctrl-C. `store`: the library's database, the user's own unless said.

    host: "0.0.0.0" listens to the network. behind: addresses of forwarders and proxies that lead here, such as
    "https://hub.example.org/user/ada/proxy/8765/". Either makes it a server for several, on which
    dictionaries are opened from the hub, the data folder and the folders `dictionaries` alone, and features named by the services
    `naming` alone, each "URL", "URL MODEL" or "URL MODEL KEY", where KEY is an environment variable.

    It goes on where it was left on this port: prompt, answers and edits, if the model is the same. Without a model it is the
    one it was left with, else the default.

    Raises:
        PortInUse, BadAddress, StoreError, NoEndpoint: before anything is loaded.
    """
    session = new_session(port)
    folders = [catalog.data_folder(), *map(Path, dictionaries)]
    server = Server(
        session, host=host, port=port, library=open_library(store), behind=behind, folders=folders, endpoints=naming
    )
    kept = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    session.load(session.last_model or catalog.DEFAULT if model is None else model, dtype=kept, device=device)
    links = "\n    ".join(server.urls)
    print(
        f"Residscope is open at\n\n    {links}\n\n{UNENCRYPTED if server.exposed else ''}Ctrl-C stops it.", flush=True
    )
    threading.Thread(target=read_ahead, args=(session,), daemon=True).start()
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
    try:
        server.run()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
    finally:
        server.close()


def read_ahead(session: Session) -> None:
    """The built-in text, once the first picture can be had, so that the first draw of prompts does not wait for it."""
    session.wait()
    for _ in python_docs():
        session.give_way()


def new_session(port: int = 0) -> Session:
    """A session with the catalog's models and the user's own folder; one of a port of its own remembers where it was left."""
    from residscope.engine.loading import load

    folder = catalog.data_folder()
    memory = folder / "sessions" / f"{port}.json" if port else None
    return Session(load=load, offers=offers, folder=folder, memory=memory)


def offers() -> tuple[ModelOffer, ...]:
    """The catalog's models, and behind its own base each adapter that ships."""
    found: list[ModelOffer] = []
    for entry in catalog.CATALOG.values():
        cached = weights.cached(entry.name)
        found.append({"name": entry.name, "about": entry.about, "cached": cached})
        if entry.name == catalog.DEFAULT:
            found += [
                {"name": f"{entry.name}{adapters.BETWEEN}{name}", "about": adapters.about(name), "cached": cached}
                for name in adapters.shipped()
            ]
    return tuple(found)


def bind(host: str, port: int) -> tuple[socket.socket, bool]:
    """A listening socket on an address of this machine's, and whether others can reach it.

    Raises:
        BadAddress, PortInUse.
    """
    name = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        found = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM)[0] if name else None
    except (OSError, UnicodeError):
        found = None
    if found is None:
        raise not_ours(host)
    family, *_, address = found
    sock = socket.socket(family)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise not_ours(host) from None
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise PortInUse(
            "the port cannot be taken: another program listens there",
            received=f"{host}:{port}",
            fix="stop it, or choose another with --port (0: any free one)",
        ) from None
    return sock, not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback


def not_ours(host: str) -> BadAddress:
    return BadAddress(
        "this machine has no such address to listen on",
        received=f"host {host}",
        allowed="127.0.0.1 (this machine alone), 0.0.0.0 (every network it is in), an address of its own",
        fix="to be reached by another name, say --behind https://that.name/",
    )


def named(host: str) -> str:
    """What stands in a link: a name for addresses that stand for all."""
    name = host.strip("[]")
    if name in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{name}]" if ":" in name else name
