import type { Player } from './player';
import { CLIP_BYTES_MAX } from './wire';

/** The clipboard, each way only after the player said so. */
export class Clipboard {
  give = false;
  take = false;
  /** What went wrong last, for the menu. */
  trouble: string | null = null;
  readonly available = typeof navigator.clipboard?.readText === 'function' && typeof navigator.clipboard.writeText === 'function';
  private sent: string | null = null;
  private waiting: string | null = null;

  constructor(private readonly player: Player) {
    player.onMessage((message) => {
      if (message.t === 'clip' && this.take) void this.write(message.text);
    });
    player.onLink(() => {
      this.sent = null;
      if (this.take) player.tell({ t: 'clipwanted', on: true });
      void this.read();
    });
    addEventListener('focus', () => void this.read());
    for (const name of ['pointerdown', 'keydown'] as const) {
      addEventListener(name, () => this.waiting !== null && void this.write(this.waiting), { capture: true });
    }
  }

  setGive(on: boolean): void {
    this.give = on;
    this.trouble = null;
    void this.read();
    this.player.changed();
  }

  setTake(on: boolean): void {
    this.take = on;
    this.trouble = null;
    this.waiting = null;
    this.player.tell({ t: 'clipwanted', on });
    this.player.changed();
  }

  private async read(): Promise<void> {
    if (!this.give || !this.available) return;
    let text: string;
    try {
      text = await navigator.clipboard.readText();
    } catch {
      this.complain('The browser did not allow reading the clipboard.');
      return;
    }
    if (!this.give || text === '' || text === this.sent) return;
    if (new TextEncoder().encode(text).length > CLIP_BYTES_MAX) {
      this.complain('What is on the clipboard is longer than 60 KiB and was not sent.');
      return;
    }
    if (this.player.tell({ t: 'clip', text })) this.sent = text;
  }

  private async write(text: string): Promise<void> {
    this.waiting = null;
    try {
      await navigator.clipboard.writeText(text);
      this.sent = text;
    } catch {
      // A page without focus may not write; the next click or key brings it.
      this.waiting = text;
    }
  }

  private complain(text: string): void {
    this.trouble = text;
    this.player.changed();
  }
}
