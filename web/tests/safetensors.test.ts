import { describe, expect, it } from "vitest";
import { bytes, floats, parseSafetensors } from "../src/connect/safetensors";
import { pack } from "./pack";

describe("safetensors", () => {
  it("reads each kind of number the wire uses", () => {
    const file = parseSafetensors(
      pack(
        {
          f: { dtype: "F32", shape: [2, 2], bytes: new Float32Array([1, -2.5, 0, 3e-8]).buffer },
          h: { dtype: "F16", shape: [5], bytes: new Uint16Array([0x3c00, 0xc100, 0x0001, 0x7c00, 0x7e00]).buffer },
          i: { dtype: "I64", shape: [2], bytes: new BigInt64Array([-7n, 49151n]).buffer },
          j: { dtype: "I32", shape: [1], bytes: new Int32Array([-3]).buffer },
          u: { dtype: "U8", shape: [2], bytes: new Uint8Array([1, 200]).buffer },
          b: { dtype: "BOOL", shape: [3], bytes: new Uint8Array([1, 0, 1]).buffer },
        },
        { next_text: '[" Mary"]' },
      ),
    );
    expect([...file.tensors.f.data]).toEqual([...new Float32Array([1, -2.5, 0, 3e-8])]);
    expect(file.tensors.f.shape).toEqual([2, 2]);
    expect([...file.tensors.h.data]).toEqual([1, -2.5, Math.fround(2 ** -24), Infinity, NaN]);
    expect([...file.tensors.i.data]).toEqual([-7, 49151]);
    expect([...file.tensors.j.data]).toEqual([-3]);
    expect([...bytes(file, "u").data]).toEqual([1, 200]);
    expect([...file.tensors.b.data]).toEqual([1, 0, 1]);
    expect(file.metadata.next_text).toBe('[" Mary"]');
  });

  it("refuses what is damaged, saying how", () => {
    expect(() => parseSafetensors(new ArrayBuffer(3))).toThrow("3 bytes");
    const cut = pack({ f: { dtype: "F32", shape: [4], bytes: new Float32Array(4).buffer } }).slice(0, -4);
    expect(() => parseSafetensors(cut)).toThrow("f holds 12 bytes, its shape takes 16");
    const odd = pack({ f: { dtype: "F8", shape: [1], bytes: new ArrayBuffer(1) } });
    expect(() => parseSafetensors(odd)).toThrow("f is F8");
    expect(() => floats(parseSafetensors(pack({})), "coef")).toThrow('"coef"');
    expect(() => bytes(parseSafetensors(pack({})), "sink")).toThrow('"sink"');
  });
});
