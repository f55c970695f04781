import type { Player } from './player';

/** Sound starts muted, as browsers demand; the first click or key on the page turns it on. */
export class Sound {
  /** Whether the player has yet to click before anything can be heard. */
  hint = true;
  volume = 1;
  private muted = false;

  constructor(private readonly player: Player) {
    const unlock = (): void => {
      if (!this.hint) return;
      this.hint = false;
      this.apply();
      player.changed();
    };
    for (const name of ['pointerup', 'mousedown', 'keydown', 'touchend'] as const) addEventListener(name, unlock, { capture: true });
    this.apply();
  }

  setVolume(volume: number): void {
    this.volume = volume;
    this.muted = volume === 0;
    this.apply();
    this.player.changed();
  }

  private apply(): void {
    const { sound } = this.player;
    sound.volume = this.volume;
    sound.muted = this.hint || this.muted;
    sound.play().catch(() => undefined);
  }
}

/** The microphone: a new connection carries it the first time, then it is only switched. */
export class Microphone {
  on = false;
  trouble: string | null = null;
  readonly available = typeof navigator.mediaDevices?.getUserMedia === 'function';

  constructor(private readonly player: Player) {}

  async set(on: boolean): Promise<void> {
    const { player } = this;
    this.trouble = null;
    if (!on) {
      this.on = false;
      player.microphone?.stop();
      player.microphone = null;
      player.renew();
      player.changed();
      return;
    }
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true } });
      player.microphone = stream.getAudioTracks()[0] ?? null;
      this.on = player.microphone !== null;
      player.renew();
    } catch {
      this.trouble = 'The browser did not allow the microphone, or there is none.';
    }
    player.changed();
  }
}
