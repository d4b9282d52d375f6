"""A hub on the loopback: a real server that answers as huggingface.co does, with its faults."""

import hashlib
import http.server
import json
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Repositories by name, data sets among them, each a dict of path to bytes; large files are LFS, redirected to a CDN path.

    `short` bytes are missing at the end of LFS files; `spoilt` changes them in transit; `down` answers 503.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}"  # another host, as the real one is
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, tuple[str, dict[str, bytes]]] = {}  # "owner/name@branch": its commit and files
        self.gated: set[str] = set()
        self.short, self.spoilt, self.down = 0, False, False
        self.asked: list[str] = []

    def at(self, name: str, revision: str) -> tuple[str | None, dict[str, bytes] | None]:
        """The commit that a branch or a commit stands for, and its files."""
        for told, (commit, files) in self.branches.items():
            if told == f"{name}@{revision}" or (told.startswith(f"{name}@") and revision == commit):
                return commit, files
        return COMMIT if revision in ("main", COMMIT) else None, self.repositories.get(name)


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").removeprefix("datasets/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[1:3] if parts[0] == "cdn" else parts[:2])
        at = 5 if parts[0] == "api" else 3
        asked = parts[at] if len(parts) > at else "main"
        commit, files = hub.at(name, asked)
        if hub.down:
            self.answer(503, b"")
        elif files is None:
            self.answer(401, b"{}", **{"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif name in hub.gated and parts[0] != "cdn":
            self.answer(403, b"{}", **{"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif parts[0] == "cdn":
            body = files["/".join(parts[4:])]
            self.answer(200, (body[:-1] + b"!" if hub.spoilt else body)[: len(body) - hub.short])
        elif parts[0] == "api":
            if commit is None:
                self.answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
            elif parts[4:5] == ["tree"]:
                self.answer(200, json.dumps([self.entry(path, body) for path, body in files.items()]).encode())
            else:
                info = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
                self.answer(200, json.dumps(info).encode())
        elif parts[2] == "resolve" and (file := "/".join(parts[4:])) in files:
            self.resolve(name, file, files[file], commit or COMMIT)
        else:
            self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})

    def resolve(self, name: str, file: str, body: bytes, commit: str) -> None:
        headers = {"X-Repo-Commit": commit}
        if large(file):
            digest = hashlib.sha256(body).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
            self.answer(302, b"", **headers, Location=f"{self.server.cdn}/cdn/{name}/{commit}/{file}")
        else:
            self.answer(200, body, **headers, ETag=f'"{git_oid(body)}"')

    def entry(self, path: str, body: bytes) -> dict[str, object]:
        told = {"type": "file", "path": path, "size": len(body), "oid": git_oid(body)}
        lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return told | ({"lfs": lfs} if large(path) else {})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
