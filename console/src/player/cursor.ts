import type { Input } from './input';
import type { Player } from './player';
import type { Cursor } from './wire';

const BASE64 = /^[A-Za-z0-9+/]+=*$/;
const NATIVE_MAX = 64;

/**
 * The program's pointer. Under a mouse it is the browser's own cursor with the program's image, and so moves without
 * delay; under pointer lock, under a finger, and where it is too large for that, it is a picture on top.
 */
export class Pointer {
  private image: { url: string; w: number; h: number; hot: [number, number] } | null = null;
  private hidden = false;
  private touch = false;
  private place: { x: number; y: number } | null = null;

  constructor(
    private readonly player: Player,
    private readonly input: Input,
    private readonly stage: HTMLElement,
    private readonly drawn: HTMLImageElement,
  ) {
    player.onMessage((message) => {
      if (message.t === 'cursor') this.receive(message);
    });
    input.onPointer = (clientX, clientY) => {
      if (this.own && !input.locked) this.draw(clientX, clientY);
    };
    stage.addEventListener('pointerdown', (event) => {
      this.touch = event.pointerType === 'touch';
      this.apply();
    });
    document.addEventListener('pointerlockchange', () => this.apply());
  }

  private get own(): boolean {
    const { image } = this;
    return image !== null && !this.hidden && (this.touch || this.input.locked || image.w > NATIVE_MAX || image.h > NATIVE_MAX);
  }

  private receive(cursor: Cursor): void {
    this.hidden = cursor.hidden === true;
    if (cursor.png !== undefined && BASE64.test(cursor.png)) {
      this.image = { url: `data:image/png;base64,${cursor.png}`, w: cursor.w ?? 0, h: cursor.h ?? 0, hot: cursor.hot ?? [0, 0] };
    }
    if (cursor.x !== undefined && cursor.y !== undefined) this.place = { x: cursor.x, y: cursor.y };
    this.apply();
  }

  private apply(): void {
    const { image, stage, drawn } = this;
    if (this.hidden || this.own) stage.style.cursor = 'none';
    else if (image !== null) stage.style.cursor = `url(${image.url}) ${Math.round(image.hot[0])} ${Math.round(image.hot[1])}, default`;
    if (!this.own) {
      drawn.hidden = true;
      return;
    }
    if (image !== null && drawn.getAttribute('src') !== image.url) drawn.src = image.url;
    if (this.place === null || (!this.input.locked && !this.touch)) return;
    const rect = this.input.drawn();
    const { videoWidth, videoHeight } = this.player.video;
    if (videoWidth === 0 || videoHeight === 0) return;
    this.draw(rect.left + (this.place.x / videoWidth) * rect.width, rect.top + (this.place.y / videoHeight) * rect.height);
  }

  private draw(clientX: number, clientY: number): void {
    const { image, drawn } = this;
    if (image === null) return;
    drawn.style.transform = `translate(${clientX - image.hot[0]}px, ${clientY - image.hot[1]}px)`;
    drawn.hidden = false;
  }
}
