"""The server: HTTP and WebSocket doors onto one session, for this machine only."""

from residscope.server.app import create_app
from residscope.server.listen import Server, serve

__all__ = ["Server", "create_app", "serve"]
