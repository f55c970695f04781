import { RelativeMotion, drawnRect, inPicture, type Rect } from '../pure/picture';
import { keyOf } from '../pure/keys';
import { notches } from '../pure/wheel';
import type { Player } from './player';

const MOVE_MS = 4;
const TAP_MS = 250;
const TAP_PX = 12;
const TEXT_TOUCH_MS = 80;
const PX_PER_NOTCH = 40;

/** What opens the menu: a chord that neither programs nor keyboard layouts use. */
export const MENU_KEYS = 'Ctrl + Alt + Shift + M';

interface Finger {
  x: number;
  y: number;
  at: number;
  startX: number;
  startY: number;
}

/** Keys, mouse, wheel and fingers on the picture, as messages to the Container. */
export class Input {
  /** False while a menu is open or a panel shown: then all input is the page's. */
  active = true;
  onMenu: () => void = () => undefined;
  onPointer: (clientX: number, clientY: number) => void = () => undefined;

  private readonly held = new Map<string, string>();
  private readonly buttons = new Set<number>();
  private readonly motion = new RelativeMotion();
  private place: { x: number; y: number } | null = null;
  private movedAt = 0;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private readonly fingers = new Map<number, Finger>();
  private first: { id: number; down: boolean; timer: ReturnType<typeof setTimeout> | null } | null = null;
  private scrolling: { x: number; y: number } | null = null;

  constructor(
    private readonly player: Player,
    private readonly stage: HTMLElement,
  ) {
    this.keys();
    this.mouse();
    this.touch();
    this.leaving();
    // A new connection knows nothing of the keys that are held.
    player.onLink(() => this.held.forEach((key, code) => player.send({ t: 'key', code, key, down: true })));
  }

  /** Presses or lets go a key that stands on the screen. */
  key(code: string, key: string, down: boolean): void {
    if (down === this.held.has(code)) return;
    if (down) this.held.set(code, key);
    else this.held.delete(code);
    this.player.send({ t: 'key', code, key, down });
  }

  /** A key pressed and let go at once. */
  tap(code: string, key: string): void {
    this.player.send({ t: 'key', code, key, down: true });
    this.player.send({ t: 'key', code, key, down: false });
  }

  /** Text as the keys that write it. */
  type(text: string): void {
    for (const character of text) {
      const { code, key, shift } = keyOf(character);
      if (shift) this.player.send({ t: 'key', code: 'ShiftLeft', key: 'Shift', down: true });
      this.tap(code, key);
      if (shift) this.player.send({ t: 'key', code: 'ShiftLeft', key: 'Shift', down: false });
    }
  }

  /** All keys and buttons up: the page lost the focus, or a menu opens. */
  release(): void {
    this.held.clear();
    this.buttons.clear();
    this.motion.clear();
    this.place = null;
    this.player.send({ t: 'release' });
  }

  get locked(): boolean {
    return document.pointerLockElement === this.stage;
  }

  /** Takes the mouse; only after a click or a key. */
  async capture(): Promise<void> {
    this.stage.focus({ preventScroll: true });
    const request = this.stage.requestPointerLock as ((options?: { unadjustedMovement: boolean }) => Promise<void> | undefined) | undefined;
    if (request === undefined) return;
    try {
      await request.call(this.stage, { unadjustedMovement: true });
    } catch {
      try {
        await request.call(this.stage);
      } catch {
        // Refused, as it is for a second after Escape; the next click asks again.
      }
    }
  }

  /** Where the picture is drawn, in CSS pixels. */
  drawn(): Rect {
    const { video, state } = this.player;
    const box = video.getBoundingClientRect();
    return drawnRect(box, video.videoWidth || (state?.width ?? 16), video.videoHeight || (state?.height ?? 9));
  }

  private get listening(): boolean {
    return this.active && this.player.phase === 'playing';
  }

  private keys(): void {
    const typing = (event: KeyboardEvent): boolean => event.target instanceof HTMLInputElement;
    addEventListener(
      'keydown',
      (event) => {
        if (event.code === 'KeyM' && event.ctrlKey && event.altKey && event.shiftKey && !event.repeat) {
          event.preventDefault();
          this.onMenu();
          return;
        }
        if (!this.listening || typing(event)) return;
        event.preventDefault();
        event.stopPropagation();
        if (event.code === '') {
          // Keyboards on the screen say only what is written.
          if (event.key.length === 1) this.type(event.key);
          return;
        }
        if (event.repeat || this.held.has(event.code)) return;
        this.held.set(event.code, event.key);
        this.flush();
        this.player.send({ t: 'key', code: event.code, key: event.key, down: true });
      },
      { capture: true },
    );
    addEventListener(
      'keyup',
      (event) => {
        if (!this.held.has(event.code) || typing(event)) return;
        event.preventDefault();
        this.held.delete(event.code);
        this.player.send({ t: 'key', code: event.code, key: event.key, down: false });
        // While Meta is down, macOS tells of no other key that is let go.
        if (event.key === 'Meta') for (const [code, key] of [...this.held]) this.key(code, key, false);
      },
      { capture: true },
    );
  }

