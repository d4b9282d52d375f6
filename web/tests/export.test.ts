import { inflateSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { DIVERGING, Diverging, hex, unsigned, type Paint } from "../src/lib/color";
import { pdfImage } from "../src/lib/pdf";
import { xml } from "../src/lib/xml";
import { streamSheet, streamSvg, type Picture } from "../src/views/export";
import { promptsSheet, promptsSvg, type PromptsPicture } from "../src/views/exportPrompts";
import { csv } from "../src/views/kinds/sheet";
import { pageOf } from "../src/views/saved";

const stops = DIVERGING.map((_, i) => hex(["#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f5", "#fddbc7", "#f4a582", "#d6604d", "#b2182b"][i]));
const paint: Paint = { diverging: new Diverging(stops), sequential: unsigned([[255, 255, 255], [65, 48, 127]]), surface: "#ffffff", text: "#1a1b1e", text3: "#62666c", line2: "#cbcbc4" };

const picture: Picture = {
  field: { rows: 2, cols: 3, values: Float32Array.of(0, 1, -2, 8, NaN, 0.5), scale: 2, sink: Uint8Array.of(0, 0, 0, 0, 0, 1) },
  norm: Float32Array.of(1, 2, 3, 4, 5, 6),
  tokens: ['=1+1"', "<script>", "a,\nb"],
  next: ["x", "y", "z"],
  ids: [11, 12, 13],
  row: 1,
  unit: "logit",
  sentence: "Colour shows a − b, read through the final norm at layer 0, as raw logits, on this prompt",
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
  const [head, ...lines] = parse(csv(streamSheet(picture)));

  it("has one line a cell, with its site, token, value and norm", () => {
    expect(head).toEqual(["site", "pos", "token", "value", "unit", "norm", "picture", "token_id", "attention_sink", "full_colour_at"]);
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

  it("says what colour means, and fills the tokens with the colours of the chosen row", () => {
    expect(svg.replace(/<[^>]+>/g, " ").replace(/\s+/g, " ")).toContain(picture.sentence);
    const above = [...parsed.querySelectorAll('rect[height="14"]')].map((rect) => rect.getAttribute("fill"));
    expect(above).toEqual([paint.diverging.color(8, 2), paint.diverging.color(0, 2)]); // the third is a sink, hatched
  });

  it("hatches sinks and marks clipped cells", () => {
    expect(svg.match(/stroke-width="1.2"/g)).toHaveLength(2); // the cell, and the token of the chosen row
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

const many: PromptsPicture = {
  page: { id: "p", starts: Int32Array.of(0, 2, 4), prompts: [
    { text: "a<b", own: true, tokens: [{ id: 5, text: "a" }, { id: 6, text: "<b" }], next: [[], []] },
    { text: "é=1", own: false, tokens: [{ id: 7, text: "<0xC3><0xA9>" }, { id: 8, text: "=1" }], next: [[], []] },
  ] },
  values: Float32Array.of(0.1, -4, 1, NaN), norm: Float32Array.of(1, 2, 3, 4), sink: Uint8Array.of(1, 0, 0, 0), scale: 2, site: "resid_post.3", from: "a text",
  unit: "centred", title: "model", sentence: "Colour shows PC 7 of layer 0",
};

describe("many prompts as files", () => {
  it("gives every number in full, with token ids", () => {
    const [head, ...lines] = parse(csv(promptsSheet(many)));
    const of = (name: string) => lines.map((line) => line[head.indexOf(name)]);
    expect(of("value")).toEqual([String(Math.fround(0.1)), "-4", "1", ""]);
    expect(of("token_id")).toEqual(["5", "6", "7", "8"]);
    expect(of("token").map((text) => JSON.parse(text) as string)).toEqual(["a", "<b", "<0xC3><0xA9>", "=1"]);
    expect(of("from")).toEqual(["yours", "yours", "a text", "a text"]);
    expect(of("attention_sink")).toEqual(["yes", "no", "no", "no"]);
  });

  it("draws each token on its colour, sinks hatched, bytes as bytes", () => {
    const svg = promptsSvg(many, paint);
    const parsed = new DOMParser().parseFromString(svg, "image/svg+xml");
    expect(parsed.querySelector("parsererror")).toBeNull();
    const titles = [...parsed.querySelectorAll("rect > title")].map(({ textContent, parentElement }) => [textContent, parentElement!.getAttribute("fill")]);
    expect(titles).toEqual([
      ["resid_post.3 at 1 of prompt 1, <b: -4", paint.diverging.color(-4, 2)],
      ["resid_post.3 at 0 of prompt 2, ⟨xC3A9⟩: 1", paint.diverging.color(1, 2)],
    ]);
    expect(svg).toContain("Drawn from a text");
    expect(svg).toContain(many.sentence);
    expect(svg.match(/stroke-width="1.2"/g)).toHaveLength(1);
    expect(svg.match(/h4v4z/g)).toHaveLength(1);
  });

  it("makes a page that has the picture and every number, and no markup of a token's", () => {
    const page = new DOMParser().parseFromString(pageOf(many.title, [many.sentence], promptsSvg(many, paint), promptsSheet(many)), "text/html");
    expect(page.querySelectorAll("svg")).toHaveLength(1);
    expect([...page.querySelectorAll("tbody tr")].map((row) => row.children[6].textContent)).toEqual([String(Math.fround(0.1)), "-4", "1", ""]);
    expect(page.querySelector("b")).toBeNull();
    expect(page.querySelectorAll("script")).toHaveLength(0);
  });
});

describe("a picture as PDF", () => {
  it("holds its pixels, its size and its title", async () => {
    const pixels = Uint8ClampedArray.of(255, 0, 0, 255, 0, 0, 255, 255);
    const bytes = new Uint8Array(await (await pdfImage({ pixels, columns: 2, rows: 1, width: 96, height: 48 }, { title: "é", subject: "s" })).arrayBuffer());
    const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    expect(text).toMatch(/^%PDF-1\.4\n/);
    expect(text).toContain("/MediaBox [0 0 72 36]");
    expect(text).toContain("/Title <FEFF00e9>");
    const table = Number(/startxref\n(\d+)/.exec(text)![1]);
    expect(text.slice(table, table + 4)).toBe("xref");
    const offsets = [...text.slice(table).matchAll(/^(\d{10}) 00000 n /gm)].map(([, digits]) => Number(digits));
    offsets.forEach((offset, i) => expect(text.slice(offset)).toMatch(new RegExp(`^${i + 1} 0 obj`)));
    const from = text.indexOf("stream\n", text.indexOf("/Image /Width 2")) + 7;
    const length = Number(/Image .*\/Length (\d+)/.exec(text)![1]);
    expect([...inflateSync(bytes.slice(from, from + length))]).toEqual([255, 0, 0, 0, 0, 255]);
  });
});
