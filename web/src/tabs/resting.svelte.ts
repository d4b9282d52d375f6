import type { Host } from "../root/host";
import type { Anchor } from "../views/TokenTip.svelte";

const [REST, AWAY] = [220, 12];

/** Where the pointer is, once it has rested on a cell; it then goes with it from cell to cell. Call while a component is made. */
export function resting(host: Host, cell: () => unknown): { readonly anchor: Anchor | null } {
  let anchor: Anchor | null = $state.raw(null);
  let at: { x: number; y: number } | null = null; // until it has moved nobody knows where it is
  let shown = false;
  $effect(() => host.onmove(({ clientX, clientY }) => (at = { x: clientX, y: clientY })));
  $effect(() => {
    if (!cell()) {
      [shown, anchor] = [false, null];
      return;
    }
    const place = () => (anchor = at && { left: at.x + AWAY, right: at.x + AWAY, top: at.y - AWAY, bottom: at.y + AWAY });
    if (shown) return void place();
    const timer = setTimeout(() => {
      place();
      shown = true;
    }, REST);
    return () => clearTimeout(timer);
  });
  return {
    get anchor() {
      return anchor;
    },
  };
}
