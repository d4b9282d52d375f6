/** Pictures as files. */

import { newCanvas } from "../root/host";
import { pdfImage, type About } from "./pdf";

const SHARPNESS = 2;
/** Of what is for a paper: three hundred dots an inch. */
const FINE = 300 / 96;
/** Browsers refuse larger canvases. */
const MOST_PIXELS = 16_000;

interface Raster {
  canvas: HTMLCanvasElement;
  /** In CSS pixels. */
  width: number;
  height: number;
}

async function rasterOf(svg: string): Promise<Raster> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const { width, height } = image;
  const sharp = Math.min(/^<svg [^>]*width="[\d.]+mm"/.test(svg) ? FINE : SHARPNESS, MOST_PIXELS / width, MOST_PIXELS / height);
  const canvas = newCanvas();
  [canvas.width, canvas.height] = [Math.floor(width * sharp), Math.floor(height * sharp)];
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return { canvas, width, height };
}

const tooLarge = (): Error => new Error("The browser could not draw so large a picture; save it as SVG.");

export async function pngOf(svg: string): Promise<Blob> {
  const { canvas } = await rasterOf(svg);
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (!blob) throw tooLarge();
  return blob;
}

/** One page, the size of the picture: its pixels, for no font is sure to have every token's letters. */
export async function pdfOf(svg: string, about: About): Promise<Blob> {
  const { canvas, width, height } = await rasterOf(svg);
  let pixels: ImageData;
  try {
    pixels = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
  } catch {
    throw tooLarge();
  }
  return pdfImage({ pixels: pixels.data, columns: pixels.width, rows: pixels.height, width, height }, about);
}
