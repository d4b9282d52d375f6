/** A room that is scrolled by drag, and whose content is zoomed by wheel with ctrl. */

export interface Panning {
  /** Whether a press there takes hold of the room, and not of something in it. */
  free(event: PointerEvent): boolean;
  zoom(steps: number): void;
}

const TAKEN = "button, input, select, a, [role=dialog]";

export function panned(room: HTMLElement, given: Panning | null): { destroy(): void } {
  if (!given) return { destroy() {} };
  const { free, zoom } = given;
  let held: { x: number; y: number; left: number; top: number; id: number } | null = null;

  function press(event: PointerEvent): void {
    if (event.target instanceof Element && event.target.closest(TAKEN)) return; // held by the room, a press would not reach it
    if ((event.target as Element).closest("button, select, input, a, [role=dialog]")) return;
    if (event.button !== 1 && (event.button !== 0 || event.shiftKey || !free(event))) return;
    event.preventDefault();
    held = { x: event.clientX, y: event.clientY, left: room.scrollLeft, top: room.scrollTop, id: event.pointerId };
    room.setPointerCapture?.(event.pointerId);
  }
  function move(event: PointerEvent): void {
    if (!held || held.id !== event.pointerId) return;
    room.scrollLeft = held.left + held.x - event.clientX;
    room.scrollTop = held.top + held.y - event.clientY;
  }
  function wheel(event: WheelEvent): void {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1 : -1);
  }
  const leave = (): void => void (held = null);
  const heard = { pointerdown: press, pointermove: move, pointerup: leave, pointercancel: leave } as const;
  for (const [name, does] of Object.entries(heard)) room.addEventListener(name, does as EventListener);
  room.addEventListener("wheel", wheel, { passive: false });
  return {
    destroy() {
      for (const [name, does] of Object.entries(heard)) room.removeEventListener(name, does as EventListener);
      room.removeEventListener("wheel", wheel);
    },
  };
}
