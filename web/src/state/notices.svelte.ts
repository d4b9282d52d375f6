/** Short messages at the foot of the page. */

export interface Notice {
  id: number;
  text: string;
  /** `lasting` is news worth reading, `error` a refusal. */
  kind: "info" | "lasting" | "error";
  /** What can still be done about it. */
  action?: { label: string; run(): void };
}

export const notices = $state<{ list: Notice[] }>({ list: [] });

let next = 1;

export function notify(text: string, kind: Notice["kind"] = "info", action?: Notice["action"]): void {
  const id = next++;
  notices.list = [...notices.list.filter((notice) => notice.text !== text || notice.action), { id, text, kind, action }].slice(-3);
  setTimeout(() => dismiss(id), kind === "info" ? 2_500 : 12_000);
}

export function dismiss(id: number): void {
  notices.list = notices.list.filter((notice) => notice.id !== id);
}

/** What was refused is past. */
export function clearErrors(): void {
  notices.list = notices.list.filter((notice) => notice.kind !== "error");
}
