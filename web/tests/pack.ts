/** Writes a safetensors file, for tests. */

interface Entry {
  dtype: string;
  shape: number[];
  bytes: ArrayBuffer;
}

export function pack(tensors: Record<string, Entry>, metadata: Record<string, string> = {}): ArrayBuffer {
  let end = 0;
  const header: Record<string, unknown> = { __metadata__: metadata };
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors))
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes.byteLength)] };
  const json = new TextEncoder().encode(JSON.stringify(header));
  const file = new Uint8Array(8 + json.length + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(json, 8);
  let at = 8 + json.length;
  for (const { bytes } of Object.values(tensors)) {
    file.set(new Uint8Array(bytes), at);
    at += bytes.byteLength;
  }
  return file.buffer;
}

export const f32 = (shape: number[], values: number[]): Entry => ({
  dtype: "F32",
  shape,
  bytes: new Float32Array(values).buffer,
});

export const u8 = (shape: number[], values: number[]): Entry => ({
  dtype: "U8",
  shape,
  bytes: new Uint8Array(values).buffer,
});