  private mouse(): void {
    const stage = this.stage;
    const move = (event: PointerEvent): void => {
      if (event.pointerType === 'touch' || !this.listening) return;
      this.onPointer(event.clientX, event.clientY);
      if (this.locked) {
        const drawn = this.drawn();
        const scale = drawn.width > 0 ? (this.player.video.videoWidth || drawn.width) / drawn.width : 1;
        this.motion.add(event.movementX, event.movementY, scale);
      } else {
        this.place = inPicture(this.drawn(), event.clientX, event.clientY);
      }
      this.schedule();
    };
    if ('onpointerrawupdate' in stage) stage.addEventListener('pointerrawupdate', (event) => move(event as PointerEvent));
    else (stage as HTMLElement).addEventListener('pointermove', move);
    stage.addEventListener('pointerdown', (event) => {
      if (event.pointerType === 'touch') return;
      try {
        stage.setPointerCapture(event.pointerId);
      } catch {
        // The pointer is gone already.
      }
    });
    stage.addEventListener('mousedown', (event) => this.button(event, true));
    addEventListener('mouseup', (event) => this.button(event, false));
    for (const name of ['contextmenu', 'dragstart', 'selectstart', 'auxclick'] as const) {
      stage.addEventListener(name, (event) => event.preventDefault());
    }
    stage.addEventListener(
      'wheel',
      (event) => {
        if (!this.listening) return;
        event.preventDefault();
        const dx = notches(event.deltaX, event.deltaMode);
        const dy = notches(event.deltaY, event.deltaMode);
        if (dx === 0 && dy === 0) return;
        this.flush();
        this.player.send({ t: 'wheel', dx, dy });
      },
      { passive: false },
    );
    document.addEventListener('pointerlockchange', () => {
      if (!this.locked) this.release();
      this.player.changed();
    });
  }

  private button(event: MouseEvent, down: boolean): void {
    if (down) {
      if (!this.listening) return;
      event.preventDefault();
      this.stage.focus({ preventScroll: true });
      if (!this.locked && this.player.state?.app.pointer === 'relative') {
        // The click that takes the mouse is not the program's.
        void this.capture();
        return;
      }
      this.buttons.add(event.button);
    } else {
      if (!this.buttons.delete(event.button)) return;
      event.preventDefault();
    }
    if (this.locked) {
      this.flush();
      this.player.send({ t: 'button', b: event.button, down });
      return;
    }
    const { x, y } = inPicture(this.drawn(), event.clientX, event.clientY);
    // The button brings the latest place along, so a move that waits is not needed any more.
    this.place = null;
    this.player.send({ t: 'button', b: event.button, down, x, y });
  }

  /** Sends a move now, or as soon as 4 ms have passed since the last one. */
  private schedule(): void {
    if (this.timer !== null) return;
    const wait = MOVE_MS - (performance.now() - this.movedAt);
    if (wait <= 0) this.flush();
    else {
      this.timer = setTimeout(() => {
        this.timer = null;
        this.flush();
      }, wait);
    }
  }

  private flush(): void {
    const rel = this.motion.take();
    if (rel !== null) this.player.send({ t: 'rel', ...rel });
    if (this.place !== null) this.player.send({ t: 'move', ...this.place });
    if (rel !== null || this.place !== null) this.movedAt = performance.now();
    this.place = null;
  }

