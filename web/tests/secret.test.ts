import { beforeEach, describe, expect, it, vi } from "vitest";
import { headerOf, opened } from "../src/connect/secret";
import { SocketConnector } from "../src/connect/socket";
import { takeSecret } from "../src/root/host";

const at = (address: string): void => history.replaceState(null, "", address);

beforeEach(() => localStorage.clear());

describe("what the page was told when it was let in", () => {
  it("leaves the address, and is there after a reload", () => {
    at("/?page=abc&model=m#dir=pc");
    expect(takeSecret("http://localhost/")).toBe("abc");
    expect(location.search + location.hash).toBe("?model=m#dir=pc");
    expect(takeSecret("http://localhost/")).toBe("abc");
    at("/?page=def");
    expect(takeSecret("http://localhost/")).toBe("def");
    expect(takeSecret("http://localhost/")).toBe("def");
  });

  it("is another for each server behind one origin", () => {
    at("/a/?page=abc");
    takeSecret("http://localhost/a/");
    expect(takeSecret("http://localhost/b/")).toBe("");
  });

  it("goes with every request, the socket and links", async () => {
    const fetcher = vi.fn(async () => new Response("{}"));
    const urls: string[] = [];
    const connector = new SocketConnector("http://127.0.0.1:1/", (url) => (urls.push(url), { close() {} } as never), fetcher as never, "abc");
    connector.subscribe({ state: () => {}, connection: () => {} });
    expect(urls).toEqual(["ws://127.0.0.1:1/ws?page=abc"]);
    await connector.query("manifest" as never);
    const asked = fetcher.mock.calls[0] as unknown as [string, { headers: Record<string, string> }];
    expect(asked[1].headers["x-residscope-page"]).toBe("abc");
    expect(asked[1].headers["content-type"]).toBe("application/json");
    expect(connector.link("api/items/file?name=a%20b&ending=.csv")).toBe("api/items/file?name=a+b&ending=.csv&page=abc");
  });

  it("is left out where there is none", () => {
    expect(opened("ws", "")).toBe("ws");
    expect(headerOf("")).toEqual({});
  });
});
