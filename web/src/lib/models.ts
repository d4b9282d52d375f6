/** What a model is called beside another: what tells the two apart, and no path. */
export function besideName(name: string, other: string): string {
  if (other && name.startsWith(`${other}+`)) return name.slice(other.length);
  const last = (part: string): string => part.replace(/\/+$/, "").split("/").at(-1) || part;
  return name.split("+").map(last).join("+");
}

/** The models that are known to share a base with this one: with an adapter, or without. */
export function relatives<T extends { name: string }>(offers: T[], own: string): T[] {
  const base = own.split("+")[0];
  return offers.filter(({ name }) => name !== own && name.split("+")[0] === base);
}
