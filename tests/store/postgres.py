"""A PostgreSQL server of the tests' own, which ends with them, however they end."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

_numbers = count()


class Postgres:
    def __init__(self, port: int) -> None:
        self.port = port

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        name = f"library_{next(_numbers)}"
        with psycopg.connect(self._to("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
        return f"postgresql+psycopg://residscope@127.0.0.1:{self.port}/{name}"

    def ready(self) -> bool:
        try:
            psycopg.connect(self._to("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _to(self, database: str) -> str:
        return f"postgresql://residscope@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """`initdb` in a folder, and the server on a free port; under a user without rights where the tests are root's.

    The folder is not one of pytest's: another session of pytest closes those to all other users when it begins.
    """
    with tempfile.TemporaryDirectory(prefix="residscope-postgres-") as made, _running(Path(made), fsync) as found:
        yield found


@contextmanager
def _running(folder: Path, fsync: bool) -> Iterator[Postgres]:
    programs = _programs()
    data = folder / "data"
    user = "nobody" if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    as_user = {"user": user, "cwd": folder, "stdin": subprocess.DEVNULL, "extra_groups": [] if user else None}
    made = [programs / "initdb", "-D", data, "-U", "residscope", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"]
    subprocess.run(made, check=True, capture_output=True, **as_user)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = f"fsync={'on' if fsync else 'off'}"
    settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", kept, "max_connections=200")
    options = [part for setting in settings for part in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), *options],
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_parent,
            **as_user,
        )
    try:
        found, until = Postgres(port), time.monotonic() + 30
        while not found.ready():
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.05)
        yield found
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def _programs() -> Path:
    found = [Path(name).parent for name in (shutil.which("initdb"),) if name]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    whole = [place for place in found if (place / "initdb").exists() and (place / "postgres").exists()]
    assert whole, "the tests of the library need PostgreSQL: make postgres (or apt-get install postgresql)"
    return whole[0].resolve()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG
