import type { Component } from "svelte";
import LensActions from "./LensActions.svelte";
import MapActions from "./MapActions.svelte";
import PatchActions from "./PatchActions.svelte";
import PromptsActions from "./PromptsActions.svelte";
import RunSwitch from "./RunSwitch.svelte";
import StreamActions from "./StreamActions.svelte";
import StreamTab from "./StreamTab.svelte";

export interface Tab {
  id: string;
  label: string;
  /** What it shows; the first comes with the page, the others when they are looked at, or once the page has nothing else to fetch. */
  load(): Promise<Component>;
  /** Its switches, shown at the right of the tabs. */
  actions?: Component;
}

const shown = ({ default: component }: { default: Component }): Component => component;

/** The tabs in the centre, in order: a new one is one more entry. */
export const TABS: Tab[] = [
  { id: "stream", label: "Stream", load: () => Promise.resolve(StreamTab), actions: StreamActions },
  { id: "map", label: "Map", load: () => import("./MapTab.svelte").then(shown), actions: MapActions },
  { id: "heads", label: "Heads", load: () => import("./HeadsTab.svelte").then(shown), actions: RunSwitch },
  { id: "lens", label: "Lens", load: () => import("./LensTab.svelte").then(shown), actions: LensActions },
  { id: "patch", label: "Patch", load: () => import("./PatchTab.svelte").then(shown), actions: PatchActions },
  { id: "weights", label: "Weights", load: () => import("./WeightsTab.svelte").then(shown) },
  { id: "prompts", label: "Prompts", load: () => import("./PromptsTab.svelte").then(shown), actions: PromptsActions },
  { id: "features", label: "Features", load: () => import("./FeaturesTab.svelte").then(shown) },
  { id: "graph", label: "Graph", load: () => import("./GraphTab.svelte").then(shown) },
  { id: "probe", label: "Probe", load: () => import("./ProbeTab.svelte").then(shown) },
  { id: "methods", label: "Methods", load: () => import("./MethodTab.svelte").then(shown) },
];
