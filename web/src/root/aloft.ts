import type { Attachment } from "svelte/attachments";
import type { Host } from "./host";

/** Lifts an element out of what clips it, to the root's own children: nearer the reader, still inside the page. */
export const aloft = (host: Host): Attachment<HTMLElement> => (element) => {
  host.root.append(element);
  return () => element.remove();
};
