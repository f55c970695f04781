import { useCallback, useEffect, useState, useSyncExternalStore, type ReactNode } from 'react';
import type { Clipboard } from '../player/clipboard';
import type { Input } from '../player/input';
import type { Meter } from '../player/meter';
import type { Player } from '../player/player';
import type { Microphone, Sound } from '../player/sound';
import { More, Speaker } from './icons';
import { Menu } from './menu';
import { Overlay } from './overlay';
import { Confirm, Ended, Failed, Help } from './panels';
import { sentence } from './format';
import { TouchControls } from './touch';

export interface Parts {
  player: Player;
  stage: HTMLElement;
  input: Input;
  meter: Meter;
  sound: Sound;
  microphone: Microphone;
  clipboard: Clipboard;
}

type View = 'none' | 'menu' | 'help' | 'stop';

export function App(parts: Parts): ReactNode {
  const { player, input, stage, sound } = parts;
  useChanges(player);
  const [view, setView] = useState<View>('none');
  const [overlay, setOverlay] = useKept<boolean>('overlay', false);
  const touch = useTouch();
  const over = player.over;

  useEffect(() => {
    input.active = view === 'none' && !over;
    stage.inert = !input.active;
    if (!input.active) {
      input.release();
      if (input.locked) document.exitPointerLock();
    } else {
      stage.focus({ preventScroll: true });
    }
  }, [view, over, input, stage]);

  useEffect(() => {
    input.onMenu = () => setView((now) => (now === 'none' ? 'menu' : 'none'));
  }, [input]);

  useEffect(() => {
    if (view === 'none') return undefined;
    const escape = (event: KeyboardEvent): void => {
      if (event.key !== 'Escape') return;
      event.preventDefault();
      setView('none');
    };
    addEventListener('keydown', escape);
    return () => removeEventListener('keydown', escape);
  }, [view]);

  useAwake(player.phase === 'playing');
  const close = useCallback(() => setView('none'), []);

  if (player.phase === 'failed' && player.failure !== null) return <Failed player={player} failure={player.failure} />;
  if (player.phase === 'ended') return <Ended player={player} />;
  const playing = player.phase === 'playing';
  return (
    <>
      {overlay && player.firstFrameMs !== null && <Overlay {...parts} />}
      {touch && playing && view === 'none' && <TouchControls {...parts} />}
      <button
        type="button"
        className="more"
        aria-label="Menu"
        aria-haspopup="dialog"
        aria-expanded={view === 'menu'}
        onPointerDown={(event) => event.preventDefault()}
        onClick={() => setView(view === 'none' ? 'menu' : 'none')}
      >
        <More />
      </button>
      {view === 'menu' && <Menu {...parts} overlay={overlay} setOverlay={setOverlay} touch={touch} close={close} show={setView} />}
      {view === 'help' && <Help close={close} />}
      {view === 'stop' && <Confirm player={player} close={close} />}
      <Notes player={player} />
      <div className="hints">
        {playing && sound.hint && (
          <button type="button" className="hint" onPointerDown={(event) => event.preventDefault()}>
            <Speaker /> Sound on
          </button>
        )}
        {playing && !touch && player.state?.app.pointer === 'relative' && !input.locked && view === 'none' && <CaptureHint />}
      </div>
    </>
  );
}

function CaptureHint(): ReactNode {
  return <p className="hint quiet">Click the picture to capture the mouse; Esc lets it go</p>;
}

interface Note {
  code: string;
  text: string;
  until: number | null;
}

/** What the Container tells the player. */
function Notes({ player }: { player: Player }): ReactNode {
  const [note, setNote] = useState<Note | null>(null);
  const [now, setNow] = useState(() => performance.now());
  useEffect(
    () =>
      player.onMessage((message, at) => {
        if (message.t !== 'note') return;
        setNow(at);
        setNote({ code: message.code, text: message.text, until: typeof message.seconds === 'number' ? at + message.seconds * 1000 : null });
      }),
    [player],
  );
  useEffect(() => {
    if (note === null) return undefined;
    const hide = setTimeout(() => setNote(null), note.until === null ? 12_000 : Math.max(1000, note.until - performance.now()));
    const count = setInterval(() => setNow(performance.now()), 1000);
    return () => {
      clearTimeout(hide);
      clearInterval(count);
    };
  }, [note]);
  if (note === null) return null;
  return (
    <div className="note" role="status">
      <span>{sentence(note.text)}</span>
      {note.until !== null && <span className="count">{Math.max(0, Math.ceil((note.until - now) / 1000))} s</span>}
      <button type="button" className="plain" onClick={() => setNote(null)}>
        Dismiss
      </button>
    </div>
  );
}

/** Renders again whenever the player's state changes. */
function useChanges(player: Player): void {
  const version = useSyncExternalStore(
    useCallback((changed: () => void) => player.subscribe(changed), [player]),
    () => player.version,
  );
  void version;
}

/** A preference that the browser keeps. */
export function useKept<T extends string | boolean | number>(name: string, first: T): [T, (value: T) => void] {
  const [value, setValue] = useState<T>(() => {
    try {
      const text = localStorage.getItem(`muster.${name}`);
      const parsed: unknown = text === null ? first : JSON.parse(text);
      return typeof parsed === typeof first ? (parsed as T) : first;
    } catch {
      return first;
    }
  });
  const set = useCallback(
    (next: T) => {
      setValue(next);
      try {
        localStorage.setItem(`muster.${name}`, JSON.stringify(next));
      } catch {
        // Not kept.
      }
    },
    [name],
  );
  return [value, set];
}

/** Whether fingers are what the page is used with. */
function useTouch(): boolean {
  const [touch, setTouch] = useState(() => matchMedia('(pointer: coarse)').matches);
  useEffect(() => {
    const query = matchMedia('(pointer: coarse)');
    const changed = (): void => setTouch(query.matches);
    query.addEventListener('change', changed);
    return () => query.removeEventListener('change', changed);
  }, []);
  return touch;
}

/** Keeps a phone's screen on while there is a picture. */
function useAwake(wanted: boolean): void {
  useEffect(() => {
    if (!wanted || !('wakeLock' in navigator)) return undefined;
    let lock: WakeLockSentinel | null = null;
    let gone = false;
    const ask = (): void => {
      if (document.hidden) return;
      navigator.wakeLock.request('screen').then(
        (held) => {
          lock = held;
          if (gone) void held.release();
        },
        () => undefined,
      );
    };
    ask();
    document.addEventListener('visibilitychange', ask);
    return () => {
      gone = true;
      document.removeEventListener('visibilitychange', ask);
      void lock?.release();
    };
  }, [wanted]);
}

