"""A server around a library and no model, in a process of its own: `python serving.py URL FOLDER` prints its address."""

import sys
from pathlib import Path

from residscope.server import Server
from residscope.session import Session
from residscope.store import open_library


def main(url: str, folder: str) -> None:
    session = Session(load=lambda name, **_: None)
    server = Server(session, port=0, token="token", library=open_library(url, folder=folder), page=Path(folder))
    print(server.base, flush=True)
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
