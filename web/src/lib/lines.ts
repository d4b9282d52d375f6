/** Running text broken into lines beforehand, so that only the lines in view need be in the page. */

import { newCanvas } from "../root/host";

/** First item of each line: items of the given widths, as many to a line as fit; one wider than the room has a line to itself, and so
 * has what follows an item that ends its line. */
export function breakLines(widths: ArrayLike<number>, room: number, ends: (item: number) => boolean = () => false): Int32Array {
  const starts: number[] = [];
  let left = 0;
  for (let i = 0; i < widths.length; i++) {
    if (i === 0 || widths[i] > left || ends(i - 1)) {
      starts.push(i);
      left = room;
    }
    left -= widths[i];
  }
  return Int32Array.from(starts);
}

/** The line that holds an item: the last that begins at or before it. */
export function lineOf(starts: ArrayLike<number>, item: number): number {
  let [low, high] = [0, starts.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= item) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** One past the last item of a line. */
export const lineEnd = (starts: ArrayLike<number>, line: number, items: number): number => (line + 1 < starts.length ? starts[line + 1] : items);

/** How wide texts are in an element's font, in CSS pixels; each is measured once. */
export function measurer(element: Element): (text: string) => number {
  const known = new Map<string, number>();
  const g = newCanvas().getContext("2d");
  const { fontStyle, fontWeight, fontSize, fontFamily } = getComputedStyle(element); // `font` itself is empty where features are set
  if (g) g.font = `${fontStyle} ${fontWeight} ${fontSize} ${fontFamily}`;
  return (text) => {
    let width = known.get(text);
    if (width === undefined) {
      width = g ? g.measureText(text).width : 7 * text.length; // no canvas outside a browser
      known.set(text, width);
    }
    return width;
  };
}

/** The token of a text that an event is on, by the number its element bears. */
export function tokenAt(event: Event): { element: HTMLElement; token: number } | null {
  const element = event.target as HTMLElement;
  return element.dataset.token === undefined ? null : { element, token: Number(element.dataset.token) };
}

export { inline } from "./tokens";
