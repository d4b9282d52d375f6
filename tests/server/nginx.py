"""A real nginx in front of a server of the workbench: https with a certificate of its own, at paths, as people set it up."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONF = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
  access_log off; client_max_body_size 600m;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d;
  scgi_temp_path {folder}/e;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    location /scope/ {{ proxy_pass http://127.0.0.1:{to}/; }}
    location /whole/ {{ proxy_pass http://127.0.0.1:{to}; proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }}
    location / {{ return 404; }}
  }}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """`stripped`: passes no path on, and its own Host; `whole`: the path and the browser's Host."""

    port: int

    @property
    def stripped(self) -> str:
        return f"https://127.0.0.1:{self.port}/scope/"

    @property
    def whole(self) -> str:
        return f"https://localhost:{self.port}/whole/"


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def nginx(port: int, to: int) -> Iterator[Proxy]:
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with tempfile.TemporaryDirectory(prefix="residscope-nginx-") as made:
        folder = Path(made)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        (folder / "nginx.conf").write_text(CONF.format(folder=folder, port=port, to=to))
        running = subprocess.Popen(
            [program, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _listens(port, running, folder / "error.log")
            yield Proxy(port)
        finally:
            running.terminate()
            running.wait(10)


def _listens(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                return
        if running.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"nginx does not listen: {log.read_text() if log.exists() else running.returncode}")