  private leaving(): void {
    addEventListener('blur', () => this.release());
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.release();
    });
  }

  // Fingers: the first is the pointer (or moves it, for a program with a relative one), two turn the wheel.

  private touch(): void {
    const stage = this.stage;
    const fingers = (listener: (event: PointerEvent) => void) => (event: PointerEvent) => {
      if (event.pointerType !== 'touch') return;
      event.preventDefault();
      listener(event);
    };
    stage.addEventListener('touchstart', (event) => event.preventDefault(), { passive: false });
    stage.addEventListener('pointerdown', fingers((event) => this.fingerDown(event)));
    stage.addEventListener('pointermove', fingers((event) => this.fingerMove(event)));
    stage.addEventListener('pointerup', fingers((event) => this.fingerUp(event)));
    stage.addEventListener('pointercancel', fingers((event) => this.fingerUp(event)));
  }

  private fingerDown(event: PointerEvent): void {
    if (!this.listening) return;
    this.stage.focus({ preventScroll: true });
    const { pointerId: id, clientX: x, clientY: y } = event;
    this.fingers.set(id, { x, y, startX: x, startY: y, at: performance.now() });
    if (this.fingers.size === 1) {
      this.first = { id, down: false, timer: null };
      if (this.relative) return;
      // Where text is worked on, a second finger may follow to scroll, and the first should not have clicked then.
      if (this.player.state?.app.keyboard === 'text') this.first.timer = setTimeout(() => this.press(), TEXT_TOUCH_MS);
      else this.press();
    } else if (this.fingers.size === 2) {
      this.lift();
      this.scrolling = this.middle();
    }
  }

  private fingerMove(event: PointerEvent): void {
    const finger = this.fingers.get(event.pointerId);
    if (finger === undefined) return;
    const dx = event.clientX - finger.x;
    const dy = event.clientY - finger.y;
    finger.x = event.clientX;
    finger.y = event.clientY;
    if (this.scrolling !== null) {
      this.scroll();
    } else if (this.first?.id === event.pointerId) {
      if (this.relative) {
        const drawn = this.drawn();
        this.motion.add(dx, dy, drawn.width > 0 ? (this.player.video.videoWidth || drawn.width) / drawn.width : 1);
        this.schedule();
      } else {
        this.press();
        this.player.send({ t: 'touch', id: 1, phase: 'move', ...this.at(finger) });
      }
    }
  }

  private fingerUp(event: PointerEvent): void {
    const finger = this.fingers.get(event.pointerId);
    if (finger === undefined) return;
    if (this.first?.id === event.pointerId) {
      const short = performance.now() - finger.at < TAP_MS && Math.hypot(finger.x - finger.startX, finger.y - finger.startY) < TAP_PX;
      if (this.relative) {
        this.flush();
        if (short && this.scrolling === null) {
          this.player.send({ t: 'button', b: 0, down: true });
          this.player.send({ t: 'button', b: 0, down: false });
        }
      } else {
        if (this.scrolling === null) this.press();
        this.lift();
      }
      this.first = null;
    }
    this.fingers.delete(event.pointerId);
    if (this.fingers.size === 0) this.scrolling = null;
  }

  private press(): void {
    const first = this.first;
    const finger = first === null ? undefined : this.fingers.get(first.id);
    if (first === null || finger === undefined || first.down || this.scrolling !== null) return;
    if (first.timer !== null) clearTimeout(first.timer);
    first.down = true;
    this.onPointer(finger.startX, finger.startY);
    this.player.send({ t: 'touch', id: 1, phase: 'start', ...inPicture(this.drawn(), finger.startX, finger.startY) });
  }

  private lift(): void {
    const first = this.first;
    const finger = first === null ? undefined : this.fingers.get(first.id);
    if (first === null || finger === undefined) return;
    if (first.timer !== null) clearTimeout(first.timer);
    if (first.down) this.player.send({ t: 'touch', id: 1, phase: 'end', ...this.at(finger) });
    first.down = false;
  }

  private at(finger: Finger): { x: number; y: number } {
    this.onPointer(finger.x, finger.y);
    return inPicture(this.drawn(), finger.x, finger.y);
  }

  private scroll(): void {
    const middle = this.middle();
    const from = this.scrolling;
    if (from === null || this.fingers.size < 2) return;
    const dx = Math.round(((from.x - middle.x) / PX_PER_NOTCH) * 1000) / 1000;
    const dy = Math.round(((from.y - middle.y) / PX_PER_NOTCH) * 1000) / 1000;
    if (Math.abs(dx) < 0.05 && Math.abs(dy) < 0.05) return;
    this.scrolling = middle;
    this.player.send({ t: 'wheel', dx, dy });
  }

  private middle(): { x: number; y: number } {
    const all = [...this.fingers.values()];
    const sum = all.reduce((total, finger) => ({ x: total.x + finger.x, y: total.y + finger.y }), { x: 0, y: 0 });
    return { x: sum.x / all.length, y: sum.y / all.length };
  }

  private get relative(): boolean {
    return this.player.state?.app.pointer === 'relative';
  }
}
