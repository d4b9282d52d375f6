"""Listening: the port first, so that the page is there while the model loads."""

import errno
import html
import ipaddress
import logging
import os
import resource
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import uvicorn

from residscope.corpus.text import python_docs
from residscope.drafts import replace_whole, sweep
from residscope.errors import BadAddress, PortInUse, StoreError
from residscope.model import adapters, catalog, weights
from residscope.server.addresses import Addresses, Forwarder
from residscope.server.app import create_app
from residscope.server.boxes import MESSAGE_BYTES
from residscope.server.ending import at_work, ending, leave
from residscope.server.people import People
from residscope.server.strangers import Once, Strangers, watched
from residscope.session import Session
from residscope.session.wire import ModelOffer
from residscope.store import Library, open_library
from residscope.world.limits import Limits

DEFAULT_PORT = 8765
UNENCRYPTED = (
    "Whoever has this link can use this session, and it goes over the network unencrypted. Between machines that others share a\n"
    "network with: ssh -L PORT:127.0.0.1:PORT MACHINE, or a proxy with https that --behind names.\n\n"
)
SAID_ONCE = Once()
MOST_FILES = 65_536


class _Uvicorn(uvicorn.Server):  # type: ignore[misc]
    """Leaves signals to whoever serves."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
        self._once: set[str] = set()
        self._strangers = Strangers()
        self._handed: Path | None = None
        people = None if library is None else People(library.database.folder)
        app = create_app(
            session,
            token=self.token,
            port=self.port,
            page=page,
            library=library,
            people=people,
            addresses=Addresses(network=self.network, behind=self.behind),
            once=self._once,
            known=self._strangers.known,
        )
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # the printed link holds the token
                server_header=False,
                proxy_headers=False,
                http=watched(self._strangers),
                ws="websockets-sansio",
                ws_max_size=MESSAGE_BYTES,
                ws_per_message_deflate=False,  # for each page anew, and tensors hardly shrink
                timeout_graceful_shutdown=1,
                lifespan="off",
            )
        )
        logging.getLogger("asyncio").addFilter(SAID_ONCE)
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

    def hand_over(self, folder: Path) -> Path:
        """A page for a browser of this user's, which leads to this server by a link that works once.

        A link given to a browser as an argument stands in the list of processes, which every user of the machine may read; the
        file's name may stand there, for nobody else can open it.
        """
        token = secrets.token_urlsafe(32)
        self._once.add(token)
        link = html.escape(self.url.replace(self.token, token))
        file = folder / "open" / f"{self.port}.html"
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f'<title>Residscope</title><meta http-equiv="refresh" content="0;url={link}">'
            f'<p><a href="{link}">Open Residscope</a></p>'
        )
        replace_whole(file, lambda draft: draft.write_text(page), private=True)
        self._handed = file
        return file

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
        """Serve in this thread until stopped."""
        try:
            self._uvicorn.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def start(self) -> "Server":
        self._thread.start()
        return self

    def end(self) -> None:
        """Stop what runs and listen no more; waits for nothing."""
        self._uvicorn.should_exit = True
        self.session.stop()

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        if self._thread.is_alive():
            self._thread.join(10)
        self.close()

    def close(self) -> None:
        if self._handed is not None:
            self._handed.unlink(missing_ok=True)
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
    """Open the workbench on a model and serve it until Ctrl-C or SIGTERM, either of which ends it within two seconds.

    store: the library's database, the user's own unless said.

    host: "0.0.0.0" listens to the network. behind: addresses of forwarders and proxies that lead here, such as
    "https://hub.example.org/user/ada/proxy/8765/". Either makes it a server for several, on which
    dictionaries are opened from the hub, the data folder and the folders `dictionaries` alone, and features named by the services
    `naming` alone, each "URL", "URL MODEL" or "URL MODEL KEY", where KEY is an environment variable.

    It goes on where it was left on this port: prompt, answers and edits, if the model is the same. Without a model it is the
    one it was left with, else the default.

    Raises:
        PortInUse, BadAddress, NoEndpoint: before anything is loaded. StoreError: so, of a `store` that was asked for; where the
        user's own library cannot be opened the page says why, and works without it.
    """
    more_files()
    session = new_session(port)
    folders = [catalog.data_folder(), *map(Path, dictionaries)]
    server = Server(
        session,
        host=host,
        port=port,
        library=_library(session, store),
        behind=behind,
        folders=folders,
        endpoints=naming,
    )
    kept = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    session.load(session.last_model or catalog.DEFAULT if model is None else model, dtype=kept, device=device)
    links = "\n    ".join(server.urls)
    print(
        f"Residscope is open at\n\n    {links}\n\n{UNENCRYPTED if server.exposed else ''}Ctrl-C stops it.", flush=True
    )
    threading.Thread(target=read_ahead, args=(session,), daemon=True).start()
    if open_browser:
        page = server.hand_over(catalog.data_folder()).as_uri()
        threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
    with ending(server.end) as told:
        try:
            server.run()
        finally:
            server.close()
        if told():
            print("\nStopped.", file=sys.stderr)
            if at_work():
                leave()


def more_files() -> None:
    """As many open files and connections as this user may have: each open page holds several, and 1,024 are soon used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _library(session: Session, store: str | None) -> Library | None:
    try:
        return open_library(store)
    except StoreError as error:
        if store is not None:
            raise
        session.notify(f"The library cannot be opened: {error}")
        print(f"The library cannot be opened: {error}", flush=True)
        return None


def read_ahead(session: Session) -> None:
    """The built-in text, once the first picture can be had, so that the first draw of prompts does not wait for it."""
    session.wait()
    for _ in python_docs():
        session.give_way()


def new_session(port: int = 0) -> Session:
    """A session with the catalog's models and the user's own folder; one of a port of its own remembers where it was left."""
    from residscope.engine.loading import load

    folder = catalog.data_folder()
    with suppress(OSError):  # said where something is to be kept
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for place in (folder, catalog.cache_folder()):
        sweep(place, below=True)
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
