/** Scrolls a box until what stands from y on is seen, and not at all where it is. */
export function bringIntoSight(box: HTMLElement, y: number, height: number): void {
  if (y < box.scrollTop || y + height > box.scrollTop + box.clientHeight) box.scrollTop = Math.max(0, y + height - box.clientHeight);
}
