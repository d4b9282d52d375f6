import { beforeEach, describe, expect, it, vi } from "vitest";
import { WireError, type Connector } from "../src/connect/connector";
import type { Description, Entry, Whole } from "../src/connect/library";
import { inWords, place, tally } from "../src/lib/people";
import { isolated } from "../src/lib/format";
import { LibraryStore } from "../src/state/library.svelte";
import { Session } from "../src/state/session.svelte";

const entry = (id: string, more: Partial<Entry> = {}): Entry => ({
  id, owner: "ada", name: id, model: "m", model_hash: "h", here: true, site: "resid_post.1", head: null, space: "raw", tensors: "t",
  votes: 0, comments: 0, description: null, version: 1, created: "2026-01-01T00:00:00Z", updated: "2026-01-01T00:00:00Z", ...more,
});
const description = (id: string, more: Partial<Description> = {}): Description => ({
  id, direction: "d1", author: "ada", text: "fires", up: 0, down: 0, mine: 0, blind: null, version: 1, created: "", updated: "", ...more,
});
const refusal = (type: string, message: string) => new WireError({ type, message });

/** A server that answers what a test says, and remembers what it was asked: changes apart. */
class Fake {
  asked: [string, Record<string, unknown> | undefined][] = [];
  did: [string, Record<string, unknown> | undefined][] = [];
  answers = new Map<string, unknown>();
  query = async <T>(name: string, args?: Record<string, unknown>): Promise<T> => (this.asked.push([name, args]), this.answer<T>(name, args));
  intent = async (name: string, args?: Record<string, unknown>): Promise<unknown> => (this.did.push([name, args]), this.answer(name, args));
  private answer<T>(name: string, args: unknown): T {
    const answer = this.answers.get(name.replace("library_", ""));
    if (answer instanceof Error) throw answer;
    return (typeof answer === "function" ? (answer as (args: unknown) => T)(args) : answer) as T;
  }
  of = (name: string) => [...this.asked, ...this.did].filter(([asked]) => asked === `library_${name}`).map(([, args]) => args);
}

let fake: Fake;
let library: LibraryStore;
let shown: string[];

function start(query = "", me: string | null = "bob"): void {
  fake = new Fake();
  shown = [];
  fake.answers.set("me", { name: me });
  fake.answers.set("search", { entries: [entry("d1")], after: null });
  const whole: Whole = { entry: entry("d1"), provenance: {}, descriptions: [description("s1"), description("s2", { up: 2 })], comments: [] };
  fake.answers.set("read", whole);
  const session = new Session(fake as unknown as Connector);
  session.state = { model: { name: "m", hash: "h" }, jobs: [{ id: "j1", phase: "done" }] } as never;
  fake.answers.set("blind", { test: "t1", job: "j1" });
  library = new LibraryStore(session, ({ name }) => shown.push(name), query);
}
beforeEach(() => start());

describe("searching", () => {
  it("asks for this model's, by what is filled in", async () => {
    library.filter = { ...library.filter, text: " plural ", mine: true, site: "resid_post", votes: 2, sort: "votes" };
    await library.refresh();
    expect(fake.of("search")).toEqual([{ sort: "votes", text: "plural", user: "bob", here: true, site: "resid_post", min_votes: 2 }]);
    library.filter = { ...library.filter, everyModel: true, mine: false, user: "ada", votes: null };
    await library.search();
    expect(fake.of("search").at(-1)).toEqual({ sort: "votes", text: "plural", user: "ada", site: "resid_post" });
  });

  it("adds page after page, each entry once, and an overtaken answer changes nothing", async () => {
    fake.answers.set("search", { entries: [entry("a"), entry("b")], after: "p2" });
    await library.search();
    fake.answers.set("search", { entries: [entry("b"), entry("c")], after: null });
    await library.search(true);
    expect(fake.of("search").at(-1)).toMatchObject({ after: "p2" });
    expect(library.found.map(({ id }) => id)).toEqual(["a", "b", "c"]);
    let answerFirst!: (page: unknown) => void;
    fake.answers.set("search", () => new Promise((done) => (answerFirst = done)));
    const slow = library.search();
    await Promise.resolve();
    fake.answers.set("search", { entries: [entry("new")], after: null });
    await library.search();
    answerFirst({ entries: [entry("old")], after: null });
    await slow;
    expect(library.found.map(({ id }) => id)).toEqual(["new"]);
  });

  it("says in the server's words why it failed, and can be tried again", async () => {
    fake.answers.set("search", refusal("StoreUnreachable", "the library does not answer"));
    await library.refresh();
    expect(library.failed).toBe("the library does not answer");
    fake.answers.set("search", { entries: [], after: null });
    await library.refresh();
    expect([library.failed, library.searched]).toEqual(["", true]);
  });
});

