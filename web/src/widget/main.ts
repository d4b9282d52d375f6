import { KernelConnector, type KernelModel } from "../connect/kernel";
import { addStyle, hiding, newElement } from "../root/host";
import { render } from "../root/render";

export interface Shown {
  /** Goes on over the widget of a kernel that was started again. */
  moveTo(model: KernelModel): void;
  stop(): void;
}

/** The page in a notebook's cell; css: its style, which the loader brings along. */
export function show(model: KernelModel, element: HTMLElement, css: string): Shown {
  const connector = new KernelConnector(model);
  const root = newElement();
  const size = (): void => root.style.setProperty("--residscope-height", `${Number(model.get("height")) || 720}px`);
  addStyle(element, css, String(model.get("page")));
  const hidden = hiding(`[data-residscope-still="${String(model.get("place"))}"]`); // the saved notebook's picture, while the page itself is here
  size();
  element.append(hidden, root);
  model.on("change:height", size);
  const stop = render(root, connector, { address: () => (model.get("address") as string) || undefined });
  return {
    moveTo: (other) => connector.moveTo(other),
    stop: () => {
      model.off("change:height", size);
      stop();
      hidden.remove();
      root.remove();
    },
  };
}
