import { mount } from "svelte";
import "../page.css";
import { elementOf, WindowHost } from "../root/host";
import "../root/frozen.css";
import { around, Theme } from "../root/root.svelte";
import type { PlainView } from "../views/kinds/plain";
import Frozen from "./Frozen.svelte";

const root = elementOf("app");
const held = JSON.parse(elementOf("views").textContent!) as { title: string; views: PlainView[] };
const host = new WindowHost(root);
root.classList.add("residscope");
mount(Frozen, { target: root, props: held, context: around({ host, theme: new Theme(host) }) });
