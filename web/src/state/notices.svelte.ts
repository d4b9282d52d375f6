/** Short messages at the foot of one page. */

export interface Notice {
  id: number;
  text: string;
  /** `lasting` is news worth reading, `error` a refusal. */
  kind: "info" | "lasting" | "error";
  /** What can still be done about it. */
  action?: { label: string; run(): void };
}

export class Notices {
  list: Notice[] = $state([]);
  private next = 1;

  notify(text: string, kind: Notice["kind"] = "info", action?: Notice["action"]): void {
    const id = this.next++;
    this.list = [...this.list.filter((notice) => notice.text !== text || notice.action), { id, text, kind, action }].slice(-3);
    setTimeout(() => this.dismiss(id), kind === "info" ? 2_500 : 12_000);
  }

  dismiss(id: number): void {
    this.list = this.list.filter((notice) => notice.id !== id);
  }

  /** What was refused is past. */
  clearErrors(): void {
    this.list = this.list.filter((notice) => notice.kind !== "error");
  }
}
