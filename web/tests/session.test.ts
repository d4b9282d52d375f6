import { expect, it } from "vitest";
import type { Connector } from "../src/connect/connector";
import { Session } from "../src/state/session.svelte";

it("knows what it has asked and not yet been answered, whatever the answer", async () => {
  const answers: { give(): void; refuse(error: Error): void }[] = [];
  const intent = () => new Promise((give, refuse) => answers.push({ give: () => give({}), refuse }));
  const session = new Session({ subscribe: () => () => {}, intent } as unknown as Connector);
  const asked = [session.send("undo"), session.accepted("set_prompt", { text: "a" }), session.intent("redo").catch(() => "refused")];
  expect(session.asking).toBe(3);
  answers[0].give();
  answers[1].refuse(new Error("no"));
  answers[2].refuse(new Error("no"));
  expect(await Promise.all(asked)).toEqual([{}, false, "refused"]);
  expect(session.asking).toBe(0);
});
