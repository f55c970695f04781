/** A rectangle in CSS pixels. */
export interface Rect {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Where the picture itself stands inside its element, which letterboxes it as `object-fit: contain` does. */
export function drawnRect(element: Rect, pictureWidth: number, pictureHeight: number): Rect {
  if (pictureWidth <= 0 || pictureHeight <= 0 || element.width <= 0 || element.height <= 0) return element;
  const scale = Math.min(element.width / pictureWidth, element.height / pictureHeight);
  const width = pictureWidth * scale;
  const height = pictureHeight * scale;
  return {
    left: element.left + (element.width - width) / 2,
    top: element.top + (element.height - height) / 2,
    width,
    height,
  };
}

/** A point of the window as a place in the picture, 0 to 1 each way; outside it, the nearest place on its edge. */
export function inPicture(drawn: Rect, clientX: number, clientY: number): { x: number; y: number } {
  return {
    x: share(clientX - drawn.left, drawn.width),
    y: share(clientY - drawn.top, drawn.height),
  };
}

function share(offset: number, length: number): number {
  if (length <= 0) return 0;
  const part = Math.min(1, Math.max(0, offset / length));
  return Math.round(part * 1e5) / 1e5;
}

/** Adds up relative movement in picture pixels; whole pixels are taken out, fractions stay for the next time. */
export class RelativeMotion {
  private x = 0;
  private y = 0;

  /** Movement in CSS pixels, and how many picture pixels one of them is. */
  add(movementX: number, movementY: number, scale: number): void {
    this.x += movementX * scale;
    this.y += movementY * scale;
  }

  /** The whole pixels so far, or null where there are none. */
  take(): { dx: number; dy: number } | null {
    const dx = Math.trunc(this.x) + 0; // never -0
    const dy = Math.trunc(this.y) + 0;
    if (dx === 0 && dy === 0) return null;
    this.x -= dx;
    this.y -= dy;
    return { dx, dy };
  }

  clear(): void {
    this.x = 0;
    this.y = 0;
  }
}
