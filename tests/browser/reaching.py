"""What a hand, a key and a screen reader can get at, measured in the page."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
TABS = ("stream", "prompts", "probe", "methods")

# Every control and every text in sight of the layout: is it where it can be seen or scrolled to, and large enough to be hit?
# An ellipsis may shorten what a title says in full; a link or word in running text may be as high as its line (WCAG 2.5.8).
MEASURE = """
(least) => {
  const faults = [];
  const root = document.querySelector(".residscope");
  const name = (e) => e.tagName.toLowerCase() + (e.dataset?.testid ? `[${e.dataset.testid}]` : e.className?.baseVal === undefined && e.className ? `.${e.className}` : "") + ` "${(e.getAttribute?.("aria-label") || e.textContent || "").trim().slice(0, 30)}"`;
  const visible = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !e.closest(".hush, .skip, [inert], [aria-hidden=true]");
  const outside = (e, box) => {
    let [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom];
    for (let up = e.parentElement; up; up = up.parentElement) {
      const style = getComputedStyle(up);
      const clip = up.getBoundingClientRect();
      const beside = up.matches("[data-testid=stream-grid] .clip"); // moves with the cells' own scroll
      const [x, y] = [beside || /auto|scroll/.test(style.overflowX), beside || /auto|scroll/.test(style.overflowY)];
      if (x && (beside || up.scrollWidth > up.clientWidth)) [left, right] = [Math.max(left, clip.left), Math.min(right, clip.right)];
      if (y && (beside || up.scrollHeight > up.clientHeight)) [top, bottom] = [Math.max(top, clip.top), Math.min(bottom, clip.bottom)];
      if (x && right <= left) [left, right] = [clip.left, clip.left];
      if (y && bottom <= top) [top, bottom] = [clip.top, clip.top];
      const hides = style.overflowX !== "visible" || up === document.documentElement;
      if (hides && (left < clip.left - 1.5 || right > clip.right + 1.5)) return `${name(up).slice(0, 40)} cuts ${Math.round(left)}..${Math.round(right)} to ${Math.round(clip.left)}..${Math.round(clip.right)}`;
      if ((style.overflowY !== "visible" || up === document.documentElement) && (top < clip.top - 1.5 || bottom > clip.bottom + 1.5)) return `${name(up).slice(0, 40)} cuts y ${Math.round(top)}..${Math.round(bottom)} to ${Math.round(clip.top)}..${Math.round(clip.bottom)}`;
      if (style.position === "fixed") break;
    }
    return "";
  };
  const controls = "button, a[href], input, select, textarea, summary, [role=button], [role=tab], [role=slider], [role=option], [tabindex='0']";
  for (const e of root.querySelectorAll(controls)) {
    if (!visible(e)) continue;
    const box = e.getBoundingClientRect();
    const cut = outside(e, box);
    if (cut) faults.push(`cut: ${name(e)}: ${cut}`);
    const inline = getComputedStyle(e).display === "inline" || e.matches(".term, [data-testid=stream-grid] .layer"); // a word; a label beside what the sentence's row picker chooses too
    const target = e.matches("input[type=checkbox], input[type=radio]") ? (e.closest("label") ?? e).getBoundingClientRect() : box;
    if (!inline && (target.width < least - 0.5 || target.height < least - 0.5)) faults.push(`small: ${name(e)}: ${target.width.toFixed(1)} x ${target.height.toFixed(1)}`);
  }
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const e = text.parentElement;
    if (!text.data.trim() || !visible(e) || getComputedStyle(e).clipPath !== "none" || e.closest("svg, option, textarea, [data-testid=stream-grid] .clip")) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    let short = e.closest('[title]') && [e, e.parentElement].some((one) => getComputedStyle(one).webkitLineClamp !== 'none') ? e : null;
    for (let up = e; up && up !== root && !short; up = up.parentElement) if (getComputedStyle(up).textOverflow === "ellipsis") short = up;
    if (short) { if (short.scrollWidth > short.clientWidth + 1 && !short.closest("[title], [aria-label]")) faults.push(`short, with no title: ${name(short)}`); continue; }
    const cut = outside({ parentElement: e }, range.getBoundingClientRect());
    if (cut) faults.push(`text: "${text.data.trim().slice(0, 30)}": ${cut}`);
  }
  return [...new Set(faults)];
}
"""


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
