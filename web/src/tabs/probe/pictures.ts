/** The server's pictures with the live prompt in them. */

import type { HistogramView, PlainView, ScatterView } from "../../views/kinds/plain";

export const HERE = "this prompt";
export const THERE = "edited";

/** The cloud with the prompt's point, and where the edit puts it. */
export function withPrompt(view: { kind: string }, here: number[] | null, there: number[] | null): PlainView {
  const cloud = view as ScatterView;
  const points: [number[] | null, string][] = [[here, HERE], [there, THERE]];
  const more = points.flatMap(([xy, name]): [number[], string][] => (xy ? [[xy, name]] : []));
  if (!more.length) return cloud;
  return {
    ...cloud,
    x: [...cloud.x, ...more.map(([xy]) => xy[0])],
    y: [...cloud.y, ...more.map(([xy]) => xy[1] ?? 0)],
    emphasis: more.map((_, i) => cloud.x.length + i),
    groups: [...(cloud.groups ?? cloud.x.map(() => "")), ...more.map(([, name]) => name)],
    texts: cloud.texts && [...cloud.texts, ...more.map(([, name]) => name)],
  };
}

/** The histogram with the prompt's own value and the target marked. */
export function marked(view: { kind: string }, now: number | null, target: number | null): PlainView {
  const histogram = view as HistogramView;
  const lines = [[now, "this prompt"] as const, [target, "set to"] as const]
    .filter(([at]) => at !== null)
    .map(([at, name]) => ({ at: at!, name, axis: "x" as const }));
  return { ...histogram, references: [...histogram.references, ...lines] };
}