describe("a change", () => {
  it("asks for a name first, and is done once there is one", async () => {
    start("", null);
    await library.one.read("d1");
    const voting = library.one.vote(library.one.whole!.descriptions[0], 1);
    await vi.waitFor(() => expect(library.naming).toBe(true));
    expect([library.opened, fake.of("vote")]).toEqual([true, []]);
    fake.answers.set("sign_in", refusal("BadText", "the name is empty"));
    expect(await library.signIn("")).toBe("the name is empty");
    fake.answers.set("sign_in", { name: "bob" });
    fake.answers.set("vote", description("s1", { up: 1, mine: 1 }));
    expect(await library.signIn("bob")).toBe("");
    await voting;
    expect(library.one.whole!.descriptions[0].mine).toBe(1);
    expect([library.naming, fake.of("vote")]).toEqual([false, [{ id: "s1", value: 1 }]]);
  });

  it("is forgotten where the name is not given", async () => {
    start("", null);
    await library.one.read("d1");
    const commenting = library.one.comment("hm");
    await vi.waitFor(() => expect(library.naming).toBe(true));
    library.cancelNaming();
    expect(await commenting).toBe(false);
    fake.answers.set("sign_in", { name: "bob" });
    await library.signIn("bob");
    expect(fake.did.map(([name]) => name)).toEqual(["library_sign_in"]);
  });

  it("that is refused is told in the server's words", async () => {
    await library.one.read("d1");
    fake.answers.set("rename", refusal("NotYours", "that direction is somebody else's"));
    expect(await library.one.rename("x")).toBe(false);
    expect(library.session.notices.list.at(-1)).toMatchObject({ kind: "error", text: "that direction is somebody else's" });
  });
});

describe("a vote", () => {
  it("again withdraws, changes the sums, and leaves the descriptions where they are", async () => {
    await library.search();
    await library.one.read("d1");
    const sent: unknown[] = [];
    fake.answers.set("vote", (body: { value: number }) => (sent.push(body.value), description("s1", { up: body.value === 1 ? 3 : 0, mine: body.value as 1 | 0 })));
    await library.one.vote(library.one.whole!.descriptions[0], 1);
    expect(library.one.whole!.entry.votes).toBe(5);
    expect(library.found[0].votes).toBe(5);
    expect(library.one.whole!.descriptions.map(({ id }) => id)).toEqual(["s1", "s2"]);
    await library.one.vote(library.one.whole!.descriptions[0], 1);
    expect(sent).toEqual([1, 0]);
    expect(library.one.whole!.entry.votes).toBe(2);
  });
});

describe("deleting", () => {
  it("offers the way back by its event", async () => {
    await library.one.read("d1");
    fake.answers.set("delete", { event: 7 });
    fake.answers.set("undo", { kind: "direction", id: "d1" });
    await library.one.remove();
    expect(library.one.id).toBe("");
    expect(library.session.notices.list.at(-1)!.text).toBe(`Deleted ${isolated("d1")}`);
    library.session.notices.list.at(-1)!.action!.run();
    await vi.waitFor(() => expect(library.one.whole?.entry.id).toBe("d1"));
    expect(fake.of("undo")).toEqual([{ event: 7 }]);
  });
});

