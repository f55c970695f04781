import { useEffect, useRef, useState, type PointerEvent as ReactPointerEvent, type ReactNode } from 'react';
import { Pads } from '../player/pads';
import { directions, typed, type Direction } from '../pure/typed';
import { useKept, type Parts } from './app';
import { Keys } from './icons';

const STICKS = ['arrows', 'wasd', 'pad'] as const;
type Stick = (typeof STICKS)[number];
const STICK_NAMES: Readonly<Record<Stick, string>> = { arrows: 'Arrow keys', wasd: 'WASD', pad: 'Gamepad' };

const STICK_KEYS: Readonly<Record<'arrows' | 'wasd', Readonly<Record<Direction, readonly [code: string, key: string]>>>> = {
  arrows: {
    up: ['ArrowUp', 'ArrowUp'],
    down: ['ArrowDown', 'ArrowDown'],
    left: ['ArrowLeft', 'ArrowLeft'],
    right: ['ArrowRight', 'ArrowRight'],
  },
  wasd: { up: ['KeyW', 'w'], down: ['KeyS', 's'], left: ['KeyA', 'a'], right: ['KeyD', 'd'] },
};

const BUTTONS: readonly [text: string, code: string, key: string][] = [
  ['Esc', 'Escape', 'Escape'],
  ['Enter', 'Enter', 'Enter'],
  ['Space', 'Space', ' '],
];
const PAD_BUTTONS: readonly [text: string, index: number][] = [
  ['Y', 3],
  ['X', 2],
  ['B', 1],
  ['A', 0],
];
const PAD_ID = 'On-screen gamepad';
const PAD_BUTTON_COUNT = 17;

/** Keys, a stick and a keyboard for fingers. */
export function TouchControls({ input, player }: Parts): ReactNode {
  const [shown, setShown] = useKept<boolean>('controls', true);
  const [name, setStick] = useKept<string>('stick', 'arrows');
  const stick: Stick = STICKS.find((known) => known === name) ?? 'arrows';
  const pad = useRef({ axes: [0, 0, 0, 0], buttons: new Array<number>(PAD_BUTTON_COUNT).fill(0) });
  const sendPad = (): void => {
    const { axes, buttons } = pad.current;
    player.send({ t: 'pad', i: Pads.ON_SCREEN, id: PAD_ID, axes: [...axes], buttons: [...buttons] });
  };
  const next = (): void => {
    if (stick === 'pad') player.send({ t: 'padgone', i: Pads.ON_SCREEN });
    setStick(STICKS[(STICKS.indexOf(stick) + 1) % STICKS.length] ?? 'arrows');
  };
  useEffect(() => {
    const held = input;
    return () => held.release();
  }, [input, stick, shown]);
  return (
    <div className="touch">
      <div className="touch-bar">
        <button type="button" className="chip" aria-pressed={shown} onClick={() => setShown(!shown)}>
          {shown ? 'Hide controls' : 'Show controls'}
        </button>
        {shown && (
          <button type="button" className="chip" onClick={next} aria-label={`The stick is ${STICK_NAMES[stick]}; change it`}>
            {STICK_NAMES[stick]}
          </button>
        )}
        <Keyboard input={input} />
      </div>
      {shown && (
        <>
          <StickPad
            onMove={(x, y) => {
              if (stick === 'pad') {
                pad.current.axes[0] = x;
                pad.current.axes[1] = y;
                sendPad();
                return;
              }
              const held = directions(x, y);
              for (const direction of ['up', 'down', 'left', 'right'] as const) {
                const [code, key] = STICK_KEYS[stick][direction];
                input.key(code, key, held.includes(direction));
              }
            }}
          />
          <div className="touch-buttons">
            {stick === 'pad'
              ? PAD_BUTTONS.map(([text, index]) => (
                  <Hold
                    key={text}
                    text={text}
                    onHold={(down) => {
                      pad.current.buttons[index] = down ? 1 : 0;
                      sendPad();
                    }}
                  />
                ))
              : BUTTONS.map(([text, code, key]) => <Hold key={code} text={text} onHold={(down) => input.key(code, key, down)} />)}
          </div>
        </>
      )}
    </div>
  );
}

