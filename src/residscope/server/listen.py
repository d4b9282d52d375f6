"""Listening: the port first, so that the page is there while the model loads."""

import errno
import ipaddress
import os
import secrets
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Any

import torch
import uvicorn

from residscope.corpus.text import python_docs
from residscope.errors import NotAllowed, PortInUse
from residscope.model import adapters, catalog, weights
from residscope.server.app import create_app
from residscope.server.people import People
from residscope.server.sockets import MESSAGE_BYTES
from residscope.session import Session
from residscope.session.wire import ModelOffer
from residscope.store import Library, open_library

DEFAULT_PORT = 8765


class Server:
    """A session behind a loopback port, in a thread of its own.

        with Server(session, port=0) as server:
            print(server.url)

    Raises:
        PortInUse, NotAllowed: before anything is started.
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
    ) -> None:
        self.session, self.library = session, library
        self._socket = bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.host = f"[{host}]" if ":" in host else host
        self.token = token or secrets.token_urlsafe(32)
        people = None if library is None else People(library.database.folder)
        app = create_app(session, token=self.token, port=self.port, page=page, library=library, people=people)
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
        """The one-time link."""
        return f"{self.base}?token={self.token}"

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
) -> None:
    """Open the workbench on a model and serve it until Ctrl-C. `store`: the library's database, the user's own unless said.

    It goes on where it was left on this port: prompt, answers and edits, if the model is the same. Without a model it is the
    one it was left with, else the default.

    Raises:
        PortInUse, NotAllowed, StoreError: before anything is loaded.
    """
    session = new_session(port)
    server = Server(session, host=host, port=port, library=open_library(store))
    kept = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    session.load(session.last_model or catalog.DEFAULT if model is None else model, dtype=kept, device=device)
    print(f"Residscope is open at\n\n    {server.url}\n\nCtrl-C stops it.", flush=True)
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


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on this machine's own address."""
    name = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise NotAllowed(
            "Residscope listens to this machine only: it has no accounts yet",
            received=f"host {host}",
            allowed="127.0.0.1, ::1, localhost",
            fix="forward the port instead: ssh -L 8765:127.0.0.1:8765 machine",
        )
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((name, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise PortInUse(
            "the port cannot be taken: another program listens there",
            received=f"{host}:{port}",
            fix="stop it, or choose another with --port (0: any free one)",
        ) from None
    return sock
