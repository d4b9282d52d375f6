/** Pictures for a paper: as wide as a column of it, with letters that can be read there. */

export interface Paper {
  /** Its width; null: as large as on the page. */
  mm: number | null;
  /** null: as the page is. */
  theme: "light" | "dark" | null;
}

export const AS_IT_IS: Paper = { mm: null, theme: null };
/** A column, and a page's width, of most journals. */
export const WIDTHS = [175, 85] as const;
const LEAST_POINTS = 6;

/** How many pixels wide a picture may be drawn so that its smallest letters, `px` of them high, are six points on the paper. */
export const roomOn = (mm: number, px: number): number => Math.floor(((mm / 25.4) * 72 * px) / LEAST_POINTS);

/** The same picture, so wide. */
export function onPaper(svg: string, mm: number): string {
  return svg.replace(/width="([\d.]+)" height="([\d.]+)"/, (_, width: string, height: string) => `width="${mm}mm" height="${((Number(height) * mm) / Number(width)).toFixed(2)}mm"`);
}

/** What an element's style says in a theme of its own. */
export function inTheme<T>(root: HTMLElement, theme: Paper["theme"], read: (element: HTMLElement) => T): T {
  if (!theme) return read(root);
  const other = root.cloneNode(false) as HTMLElement;
  other.dataset.theme = theme;
  other.removeAttribute("id");
  other.style.display = "none";
  root.append(other);
  try {
    return read(other);
  } finally {
    other.remove();
  }
}