describe("saving and opening", () => {
  it("keeps the form with the server's words where the name is taken", async () => {
    const ref = { kind: "saved", name: "x" } as const;
    library.save(ref, "PC 7 of resid_post.23");
    expect([library.opened, library.saving?.name]).toEqual([true, "PC 7 of resid_post.23"]);
    fake.answers.set("save", refusal("NameTaken", "you have one of that name"));
    await library.submit();
    expect(library.saving?.error).toBe("you have one of that name");
    fake.answers.set("save", entry("d1"));
    library.saving!.name = "another";
    await library.submit();
    expect([library.saving, library.one.id]).toEqual([null, "d1"]);
    expect(fake.did.at(-1)).toEqual(["library_save", { direction: ref, name: "another" }]);
  });

  it("opens what the address names, once, and says which model it needs", async () => {
    start("?direction=d1&x=1");
    fake.answers.set("open", { kind: "saved", name: "plural" });
    library.followLink();
    library.followLink();
    await vi.waitFor(() => expect(shown).toEqual(["plural"]));
    expect(library.opened).toBe(true);
    fake.answers.set("open", refusal("WrongModel", "d1 was found in another model"));
    expect(await library.open("d1")).toBe("d1 was found in another model");
    expect(shown).toHaveLength(1);
    expect(library.link("d1")).toContain("/?direction=d1");
  });

  it("takes files one by one, and tells each one's error beside its name", async () => {
    const [good, bad] = [new File(["x"], "good.safetensors"), new File(["y"], "bad.safetensors")];
    fake.answers.set("import", ({ data }: { data: File }) => {
      if (data.name === bad.name) throw refusal("MalformedTensors", "that is no direction's file");
      return { entry: entry("d1"), new: true };
    });
    await library.take([bad, good]);
    expect(library.importing).toEqual([{ name: "bad.safetensors", error: "that is no direction's file" }]);
    expect(library.one.id).toBe("d1");
  });
});

describe("a blind test", () => {
  const test = { test: "t1", description: "s1", direction: "d1", text: "fires", corpus: "docs", items: [{ tokens: ["a"], pos: 0 }, { tokens: ["b"], pos: 0 }], scale: ["low", "mid", "high"] };
  it("takes a guess for each context, then the score", async () => {
    await library.one.read("d1");
    fake.answers.set("blind_test", test);
    await library.blind.begin(description("s1"));
    await library.blind.finish();
    expect(library.blind.result).toBeNull(); // not before all are guessed
    library.blind.guess(3);
    library.blind.step(1);
    library.blind.guess(-0.5);
    const blind = { people: 1, mean: 0.5, interval: [0, 1], author: null, mine: 0.5 };
    fake.answers.set("guess", { score: 0.5, interval: [0, 1], chance: [-0.5, 0.5], auc: 1, values: [1, 0], n: 2, own: false, description: description("s1", { blind: blind as never }) });
    await library.blind.finish();
    expect(fake.did.at(-1)).toEqual(["library_guess", { test: "t1", guesses: [1, -0.5] }]);
    expect(library.blind.result?.score).toBe(0.5);
    expect(library.one.whole!.descriptions[0].blind).toEqual(blind);
  });

  it("that could not be made says why, and one that was left stays left", async () => {
    fake.answers.set("blind_test", refusal("WrongModel", "found in another model"));
    await library.blind.begin(description("s1"));
    expect([library.blind.error, library.blind.active]).toEqual(["found in another model", true]);
    let answer!: (value: unknown) => void;
    fake.answers.set("blind_test", () => new Promise((done) => (answer = done)));
    const begun = library.blind.begin(description("s1"));
    await vi.waitFor(() => expect(answer).toBeDefined());
    library.blind.leave();
    expect(fake.did.at(-1)).toEqual(["cancel", { job: "j1" }]);
    answer(test);
    await begun;
    expect([library.blind.test, library.blind.active]).toEqual([null, false]);
  });

  it("waits for the job that draws its contexts", async () => {
    const links = { opened: 0, undo: false };
    library.session.state = { model: { name: "m", hash: "h" }, links, jobs: [{ id: "j1", phase: "waiting" }] } as never;
    let listener!: { state(state: unknown): void };
    (fake as unknown as { subscribe: unknown }).subscribe = (given: never) => ((listener = given), () => {});
    library.session.start();
    fake.answers.set("blind_test", test);
    const begun = library.blind.begin(description("s1"));
    await new Promise((done) => setTimeout(done));
    expect([library.blind.waiting, fake.of("blind_test")]).toEqual(["s1", []]);
    listener.state({ model: { name: "m", hash: "h" }, links, jobs: [{ id: "j1", phase: "done" }], notices: [] });
    await begun;
    expect([library.blind.waiting, library.blind.test]).toEqual(["", test]);
  });
});

it("writes facts plainly", () => {
  expect([tally(3), tally(-2), tally(0)]).toEqual(["+3", "−2", "0"]);
  expect(place({ site: "z.9", head: 3 })).toBe("z.9 head 3");
  expect(place({ site: "resid_post.2", head: null })).toBe("resid_post.2");
  expect([inWords(0.9), inWords(0.1), inWords(-0.6)]).toEqual(["very well", "hardly at all", "well, but the wrong way round"]);
});
