import { mount } from "svelte";
import "../page.css";
import type { PlainView } from "../views/kinds/plain";
import Frozen from "./Frozen.svelte";

const held = JSON.parse(document.getElementById("views")!.textContent!) as { title: string; views: PlainView[] };
mount(Frozen, { target: document.getElementById("app")!, props: held });
