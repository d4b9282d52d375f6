const ENTITIES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

/** Text for XML: markup escaped, and what XML 1.0 forbids replaced. */
export const xml = (text: string): string =>
  text
    .replace(/\p{Cs}/gu, "\ufffd") // half a surrogate pair
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd")
    .replace(/[&<>"]/g, (sign) => ENTITIES[sign]);
