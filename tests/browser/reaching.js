// Every control and every text of the page: can it be seen or scrolled to, and is it large enough to be hit?
// An ellipsis may shorten what a title says in full; a word in running text may be as high as its line (WCAG 2.5.8), and so may the
// picture's row labels, beside which the sentence's row picker does the same.
(least) => {
  const faults = new Set();
  const root = document.querySelector(".residscope");
  const CONTROLS =
    "button, a[href], input, select, textarea, summary, [role=button], [role=tab], [role=slider], [role=option], [tabindex='0']";
  const AS_HIGH_AS_ITS_LINE = ".term, [data-testid=stream-grid] .layer";
  const HIDDEN = ".hush, .skip, [inert], [aria-hidden=true]";
  const px = (low, high) => `${Math.round(low)}..${Math.round(high)}`;

  const name = (e) => {
    const which = e.dataset?.testid ? `[${e.dataset.testid}]` : typeof e.className === "string" && e.className ? `.${e.className}` : "";
    return `${e.tagName.toLowerCase()}${which} "${(e.getAttribute("aria-label") || e.textContent || "").trim().slice(0, 30)}"`;
  };
  const visible = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !e.closest(HIDDEN);

  /** What cuts a box that begins in `e`; what an ancestor scrolls counts as in sight there. */
  const cutBy = (e, box) => {
    let [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom];
    for (let up = e; up; up = up.parentElement) {
      const style = getComputedStyle(up);
      const clip = up.getBoundingClientRect();
      const beside = up.matches("[data-testid=stream-grid] .clip"); // moves with the cells' own scroll
      const scrolls = (overflow, whole, shown) => beside || (/auto|scroll/.test(overflow) && whole > shown);
      if (scrolls(style.overflowX, up.scrollWidth, up.clientWidth)) {
        [left, right] = [Math.max(left, clip.left), Math.min(right, clip.right)];
        if (right <= left) [left, right] = [clip.left, clip.left];
      }
      if (scrolls(style.overflowY, up.scrollHeight, up.clientHeight)) {
        [top, bottom] = [Math.max(top, clip.top), Math.min(bottom, clip.bottom)];
        if (bottom <= top) [top, bottom] = [clip.top, clip.top];
      }
      const whole = up === document.documentElement;
      if ((whole || style.overflowX !== "visible") && (left < clip.left - 1.5 || right > clip.right + 1.5))
        return `${name(up).slice(0, 40)} cuts ${px(left, right)} to ${px(clip.left, clip.right)}`;
      if ((whole || style.overflowY !== "visible") && (top < clip.top - 1.5 || bottom > clip.bottom + 1.5))
        return `${name(up).slice(0, 40)} cuts y ${px(top, bottom)} to ${px(clip.top, clip.bottom)}`;
    }
    return "";
  };

  for (const e of root.querySelectorAll(CONTROLS)) {
    if (!visible(e)) continue;
    const box = e.getBoundingClientRect();
    const cut = cutBy(e.parentElement, box);
    if (cut) faults.add(`cut: ${name(e)}: ${cut}`);
    if (getComputedStyle(e).display === "inline" || e.matches(AS_HIGH_AS_ITS_LINE)) continue;
    const { width, height } = e.matches("[type=checkbox], [type=radio]") ? (e.closest("label") ?? e).getBoundingClientRect() : box;
    if (width < least - 0.5 || height < least - 0.5) faults.add(`small: ${name(e)}: ${width.toFixed(1)} x ${height.toFixed(1)}`);
  }

  /** The element that shortens a text, if any: by an ellipsis, or to so many lines under a title. */
  const shortener = (e) => {
    for (let up = e; up !== root; up = up.parentElement) {
      const { textOverflow, webkitLineClamp } = getComputedStyle(up);
      if (textOverflow === "ellipsis" || webkitLineClamp !== "none") return up;
    }
    return null;
  };
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const e = text.parentElement;
    if (!text.data.trim() || !visible(e) || getComputedStyle(e).clipPath !== "none") continue;
    if (e.closest("svg, option, textarea, [data-testid=stream-grid] .clip")) continue;
    const short = shortener(e);
    if (short) {
      const shortened = short.scrollWidth > short.clientWidth + 1 || short.scrollHeight > short.clientHeight + 4;
      if (shortened && !short.closest("[title], [aria-label]")) faults.add(`short, with no title: ${name(short)}`);
      continue;
    }
    const range = document.createRange();
    range.selectNodeContents(text);
    const cut = cutBy(e, range.getBoundingClientRect());
    if (cut) faults.add(`text: "${text.data.trim().slice(0, 30)}": ${cut}`);
  }
  return [...faults];
};
