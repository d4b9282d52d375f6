/** Pictures as files. */

import { newCanvas } from "../root/host";

const SHARPNESS = 2;
/** Browsers refuse larger canvases. */
const MOST_PIXELS = 16_000;

export async function pngOf(svg: string): Promise<Blob> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const sharp = Math.min(SHARPNESS, MOST_PIXELS / image.width, MOST_PIXELS / image.height);
  const canvas = newCanvas();
  [canvas.width, canvas.height] = [Math.floor(image.width * sharp), Math.floor(image.height * sharp)];
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (!blob) throw new Error("The browser could not draw so large a picture; save it as SVG.");
  return blob;
}
