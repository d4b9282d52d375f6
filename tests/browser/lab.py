"""A real JupyterLab or Notebook 7, and a notebook in it whose cells are run one by one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

SRC = Path(__file__).parents[2] / "src"
READY_MS = 90_000
NAMES = {"jupyterlab": "LabApp", "notebook": "JupyterNotebookApp"}
EMPTY = {
    "cells": [],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
RUN = """async source => {
  const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
  const cells = notebook.model.sharedModel, at = cells.cells.length;
  cells.insertCell(at, { cell_type: 'code', source });
  notebook.activeCellIndex = at;
  await app.commands.execute('notebook:run-cell');
  return notebook.widgets[at].model.outputs.toJSON();
}"""
START = """source => {
  const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
  const cells = notebook.model.sharedModel, at = cells.cells.length;
  cells.insertCell(at, { cell_type: 'code', source });
  notebook.activeCellIndex = at;
  window.running = app.commands.execute('notebook:run-cell');
  window.ranAt = at;
}"""
IDLE = """() => {
  const session = window.jupyterapp?.shell?.currentWidget?.sessionContext;
  const kernel = session?.session?.kernel;
  return !!session?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}"""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def jupyter_lab(folder: Path, app: str = "jupyterlab") -> Iterator[str]:
    """A server on this folder, with settings and data of its own; its address. app: jupyterlab or notebook (Notebook 7)."""
    port, home = free_port(), folder / ".home"
    (home / "settings" / "@jupyterlab" / "apputils-extension").mkdir(parents=True)
    (home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    own = {
        "JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_DATA_DIR": home / "data", "JUPYTER_RUNTIME_DIR": home / "run",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings", "JUPYTERLAB_WORKSPACES_DIR": home / "spaces",
        "IPYTHONDIR": home / "ipython", "PYTHONPATH": SRC, "OMP_NUM_THREADS": "1", "RESIDSCOPE_DATA": home / "residscope",
        "JUPYTER_PREFER_ENV_PATH": "1",
    }  # fmt: skip
    command = [
        sys.executable, "-m", app, "--allow-root", "--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=", f"--{NAMES[app]}.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}",
        "--ServerApp.port_retries=0", "--LabApp.news_url=",
    ]  # fmt: skip
    with (folder / "lab.log").open("w") as log:
        lab = subprocess.Popen(
            command, env={**os.environ, **{k: str(v) for k, v in own.items()}}, cwd=folder, stdout=log, stderr=log
        )
        try:
            _answers(f"http://127.0.0.1:{port}/api", lab, folder / "lab.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            lab.terminate()
            try:
                lab.wait(20)
            except subprocess.TimeoutExpired:
                lab.kill()
            shutil.rmtree(home / "run", ignore_errors=True)


def _answers(address: str, lab: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if lab.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab does not answer:\n{log.read_text()[-2000:]}")


class Notebook:
    """One notebook of a Lab, open in a page."""

    def __init__(self, page: Page, lab: str, folder: Path, name: str, *, at: str = "lab/tree") -> None:
        self.page, self.lab, self.file, self.at = page, lab, folder / name, at
        if not self.file.exists():
            self.file.write_text(json.dumps(EMPTY))
        self.open()

    def open(self) -> None:
        self.page.goto(f"{self.lab}/{self.at}/{self.file.name}?reset")
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_function(IDLE, timeout=READY_MS)

    def run(self, source: str) -> str:
        """Run a cell at the end; what it printed, and its errors as they are shown."""
        return said(self.page.evaluate(RUN, source))

    def start(self, source: str) -> None:
        """Begin a cell at the end, and do not wait for it."""
        self.page.evaluate(START, source)

    def finish(self) -> str:
        """What the cell that was begun has printed, once it has ended."""
        return said(
            self.page.evaluate(
                "async () => { await window.running;"
                " return window.jupyterapp.shell.currentWidget.content.widgets[window.ranAt].model.outputs.toJSON(); }"
            )
        )

    def command(self, name: str) -> None:
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def restart(self) -> None:
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        self.ready()

    def save(self) -> None:
        self.command("docmanager:save")


def said(outputs: list[dict[str, Any]]) -> str:
    """The text of some outputs."""
    parts = []
    for output in outputs:
        if output["output_type"] == "stream":
            parts.append("".join(output["text"]))
        elif output["output_type"] == "error":
            parts.append(f"{output['ename']}: {output['evalue']}")
        else:
            parts.append("".join(output.get("data", {}).get("text/plain", "")))
    return "".join(parts).strip()
