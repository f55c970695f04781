import { useCallback, useEffect, useId, useState, type FormEvent, type ReactNode } from 'react';
import { ApiError, api } from '../player/api';
import type { SessionState } from '../player/wire';
import { amount, duration, sentence } from '../ui/format';
import { AskKey, useKey } from '../ui/key';
import { Top } from '../ui/top';

const REFRESH_MS = 3000;

interface Started extends SessionState {
  link: string;
  token_expires_at: number;
}

export function Home(): ReactNode {
  const [key, keep] = useKey();
  return (
    <>
      <Top here="sessions" />
      <main className="home">
        <header>
          <h1>Muster</h1>
          <p>A GPU cloud that nobody owns. Start a program on somebody’s idle card and use it here, in the browser.</p>
        </header>
        {key === null ? (
          <AskKey title="Your sessions" hint="Whoever has a link to a session needs no key." onKey={keep} />
        ) : (
          <Console apiKey={key} forget={() => keep(null)} />
        )}
      </main>
    </>
  );
}

function Console({ apiKey, forget }: { apiKey: string; forget: () => void }): ReactNode {
  const [sessions, setSessions] = useState<SessionState[] | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const load = useCallback(async () => {
    try {
      const list = await api<SessionState[] | { sessions: SessionState[] }>('GET', 'sessions', { bearer: apiKey });
      setSessions(Array.isArray(list) ? list : list.sessions);
      setTrouble(null);
    } catch (error) {
      setTrouble(words(error));
    }
  }, [apiKey]);
  useEffect(() => {
    void load();
    const timer = setInterval(() => {
      if (!document.hidden) void load();
    }, REFRESH_MS);
    return () => clearInterval(timer);
  }, [load]);
  return (
    <>
      <Start apiKey={apiKey} started={() => void load()} />
      <section>
        <div className="head">
          <h2>Your sessions</h2>
          <button type="button" onClick={forget}>
            Forget the key
          </button>
        </div>
        {trouble !== null && (
          <p className="trouble" role="alert">
            {trouble}
          </p>
        )}
        {sessions?.length === 0 && <p className="quiet">None yet.</p>}
        <ul className="sessions">
          {(sessions ?? []).map((session) => (
            <Session key={session.id} session={session} apiKey={apiKey} changed={() => void load()} />
          ))}
        </ul>
      </section>
    </>
  );
}

function Session({ session, apiKey, changed }: { session: SessionState; apiKey: string; changed: () => void }): ReactNode {
  const [sure, setSure] = useState(false);
  const [trouble, setTrouble] = useState<string | null>(null);
  const stop = async (): Promise<void> => {
    if (!sure) {
      setSure(true);
      return;
    }
    try {
      await api('POST', `sessions/${session.id}/stop`, { bearer: apiKey, body: {} });
      changed();
    } catch (error) {
      setTrouble(words(error));
    }
    setSure(false);
  };
  const facts = [
    `${session.width} × ${session.height}, ${session.fps} fps`,
    session.region,
    session.container,
    session.ran_ms > 0 ? duration(session.ran_ms) : null,
    session.cost === null ? null : amount(session.cost),
  ];
  return (
    <li>
      <div>
        <strong>{session.app.title}</strong> <span className={`state ${session.state}`}>{session.state}</span>
        <p className="quiet">{facts.filter(Boolean).join(' · ')}</p>
        {session.why !== null && <p className="quiet">{sentence(session.why)}</p>}
        {trouble !== null && <p className="trouble">{trouble}</p>}
      </div>
      {session.state !== 'ended' && (
        <button type="button" className="danger" onClick={() => void stop()} onBlur={() => setSure(false)}>
          {sure ? 'Really stop?' : 'Stop'}
        </button>
      )}
    </li>
  );
}

const SIZES = ['1280x720', '1600x900', '1920x1080', '2560x1440'] as const;
const RATES = [30, 60, 120] as const;

function Start({ apiKey, started }: { apiKey: string; started: () => void }): ReactNode {
  const id = useId();
  const [app, setApp] = useState('neverball');
  const [size, setSize] = useState<string>(SIZES[0]);
  const [fps, setFps] = useState(60);
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [result, setResult] = useState<Started | null>(null);
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setTrouble(null);
    try {
      const [width, height] = size.split('x').map(Number);
      setResult(await api<Started>('POST', 'sessions', { bearer: apiKey, body: { app: app.trim(), width, height, fps } }));
      started();
    } catch (error) {
      setTrouble(words(error));
    }
    setBusy(false);
  };
  return (
    <section>
      <h2>Start a session</h2>
      <form onSubmit={(event) => void submit(event)} className="start">
        <div>
          <label htmlFor={`${id}a`}>Program</label>
          <input id={`${id}a`} required value={app} autoComplete="off" onChange={(event) => setApp(event.target.value)} />
        </div>
        <div>
          <label htmlFor={`${id}s`}>Picture</label>
          <select id={`${id}s`} value={size} onChange={(event) => setSize(event.target.value)}>
            {SIZES.map((value) => (
              <option key={value} value={value}>
                {value.replace('x', ' × ')}
              </option>
            ))}
          </select>
        </div>
        <div>
          <label htmlFor={`${id}f`}>Frames a second</label>
          <select id={`${id}f`} value={fps} onChange={(event) => setFps(Number(event.target.value))}>
            {RATES.map((value) => (
              <option key={value}>{value}</option>
            ))}
          </select>
        </div>
        <button type="submit" className="primary" disabled={busy}>
          {busy ? 'Starting…' : 'Start'}
        </button>
      </form>
      {trouble !== null && (
        <p className="trouble" role="alert">
          {trouble}
        </p>
      )}
      {result !== null && <Link result={result} />}
    </section>
  );
}

function Link({ result }: { result: Started }): ReactNode {
  const [copied, setCopied] = useState(false);
  const copy = (): void => {
    navigator.clipboard?.writeText(result.link).then(
      () => setCopied(true),
      () => setCopied(false),
    );
  };
  return (
    <div className="link" role="status">
      <p>
        The link to <strong>{result.app.title}</strong> works once, until {new Date(result.token_expires_at).toLocaleTimeString()}.
      </p>
      <code>{result.link}</code>
      <div className="line">
        <a className="button primary" href={result.link} target="_blank" rel="noreferrer">
          Play
        </a>
        <button type="button" onClick={copy}>
          {copied ? 'Copied' : 'Copy link'}
        </button>
      </div>
    </div>
  );
}

function words(error: unknown): string {
  if (error instanceof ApiError && error.status === 401) return 'This API key is not known here. Forget it and enter another.';
  return error instanceof Error ? error.message : 'Something went wrong.';
}
