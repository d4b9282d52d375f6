"""What a hand, a key and a screen reader can get at, measured in the page."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
TABS = (
    "stream", "map", "heads", "lens", "patch", "weights", "prompts", "features", "graph", "probe", "methods",
)  # fmt: skip
MEASURE = Path(__file__).with_suffix(".js").read_text(encoding="utf-8").rstrip().removesuffix(";")


def faults(page: Page, least: int = 24) -> list[str]:
    """What is cut, or smaller than `least` pixels either way, in the page as it stands."""
    return list(page.evaluate(MEASURE, least))


def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA and its best practices, a line for each element."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    result: dict[str, Any] = page.evaluate(
        "() => axe.run('.residscope', { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })"
    )
    return [
        f"{found['id']}: {node['target'][0]}: {node['html'][:90]}"
        for found in result["violations"]
        for node in found["nodes"]
    ]
