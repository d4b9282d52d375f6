/** Finding things by the words that people use for them. */

const plain = (text: string): string => text.toLowerCase().replace(/[^\p{L}\p{N}.@]+/gu, " ").trim();

/** How well a query fits a name: 0 is it, then its beginning, whole words of it, parts of words; null: not at all. other: further words for it. */
export function fit(query: string, name: string, other: string): number | null {
  const [asked, own] = [plain(query), plain(name)];
  if (asked === own) return 0;
  const words = asked.split(" ");
  const whole = new Set(own.split(" "));
  if (!words.every((word) => `${own} ${plain(other)}`.includes(word))) return null;
  if (`${own} `.startsWith(`${asked} `)) return 1;
  if (own.startsWith(asked)) return 2;
  return words.every((word) => whole.has(word)) ? 3 : words.every((word) => own.includes(word)) ? 4 : 5;
}

/** What a query finds, the best fit first, and otherwise in the order given. */
export function ranked<T>(all: readonly T[], query: string, named: (item: T) => readonly [string, string]): T[] {
  return all
    .map((item) => ({ item, at: fit(query, ...named(item)) }))
    .filter((found): found is { item: T; at: number } => found.at !== null)
    .toSorted((a, b) => a.at - b.at)
    .map(({ item }) => item);
}
