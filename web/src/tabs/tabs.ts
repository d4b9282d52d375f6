import type { Component } from "svelte";
import MethodTab from "./MethodTab.svelte";
import ProbeTab from "./ProbeTab.svelte";
import PromptsActions from "./PromptsActions.svelte";
import PromptsTab from "./PromptsTab.svelte";
import StreamActions from "./StreamActions.svelte";
import StreamTab from "./StreamTab.svelte";

export interface Tab {
  id: string;
  label: string;
  component: Component;
  /** Its switches, shown at the right of the tabs. */
  actions?: Component;
}

/** The tabs in the centre, in order: a new one is one more entry. */
export const TABS: Tab[] = [
  { id: "stream", label: "Stream", component: StreamTab, actions: StreamActions },
  { id: "prompts", label: "Prompts", component: PromptsTab, actions: PromptsActions },
  { id: "probe", label: "Probe", component: ProbeTab },
  { id: "methods", label: "Methods", component: MethodTab },
];
