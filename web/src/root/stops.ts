/**
 * Makes a list one stop of Tab: the chosen item, or the first. Arrows, Home and End move along its items, which `selector` finds;
 * pressing one stays what it was.
 */
export function oneStop(selector: string) {
  return (list: HTMLElement): (() => void) => {
    const items = (): HTMLElement[] => [...list.querySelectorAll<HTMLElement>(selector)];
    const put = (stop: HTMLElement | undefined): void => {
      for (const item of items()) item.tabIndex = item === stop ? 0 : -1;
    };
    const refresh = (): void => {
      const all = items();
      put(all.find((item) => item.matches(":focus")) ?? all.find((item) => item.matches(".on, .cur, .cur *, [aria-pressed=true], [aria-selected=true]")) ?? all[0]);
    };
    const key = (event: KeyboardEvent): void => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const all = items();
      const at = all.indexOf(event.target as HTMLElement);
      const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      const next = all[Math.min(Math.max(to, 0), all.length - 1)];
      put(next);
      next.focus();
    };
    const watch = new MutationObserver(refresh);
    watch.observe(list, { childList: true, subtree: true, attributes: true, attributeFilter: ["class", "disabled", "aria-pressed", "aria-selected"] });
    list.addEventListener("keydown", key);
    list.addEventListener("focusin", refresh);
    refresh();
    return () => {
      watch.disconnect();
      list.removeEventListener("keydown", key);
      list.removeEventListener("focusin", refresh);
    };
  };
}
