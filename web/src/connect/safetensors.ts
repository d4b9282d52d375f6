/** The part of the safetensors format the wire uses: little-endian F32, F16, I64, I32, U8 and BOOL. */

export interface Tensor<A = Float32Array | Int32Array | Float64Array | Uint8Array> {
  shape: number[];
  data: A;
}

export interface Tensors {
  metadata: Record<string, string>;
  tensors: Record<string, Tensor>;
}

const SIZE: Record<string, number> = { F32: 4, F16: 2, I64: 8, I32: 4, U8: 1, BOOL: 1 };

function decode(dtype: string, bytes: ArrayBuffer): Tensor["data"] {
  switch (dtype) {
    case "F32":
      return new Float32Array(bytes);
    case "I32":
      return new Int32Array(bytes);
    case "F16":
      return Float32Array.from(new Uint16Array(bytes), half);
    case "I64": // token ids: exact in a double
      return Float64Array.from(new BigInt64Array(bytes), Number);
    default:
      return new Uint8Array(bytes);
  }
}

function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
}

/** Whether it holds what a `T` does is for `floats` and `bytes` to see. */
export function parseSafetensors<T extends Tensors = Tensors>(buffer: ArrayBuffer): T {
  const damaged = (why: string) => new Error(`The server's tensors could not be read: ${why}.`);
  if (buffer.byteLength < 8) throw damaged(`${buffer.byteLength} bytes came, the header alone takes 8`);
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  if (8 + length > buffer.byteLength) throw damaged(`a header of ${length} bytes in a file of ${buffer.byteLength}`);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors: Record<string, Tensor> = {};
  for (const [name, entry] of Object.entries<any>(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets } = entry as { dtype: string; shape: number[]; data_offsets: [number, number] };
    const [start, end] = data_offsets;
    if (!(dtype in SIZE)) throw damaged(`${name} is ${dtype}; known are ${Object.keys(SIZE).join(", ")}`);
    const bytes = buffer.slice(8 + length + start, 8 + length + end);
    const want = shape.reduce((product, n) => product * n, 1) * SIZE[dtype];
    if (bytes.byteLength !== want) throw damaged(`${name} holds ${bytes.byteLength} bytes, its shape takes ${want}`);
    tensors[name] = { shape, data: decode(dtype, bytes) };
  }
  return { metadata: header.__metadata__ ?? {}, tensors } as T;
}

/** What is known of a file that holds a tensor of that name. */
type Holds<N extends string> = { tensors: { [name in N]?: Tensor } };

/** A float tensor by name, or an error that names it. */
export function floats<N extends string>(file: Holds<N>, name: N): Tensor<Float32Array> {
  const tensor = file.tensors[name];
  if (!(tensor?.data instanceof Float32Array)) throw new Error(`The server's answer lacks the float tensor "${name}".`);
  return tensor as Tensor<Float32Array>;
}

/** The same of bytes, such as a mask. */
export function bytes<N extends string>(file: Holds<N>, name: N): Tensor<Uint8Array> {
  const tensor = file.tensors[name];
  if (!(tensor?.data instanceof Uint8Array)) throw new Error(`The server's answer lacks the byte tensor "${name}".`);
  return tensor as Tensor<Uint8Array>;
}
