import type { Player } from './player';

const PADS_MAX = 4;
const ID_MAX = 128;

interface Pad {
  axes: number[];
  buttons: number[];
  text: string;
}

/** Gamepads: looked at once a picture while one is plugged in, told when something changed. */
export class Pads {
  private readonly known = new Map<number, Pad>();
  private polling = false;

  constructor(private readonly player: Player) {
    if (typeof navigator.getGamepads !== 'function') return;
    addEventListener('gamepadconnected', () => this.start());
    addEventListener('gamepaddisconnected', (event) => this.gone(event.gamepad.index));
    player.onLink(() => {
      // The new connection knows of no pad yet.
      for (const pad of this.known.values()) pad.text = '';
      if (this.connected().length > 0) this.start();
    });
  }

  /** The number of the on-screen pad: the last, so that real ones come first. */
  static readonly ON_SCREEN = PADS_MAX - 1;

  private start(): void {
    if (this.polling) return;
    this.polling = true;
    const look = (): void => {
      const pads = this.connected();
      if (pads.length === 0) {
        this.polling = false;
        return;
      }
      for (const pad of pads) this.tell(pad);
      requestAnimationFrame(look);
    };
    look();
  }

  private connected(): Gamepad[] {
    return navigator.getGamepads().filter((pad): pad is Gamepad => pad !== null && pad.connected && pad.index < PADS_MAX);
  }

  private tell(pad: Gamepad): void {
    const axes = pad.axes.map(rounded);
    const buttons = pad.buttons.map((button) => rounded(button.value));
    const text = `${axes.join()}|${buttons.join()}`;
    if (this.known.get(pad.index)?.text === text) return;
    if (!this.player.send({ t: 'pad', i: pad.index, id: pad.id.slice(0, ID_MAX), axes, buttons })) return;
    this.known.set(pad.index, { axes, buttons, text });
  }

  private gone(i: number): void {
    if (this.known.delete(i)) this.player.send({ t: 'padgone', i });
  }
}

function rounded(value: number): number {
  return Math.round(value * 1000) / 1000 + 0;
}
