/** The kinds that are drawn; a new one is its file and a line here. */

import { contexts } from "./contexts";
import { curve } from "./curve";
import { heatMap } from "./heatmap";
import { histogram } from "./histogram";
import { network } from "./network";
import type { Room } from "./networkLayout";
import type { Palette } from "./palette";
import { pattern } from "./pattern";
import type { DrawnView } from "./plain";
import { scatter } from "./scatter";
import type { Scene } from "./scene";
import type { Sheet } from "./sheet";
import { tokenStrip } from "./strip";

/** A picture as functions of its data. */
export interface Kind<V> {
  /** What it is, for those who cannot see it. */
  about(view: V): string;
  empty(view: V): boolean;
  /** Lines below it; empty ones are left out. */
  notes(view: V): string[];
  /** Into a room of that many CSS pixels; `room`: how high it is, and how near, of what can be either. */
  draw(view: V, width: number, palette: Palette, room?: Room): Scene;
  /** It may be larger than its room, is dragged in it, and is looked at from near and far. */
  pans?: true;
  table(view: V): Sheet;
  /** The rows of its CSV, where they are others than the table's. */
  file?(view: V): Sheet;
}

const KINDS = {
  heat_map: heatMap,
  curve,
  histogram,
  scatter,
  token_strip: tokenStrip,
  contexts,
  network,
  pattern,
} satisfies { [name in DrawnView["kind"]]: Kind<Extract<DrawnView, { kind: name }>> };

export const isDrawn = (view: { kind: string }): view is DrawnView => Object.hasOwn(KINDS, view.kind);

export const kindOf = (view: DrawnView): Kind<DrawnView> => KINDS[view.kind] as Kind<never> as Kind<DrawnView>;
