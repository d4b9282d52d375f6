/** A PDF of one page that is one picture. */

const POINTS = 72 / 96;

export interface About {
  title: string;
  subject: string;
}

interface Picture {
  /** RGBA, row by row. */
  pixels: ArrayLike<number>;
  columns: number;
  rows: number;
  /** In CSS pixels. */
  width: number;
  height: number;
}

/** A text of any script: UTF-16 with its mark, in hexadecimal. */
const text = (words: string): string => `<FEFF${Array.from(words, (_, i) => words.charCodeAt(i)).map((unit) => unit.toString(16).padStart(4, "0")).join("")}>`;

function opaque(pixels: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  const rgb = new Uint8Array((pixels.length / 4) * 3);
  for (let from = 0, to = 0; from < pixels.length; from += 4) for (let channel = 0; channel < 3; channel++) rgb[to++] = pixels[from + channel];
  return rgb;
}

const deflated = async (bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer());

export async function pdfImage({ pixels, columns, rows, width, height }: Picture, { title, subject }: About): Promise<Blob> {
  const [w, h] = [width * POINTS, height * POINTS];
  const drawing = `q ${w} 0 0 ${h} 0 0 cm /Picture Do Q`;
  const image = await deflated(opaque(pixels));
  const parts: (string | Uint8Array<ArrayBuffer>)[] = [];
  const offsets: number[] = [];
  let at = 0;
  const put = (part: string | Uint8Array<ArrayBuffer>): void => {
    parts.push(part);
    at += part.length; // what is put as text is ASCII
  };
  const object = (head: string, stream?: string | Uint8Array<ArrayBuffer>): void => {
    offsets.push(at);
    put(`${offsets.length} 0 obj\n`);
    if (stream === undefined) put(head);
    else [`${head.slice(0, -2)} /Length ${stream.length} >>\nstream\n`, stream, "\nendstream"].forEach(put);
    put("\nendobj\n");
  };
  put("%PDF-1.4\n");
  object("<< /Type /Catalog /Pages 2 0 R >>");
  object("<< /Type /Pages /Kids [3 0 R] /Count 1 >>");
  object(`<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${w} ${h}] /Contents 4 0 R /Resources << /XObject << /Picture 5 0 R >> >> >>`);
  object("<< >>", drawing);
  object(`<< /Type /XObject /Subtype /Image /Width ${columns} /Height ${rows} /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /FlateDecode >>`, image);
  object(`<< /Title ${text(title)} /Subject ${text(subject)} /Creator (Residscope) >>`);
  const table = at;
  put(`xref\n0 ${offsets.length + 1}\n0000000000 65535 f \n${offsets.map((offset) => `${String(offset).padStart(10, "0")} 00000 n \n`).join("")}`);
  put(`trailer\n<< /Size ${offsets.length + 1} /Root 1 0 R /Info 6 0 R >>\nstartxref\n${table}\n%%EOF\n`);
  return new Blob(parts, { type: "application/pdf" });
}
