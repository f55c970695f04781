import { useEffect, useRef, useState, type ReactNode } from 'react';
import { MENU_KEYS } from '../player/input';
import type { Failure, Player } from '../player/player';
import { amount, duration, sentence } from './format';

/** Failures after which a reload may help. */
const RELOAD: ReadonlySet<string> = new Set(['elsewhere', 'too_many_players']);

/** Why it cannot go on. */
export function Failed({ player, failure }: { player: Player; failure: Failure }): ReactNode {
  const [copied, setCopied] = useState(false);
  const details = JSON.stringify(
    {
      session: player.id,
      code: failure.code,
      what: failure.text,
      app: player.state === null ? null : `${player.state.app.name} ${player.state.app.version}`,
      container: player.state?.container ?? null,
      region: player.state?.region ?? null,
      time: new Date().toISOString(),
      browser: navigator.userAgent,
    },
    null,
    2,
  );
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(details);
      setCopied(true);
    } catch {
      setCopied(false);
    }
  };
  return (
    <Panel label={failure.title}>
      <h1>{failure.title}</h1>
      <p className="why">{sentence(failure.text)}</p>
      {failure.advice !== '' && <p>{failure.advice}</p>}
      <details>
        <summary>Details</summary>
        <pre tabIndex={0}>{details}</pre>
      </details>
      <div className="actions">
        <button type="button" onClick={() => void copy()}>
          {copied ? 'Copied' : 'Copy details'}
        </button>
        {RELOAD.has(failure.code) ? (
          <button type="button" className="primary" onClick={() => location.reload()}>
            Try again
          </button>
        ) : (
          <a className="button primary" href="/">
            Home
          </a>
        )}
      </div>
    </Panel>
  );
}

/** The session is over: what it was. */
export function Ended({ player }: { player: Player }): ReactNode {
  const { state } = player;
  return (
    <Panel label="The session has ended">
      <h1>{state?.app.title ?? 'Session'} has ended</h1>
      <p className="why">{sentence(player.ending ?? '')}</p>
      <dl className="summary">
        <div>
          <dt>Time played</dt>
          <dd>{state === null ? '–' : duration(state.ran_ms)}</dd>
        </div>
        <div>
          <dt>Cost</dt>
          <dd>{amount(state?.cost ?? '–')}</dd>
        </div>
        <div>
          <dt>Machine</dt>
          <dd>{[state?.region, state?.container].filter(Boolean).join(' · ') || '–'}</dd>
        </div>
      </dl>
      <div className="actions">
        <a className="button primary" href="/">
          Home
        </a>
      </div>
    </Panel>
  );
}

/** Asks before the session is stopped. */
export function Confirm({ player, close }: { player: Player; close: () => void }): ReactNode {
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState<string | null>(null);
  const stop = async (): Promise<void> => {
    setBusy(true);
    setTrouble(null);
    try {
      await player.stop();
    } catch (error) {
      setTrouble(error instanceof Error ? error.message : 'It could not be stopped.');
      setBusy(false);
    }
  };
  return (
    <Panel label="Stop the session?" onShade={close}>
      <h1>Stop the session?</h1>
      <p>What is not saved in the program is lost.</p>
      {trouble !== null && <p className="trouble">{trouble}</p>}
      <div className="actions">
        <button type="button" onClick={close}>
          Play on
        </button>
        <button type="button" className="danger" disabled={busy} onClick={() => void stop()}>
          {busy ? 'Stopping…' : 'Stop'}
        </button>
      </div>
    </Panel>
  );
}

const HELP: readonly [string, string][] = [
  [MENU_KEYS, 'Opens and closes the menu'],
  ['Esc', 'Lets a captured mouse go; in full screen, hold it to leave'],
  ['All other keys', 'Go to the program, also those that the browser would use'],
  ['Mouse', 'Pointer, buttons and wheel go to the program; capture it where the program turns a view or a board'],
  ['One finger', 'Is the pointer'],
  ['Two fingers', 'Turn the wheel'],
  ['Gamepad', 'Press one of its buttons, and the program has it'],
];

export function Help({ close }: { close: () => void }): ReactNode {
  return (
    <Panel label="Keyboard and mouse" onShade={close}>
      <h1>Keyboard and mouse</h1>
      <dl className="help">
        {HELP.map(([key, text]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <div className="actions">
        <button type="button" className="primary" onClick={close}>
          Back to the program
        </button>
      </div>
    </Panel>
  );
}

function Panel({ label, onShade, children }: { label: string; onShade?: () => void; children: ReactNode }): ReactNode {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => box.current?.focus(), []);
  return (
    <div className="panel-shade" onClick={(event) => event.target === event.currentTarget && onShade?.()}>
      <div className="panel" role="dialog" aria-modal="true" aria-label={label} tabIndex={-1} ref={box}>
        {children}
      </div>
    </div>
  );
}
