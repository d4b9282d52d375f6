/** What this page was told when it was let in (`takeSecret`), and nobody else on this machine holds: a cookie alone is sent to every server on it. */

const NAME = "page";
const HEADER = "x-residscope-page";

/** An address that only this page may open, for what cannot carry a header: a socket, a download. */
export function opened(address: string, secret: string): string {
  if (!secret) return address;
  const [path = "", asked = ""] = address.split("?");
  const query = new URLSearchParams(asked);
  query.set(NAME, secret);
  return `${path}?${query}`;
}

export const headerOf = (secret: string): Record<string, string> => (secret ? { [HEADER]: secret } : {});
