/** Made by `make view-types` from src/residscope/views: change it there. */

/**
 * A view of any kind.
 */
export type PlainView =
  | HeatMapView
  | CurveView
  | HistogramView
  | ScatterView
  | TokenStripView
  | ContextsView
  | NetworkView
  | PatternView
  | TableView
  | TextView
  | CardView
  | GridView;

/**
 * Numbers by row and column, as colour.
 */
export interface HeatMapView {
  kind: "heat_map";
  values: (number | null)[][];
  rows: string[];
  columns: string[];
  title: string;
  row_title: string;
  column_title: string;
  unit: string;
  scale: "diverging" | "sequential";
  limit: number | null;
  low: (number | null)[][] | null;
  high: (number | null)[][] | null;
  marks: [number, number][];
  note: string;
  texts: string[][] | null;
  bottom_up: boolean;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * Lines over numbers, or over labels (`x` of strings), with bands for their intervals.
 */
export interface CurveView {
  kind: "curve";
  x: number[] | string[];
  lines: LineView[];
  title: string;
  x_title: string;
  y_title: string;
  unit: string;
  references: ReferenceView[];
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * One line of a curve; `low` and `high` are its band (whiskers where x is labels).
 */
export interface LineView {
  name: string;
  y: (number | null)[];
  low: (number | null)[] | null;
  high: (number | null)[] | null;
  dashed: boolean;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * A straight line to compare with: upright at x (`axis="x"`), or level at y (`axis="y"`).
 */
export interface ReferenceView {
  at: number;
  name: string;
  axis: "x" | "y";
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * How often values fall into bins, for one or several named series over the same bins.
 */
export interface HistogramView {
  kind: "histogram";
  edges: number[];
  series: BarsView[];
  title: string;
  x_title: string;
  unit: string;
  references: ReferenceView[];
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * One series of a histogram, counted.
 */
export interface BarsView {
  name: string;
  counts: number[];
  n: number;
  mean: number | null;
  left_out: number;
}
/**
 * Points, in one colour per group, with y = x where `diagonal` is asked for; `texts` is said on hover.
 */
export interface ScatterView {
  kind: "scatter";
  x: (number | null)[];
  y: (number | null)[];
  groups: string[] | null;
  texts: string[] | null;
  diagonal: boolean;
  title: string;
  x_title: string;
  y_title: string;
  unit: string;
  references: ReferenceView[];
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * A text's tokens, each on the colour of its value; `scale` and `limit` as in a heat map.
 */
export interface TokenStripView {
  kind: "token_strip";
  tokens: string[];
  values: (number | null)[];
  title: string;
  unit: string;
  scale: "diverging" | "sequential";
  limit: number | null;
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * Lines of text, each token on the colour of its value; `columns` name what is told of each line, before it.
 */
export interface ContextsView {
  kind: "contexts";
  rows: ContextView[];
  columns: string[];
  title: string;
  unit: string;
  scale: "diverging" | "sequential";
  limit: number | null;
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * One line: its tokens with their values, which of them it is about (`at`, if any), and what else is told of it.
 */
export interface ContextView {
  tokens: string[];
  values: (number | null)[];
  at: number | null;
  cells: (string | number | boolean | null)[];
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * A layered graph with its layout: `levels` names its rows from the bottom, `columns` its places from the left.
 */
export interface NetworkView {
  kind: "network";
  nodes: NetworkNodeView[];
  edges: NetworkEdgeView[];
  levels: string[];
  columns: string[];
  title: string;
  unit: string;
  node_unit: string;
  limit: number | null;
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * One node where it is drawn: x in places from the left, y in rows from the bottom.
 */
export interface NetworkNodeView {
  id: string;
  label: string;
  x: number;
  y: number;
  value: number | null;
  group: string;
  text: string;
  link: string;
  error: boolean;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * An edge from one node to another, by their places in the view; value: signed, red where it raises.
 */
export interface NetworkEdgeView {
  source: number;
  target: number;
  value: number;
  text: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * One head's attention: weights[query, key], the lower triangle, from 0 to 1.
 */
export interface PatternView {
  kind: "pattern";
  tokens: string[];
  weights: (number | null)[][];
  title: string;
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * Rows of text and numbers under named columns.
 */
export interface TableView {
  kind: "table";
  columns: string[];
  rows: (string | number | boolean | null)[][];
  title: string;
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * Paragraphs under a title.
 */
export interface TextView {
  kind: "text";
  title: string;
  paragraphs: string[];
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * A claim with what was measured for it, and whether it held; failed evidence shows as plainly as passed.
 */
export interface CardView {
  kind: "card";
  title: string;
  fields: {
    [k: string]: string | number | boolean | null;
  };
  verdict: ("passed" | "failed") | null;
  note: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
/**
 * Views side by side, `columns` to a row where there is room.
 */
export interface GridView {
  kind: "grid";
  views: PlainView[];
  columns: number;
  title: string;
  /**
   * Where a null stands for an infinity, by path.
   */
  infinite?: {
    [k: string]: "inf" | "-inf";
  };
}