function Hold({ text, onHold }: { text: string; onHold: (down: boolean) => void }): ReactNode {
  const [held, setHeld] = useState(false);
  const set = (down: boolean) => (event: ReactPointerEvent<HTMLButtonElement>) => {
    event.preventDefault();
    if (down) event.currentTarget.setPointerCapture(event.pointerId);
    if (down === held) return;
    setHeld(down);
    onHold(down);
  };
  return (
    <button
      type="button"
      className={held ? 'hold held' : 'hold'}
      onPointerDown={set(true)}
      onPointerUp={set(false)}
      onPointerCancel={set(false)}
      onContextMenu={(event) => event.preventDefault()}
    >
      {text}
    </button>
  );
}

function StickPad({ onMove }: { onMove: (x: number, y: number) => void }): ReactNode {
  const base = useRef<HTMLDivElement>(null);
  const knob = useRef<HTMLDivElement>(null);
  const finger = useRef<number | null>(null);
  const last = useRef({ x: 0, y: 0 });
  const move = (x: number, y: number): void => {
    if (knob.current !== null) knob.current.style.transform = `translate(${x * 40}px, ${y * 40}px)`;
    if (last.current.x === x && last.current.y === y) return;
    last.current = { x, y };
    onMove(x, y);
  };
  const follow = (event: ReactPointerEvent): void => {
    if (finger.current !== event.pointerId || base.current === null) return;
    const box = base.current.getBoundingClientRect();
    let x = (event.clientX - box.left - box.width / 2) / (box.width / 2);
    let y = (event.clientY - box.top - box.height / 2) / (box.height / 2);
    const length = Math.hypot(x, y);
    if (length > 1) {
      x /= length;
      y /= length;
    }
    move(Math.round(x * 100) / 100, Math.round(y * 100) / 100);
  };
  const end = (event: ReactPointerEvent): void => {
    if (finger.current !== event.pointerId) return;
    finger.current = null;
    move(0, 0);
  };
  return (
    <div
      className="stick"
      ref={base}
      role="img"
      aria-label="Stick"
      onPointerDown={(event) => {
        event.preventDefault();
        if (finger.current !== null) return;
        finger.current = event.pointerId;
        event.currentTarget.setPointerCapture(event.pointerId);
        follow(event);
      }}
      onPointerMove={follow}
      onPointerUp={end}
      onPointerCancel={end}
      onContextMenu={(event) => event.preventDefault()}
    >
      <div className="knob" ref={knob} />
    </div>
  );
}

const KEPT = ' ';
const TEXT_MAX = 200;

/** A field out of sight that brings up the phone's keyboard; what is typed into it goes to the program as keys. */
function Keyboard({ input }: { input: Parts['input'] }): ReactNode {
  const field = useRef<HTMLInputElement>(null);
  const before = useRef(KEPT);
  const [open, setOpen] = useState(false);
  const reset = (): void => {
    before.current = KEPT;
    if (field.current !== null) field.current.value = KEPT;
  };
  return (
    <>
      <button
        type="button"
        className="chip"
        aria-label="Keyboard"
        aria-pressed={open}
        onPointerDown={(event) => event.preventDefault()}
        onClick={() => (open ? field.current?.blur() : field.current?.focus())}
      >
        <Keys />
      </button>
      <input
        ref={field}
        className="out-of-sight"
        aria-label="Text for the program"
        defaultValue={KEPT}
        autoComplete="off"
        autoCapitalize="off"
        autoCorrect="off"
        spellCheck={false}
        tabIndex={-1}
        onFocus={() => setOpen(true)}
        onBlur={() => {
          setOpen(false);
          reset();
        }}
        onKeyDown={(event) => {
          if (event.key.length === 1 || ['Unidentified', 'Process', 'Backspace', 'Dead', 'Shift'].includes(event.key)) return;
          event.preventDefault();
          input.tap(event.code || event.key, event.key);
        }}
        onInput={(event) => {
          const value = event.currentTarget.value;
          const { back, text } = typed(before.current, value);
          for (let i = 0; i < back; i++) input.tap('Backspace', 'Backspace');
          input.type(text);
          before.current = value;
          const composing = (event.nativeEvent as InputEvent).isComposing;
          if (value === '' || (!composing && value.length > TEXT_MAX)) reset();
        }}
      />
    </>
  );
}
