import { describe, expect, it } from "vitest";
import { DIVERGING, Diverging, hex, type Paint } from "../src/lib/color";
import { xml } from "../src/lib/xml";
import { streamCsv, streamSvg, type Picture } from "../src/views/export";

const stops = DIVERGING.map((_, i) => hex(["#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f5", "#fddbc7", "#f4a582", "#d6604d", "#b2182b"][i]));
const paint: Paint = { diverging: new Diverging(stops), surface: "#ffffff", text: "#1a1b1e", text3: "#62666c", line2: "#cbcbc4" };

const picture: Picture = {
  field: { rows: 2, cols: 3, values: Float32Array.of(0, 1, -2, 8, NaN, 0.5), scale: 2, sink: Uint8Array.of(0, 0, 0, 0, 0, 1) },
  norm: Float32Array.of(1, 2, 3, 4, 5, 6),
  tokens: ['=1+1"', "<script>", "a,\nb"],
  next: ["x", "y", "z"],
  unit: "logit",
  title: 'model · "a" & <b>',
};

/** Fields of CSV text, quotes undone. */
function parse(csv: string): string[][] {
  const rows: string[][] = [[]];
  for (const [, quoted, bare, end] of csv.matchAll(/(?:"((?:[^"]|"")*)"|([^,\n]*))(,|\n|$)/g)) {
    rows.at(-1)!.push(quoted !== undefined ? quoted.replaceAll('""', '"') : bare);
    if (end === "\n") rows.push([]);
    if (end === "") break;
  }
  return rows.slice(0, -1);
}

describe("the picture as CSV", () => {
  const [head, ...lines] = parse(streamCsv(picture));

  it("has one line a cell, with its site, token, value and norm", () => {
    expect(head).toEqual(["site", "pos", "token", "value", "unit", "norm", "picture"]);
    expect(lines).toHaveLength(6);
    expect(lines[2].slice(0, 6)).toEqual(["embed", "2", JSON.stringify("a,\nb"), "-2", "logits, raw", "3"]);
    expect(lines[3].slice(0, 2)).toEqual(["resid_post.0", "0"]);
  });

  it("gives tokens as JSON strings, so that none is a formula", () => {
    expect(lines.map((line) => JSON.parse(line[2]) as string).slice(0, 3)).toEqual(picture.tokens);
    expect(lines.every((line) => line[2].startsWith('"'))).toBe(true);
  });

  it("leaves what is not known empty", () => expect(lines[4][3]).toBe(""));
});

describe("the picture as SVG", () => {
  const svg = streamSvg(picture, paint);
  const parsed = new DOMParser().parseFromString(svg, "image/svg+xml");

  it("is well formed and holds every cell, the last layer on top", () => {
    expect(parsed.querySelector("parsererror")).toBeNull();
    expect(parsed.querySelectorAll("rect > title")).toHaveLength(5);
    const y = (site: string) =>
      Number([...parsed.querySelectorAll("rect")].find((rect) => rect.querySelector("title")?.textContent?.startsWith(site))!.getAttribute("y"));
    expect(y("resid_post.0")).toBeLessThan(y("embed"));
  });

  it("hatches sinks and marks clipped cells", () => {
    expect(svg.match(/stroke-width="1.2"/g)).toHaveLength(1);
    expect(svg.match(/h5v5z/g)).toHaveLength(1);
  });

  it("never lets a token be markup", () => {
    expect(svg).not.toContain("<script");
    expect(svg).toContain("&lt;script&gt;");
    expect(svg).toContain("&quot;a&quot; &amp; &lt;b&gt;");
  });

  it("replaces what XML forbids", () => {
    expect(xml("\u0000\ud800a\u001b")).toBe("\ufffd\ufffda\ufffd");
    expect(xml("😀\t")).toBe("😀\t");
  });

  it("says of each row its own scale, where it has one, and colours and clips by it", () => {
    const own = streamSvg({ ...picture, field: { ...picture.field, byRow: Float32Array.of(1, 16) } }, paint);
    expect(own).toContain("±1<");
    expect(own).toContain("±16<");
    expect(own).toContain("each row its own scale");
    const at = (site: string, pos: number, all: string): string => new RegExp(`<rect[^>]*fill="([^"]+)"[^>]*>\\s*<title>${site} at ${pos} `).exec(all)![1];
    expect(at("embed", 1, own)).toBe(paint.diverging.color(1, 1));
    expect(at("resid_post.0", 0, own)).toBe(paint.diverging.color(8, 16));
    expect(at("resid_post.0", 0, svg)).toBe(paint.diverging.color(8, 2));
    expect([svg, own].map((text) => text.match(/h5v5z/g)?.length)).toEqual([1, 1]); // 8 of 2, and -2 of 1
  });
});
