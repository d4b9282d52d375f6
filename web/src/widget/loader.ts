import type { KernelModel } from "../connect/kernel";
import type { Shown } from "./main";

/** What comes with every widget, and so is small: it asks the kernel for the page once in each document, and shares it. */

interface Bundle {
  show(model: KernelModel, element: HTMLElement, css: string): Shown;
  css: string;
}
interface Shared {
  bundles: Map<string, Promise<Bundle>>;
  /** The pages on show, by the place that stays the same when a kernel is started again. */
  pages: Map<string, Set<Shown>>;
}
const KEY = Symbol.for("residscope.widget");
const everywhere = globalThis as unknown as Record<symbol, Shared | undefined>;
const shared = (everywhere[KEY] ??= { bundles: new Map(), pages: new Map() });
const ASK_EVERY = 1_000;

function bundle(model: KernelModel): Promise<Bundle> {
  const hash = String(model.get("page"));
  let found = shared.bundles.get(hash);
  if (!found) {
    found = ask(model);
    shared.bundles.set(hash, found);
    found.catch(() => shared.bundles.delete(hash));
  }
  return found;
}

function ask(model: KernelModel): Promise<Bundle> {
  return new Promise((resolve, reject) => {
    const hear = (said: { bundle?: string }, buffers: ArrayBuffer[]): void => {
      if (!said.bundle || buffers.length < 2) return;
      clearInterval(timer);
      model.off("msg:custom", hear);
      const address = URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" }));
      import(/* @vite-ignore */ address)
        .then((made: Pick<Bundle, "show">) => resolve({ show: made.show, css: new TextDecoder().decode(buffers[1]) }), reject)
        .finally(() => URL.revokeObjectURL(address));
    };
    const send = (): void => model.send({ bundle: true });
    model.on("msg:custom", hear);
    const timer = setInterval(send, ASK_EVERY);
    send();
  });
}

export default {
  initialize({ model }: { model: KernelModel }): void {
    for (const page of shared.pages.get(String(model.get("place"))) ?? []) page.moveTo(model);
  },

  render({ model, el }: { model: KernelModel; el: HTMLElement }): () => void {
    let [page, left]: [Shown | null, boolean] = [null, false];
    const place = String(model.get("place"));
    const pages = shared.pages.get(place) ?? new Set();
    shared.pages.set(place, pages);
    el.textContent = "The page is on its way …";
    bundle(model).then(
      ({ show, css }) => {
        if (left) return;
        el.textContent = "";
        page = show(model, el, css);
        pages.add(page);
      },
      (error: unknown) => (el.textContent = `The page did not arrive: ${String(error)}`),
    );
    return () => {
      left = true;
      if (page) pages.delete(page);
      page?.stop();
    };
  },
};
