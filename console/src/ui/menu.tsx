import { useEffect, useRef, useState, type ReactNode } from 'react';
import { MENU_KEYS } from '../player/input';
import { useKept, type Parts } from './app';
import { ClipIn, ClipOut, Close, FullScreen, Gauge, Keys, Limit, Mic, Mouse, Pad, Speaker, Stop } from './icons';

interface MenuProps extends Parts {
  overlay: boolean;
  setOverlay: (on: boolean) => void;
  touch: boolean;
  close: () => void;
  show: (view: 'help' | 'stop') => void;
}

const LIMITS: readonly [bps: number, text: string][] = [
  [0, 'No limit'],
  [1e6, '1 Mbit/s'],
  [2e6, '2 Mbit/s'],
  [4e6, '4 Mbit/s'],
  [8e6, '8 Mbit/s'],
  [16e6, '16 Mbit/s'],
];

export function Menu(props: MenuProps): ReactNode {
  const { player, input, sound, microphone, clipboard, overlay, setOverlay, touch, close, show } = props;
  const box = useRef<HTMLDivElement>(null);
  const [controls, setControls] = useKept<boolean>('controls', true);
  const full = document.fullscreenElement !== null;
  useEffect(() => box.current?.querySelector<HTMLElement>('button, input')?.focus(), []);
  return (
    <>
      <div className="shade" onClick={close} />
      <div className="menu" role="dialog" aria-label="Menu" ref={box}>
        <header>
          <h1>{player.state?.app.title ?? 'Session'}</h1>
          <button type="button" className="icon" aria-label="Close the menu" onClick={close}>
            <Close />
          </button>
        </header>
        {typeof document.documentElement.requestFullscreen === 'function' && (
          <Row
            icon={<FullScreen />}
            text={full ? 'Leave full screen' : 'Full screen'}
            onClick={() => {
              void fullScreen(!full);
              close();
            }}
          />
        )}
        {!touch && (
          <Row
            icon={<Mouse />}
            text="Capture mouse"
            aside="Esc lets it go"
            onClick={() => {
              close();
              void input.capture();
            }}
          />
        )}
        {touch && (
          <Switch
            icon={<Pad />}
            text="On-screen controls"
            on={controls}
            onChange={setControls}
          />
        )}
        <label className="row">
          <Speaker />
          <span>Volume</span>
          <input
            type="range"
            min="0"
            max="1"
            step="0.05"
            value={sound.volume}
            aria-label="Volume"
            onChange={(event) => sound.setVolume(Number(event.target.value))}
          />
        </label>
        {player.state?.microphone === true && microphone.available && (
          <Switch icon={<Mic />} text="Microphone" on={microphone.on} onChange={(on) => void microphone.set(on)} />
        )}
        {microphone.trouble !== null && <p className="trouble">{microphone.trouble}</p>}
        {clipboard.available && (
          <>
            <Switch icon={<ClipOut />} text="Program reads my clipboard" on={clipboard.give} onChange={(on) => clipboard.setGive(on)} />
            <Switch icon={<ClipIn />} text="Program writes my clipboard" on={clipboard.take} onChange={(on) => clipboard.setTake(on)} />
            {clipboard.trouble !== null && <p className="trouble">{clipboard.trouble}</p>}
          </>
        )}
        <hr />
        <Switch icon={<Gauge />} text="Show quality" on={overlay} onChange={setOverlay} />
        <BitrateLimit {...props} />
        <hr />
        <Row icon={<Keys />} text="Keyboard and mouse" onClick={() => show('help')} />
        <Row icon={<Stop />} text="Stop the session" danger onClick={() => show('stop')} />
        {!touch && (
          <footer>
            Open or close this menu: <kbd>{MENU_KEYS}</kbd>
          </footer>
        )}
      </div>
    </>
  );
}

function BitrateLimit({ player }: Parts): ReactNode {
  const [limit, setLimit] = useState(player.limit);
  return (
    <label className="row">
      <Limit />
      <span>Bitrate</span>
      <select
        value={limit}
        aria-label="Bitrate limit"
        onChange={(event) => {
          const bps = Number(event.target.value);
          setLimit(bps);
          player.setLimit(bps);
        }}
      >
        {LIMITS.map(([bps, text]) => (
          <option key={bps} value={bps}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

interface RowProps {
  icon: ReactNode;
  text: string;
  aside?: string;
  danger?: boolean;
  onClick: () => void;
}

function Row({ icon, text, aside, danger, onClick }: RowProps): ReactNode {
  return (
    <button type="button" className={danger === true ? 'row danger' : 'row'} onClick={onClick}>
      {icon}
      <span>{text}</span>
      {aside !== undefined && <small>{aside}</small>}
    </button>
  );
}

interface SwitchProps {
  icon: ReactNode;
  text: string;
  on: boolean;
  onChange: (on: boolean) => void;
}

function Switch({ icon, text, on, onChange }: SwitchProps): ReactNode {
  return (
    <button type="button" className="row" role="switch" aria-checked={on} onClick={() => onChange(!on)}>
      {icon}
      <span>{text}</span>
      <i className="switch" aria-hidden="true" />
    </button>
  );
}

/** In full screen, where the browser allows it, Escape and the like go to the program too. */
async function fullScreen(on: boolean): Promise<void> {
  const keyboard = (navigator as Navigator & { keyboard?: { lock?: (keys?: string[]) => Promise<void>; unlock?: () => void } }).keyboard;
  try {
    if (!on) {
      keyboard?.unlock?.();
      await document.exitFullscreen();
      return;
    }
    await document.documentElement.requestFullscreen({ navigationUI: 'hide' });
    await keyboard?.lock?.();
  } catch {
    // The browser refused; the page stays as it is.
  }
}
