import { useEffect, useId, useRef, useState, type FormEvent, type ReactNode } from 'react';
import { dollars, priceWords } from '../pure/money';
import { stateWords } from '../pure/steps';
import { bytes } from '../pure/sizes';
import { amount, ms, sentence } from '../ui/format';
import { Alike } from './alike';
import { Chat } from './chat';
import { Code } from './code';
import { STILL_MS, type GatewayModels, type Progress } from './gateway';
import { State, Trouble, errorWords, useVersion } from './page';
import type { Talk } from './talk';
import type { Deployment, LogLine, Model } from './wire';

const LOG_EVERY_MS = 2000;
const LINES_MAX = 1000;

type Tab = 'use' | 'code' | 'details';

/** One model: how it stands, talking to it, asking it from elsewhere. */
export function One({ gateway, model, gone }: { gateway: GatewayModels; model: Model; gone: () => void }): ReactNode {
  const [tab, setTab] = useState<Tab>('use');
  const [removing, setRemoving] = useState(false);
  const talk = gateway.talk(model);
  const { deployment } = model;
  const progress = gateway.progress.get(model.name);
  const use = { chat: 'Chat', completion: 'Write on', embedding: 'Compare' }[model.kind];
  const replica = deployment?.running.find(({ state }) => state === 'ready') ?? deployment?.running[0];
  const price = priceWords(model.price, model.kind !== 'embedding');
  const tabs: [Tab, string][] = [['use', use], ['code', 'Code'], ...(deployment === null ? [] : ([['details', 'Details']] as [Tab, string][]))];
  return (
    <div className="one">
      <header>
        <h2 className="title">
          {model.name} <State model={model} />
        </h2>
        <p className="quiet">
          {[replica?.container && `Container ${replica.container}`, model.price === null ? `price ${price}` : `${price} for a million tokens`, model.context > 0 && `${model.context.toLocaleString('en')} tokens of context`]
            .filter(Boolean)
            .join(' · ')}
        </p>
        {deployment !== null && (
          <button type="button" className="danger small" onClick={() => setRemoving(true)}>
            Remove
          </button>
        )}
      </header>
      {progress !== undefined && deployment !== null && <Steps progress={progress} deployment={deployment} talk={talk} />}
      <div role="tablist" aria-label={model.name} className="tabs" onKeyDown={(event) => arrows(event.key, tabs, tab, setTab)}>
        {tabs.map(([name, words]) => (
          <button key={name} type="button" role="tab" id={`tab-${name}`} aria-controls={`panel-${name}`} aria-selected={tab === name} tabIndex={tab === name ? 0 : -1} onClick={() => setTab(name)}>
            {words}
          </button>
        ))}
      </div>
      <Panel name="use" tab={tab}>
        {model.kind === 'embedding' ? <Alike model={model} talk={talk} /> : <Chat model={model} talk={talk} shown={tab === 'use' && !removing} />}
      </Panel>
      <Panel name="code" tab={tab}>
        <Code gateway={gateway} model={model} talk={talk} />
      </Panel>
      {deployment !== null && (
        <Panel name="details" tab={tab}>
          <Details gateway={gateway} deployment={deployment} talk={talk} />
        </Panel>
      )}
      {removing && <Remove gateway={gateway} name={model.name} close={() => setRemoving(false)} gone={gone} />}
    </div>
  );
}

function Panel({ name, tab, children }: { name: Tab; tab: Tab; children: ReactNode }): ReactNode {
  return (
    <div role="tabpanel" id={`panel-${name}`} aria-labelledby={`tab-${name}`} className={`panel-${name}`} hidden={tab !== name}>
      {children}
    </div>
  );
}

function arrows(key: string, tabs: readonly [Tab, string][], tab: Tab, set: (tab: Tab) => void): void {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (step === undefined) return;
  const next = tabs[(tabs.findIndex(([name]) => name === tab) + step + tabs.length) % tabs.length]?.[0] ?? tab;
  set(next);
  document.getElementById(`tab-${next}`)?.focus();
}

/** How a deploy goes on, each step as it happens, and what came of it. */
function Steps({ progress, deployment, talk }: { progress: Progress; deployment: Deployment; talk: Talk }): ReactNode {
  useVersion(talk);
  const [closed, setClosed] = useState(false);
  const ready = progress.readyMs !== null;
  const talks = talk.turns.length > 0;
  // Who talks to it has seen that it answers, and needs the room.
  useEffect(() => {
    if (ready && talks) setClosed(true);
  }, [ready, talks]);
  if (closed || (ready && !progress.ours)) return null;
  const seconds = (value: number): string => `${(value / 1000).toFixed(1)} s`;
  const replica = deployment.running.find(({ state }) => state === 'ready');
  const still = !ready && performance.now() - progress.changed > STILL_MS;
  return (
    <div className="steps">
      <ol aria-live="polite" aria-label="Steps of the deploy">
        {progress.steps.map(({ text, atMs, bad }, at) => {
          const now = !ready && at === progress.steps.length - 1;
          return (
            <li key={at} className={bad ? 'bad' : now ? 'now' : text === 'Ready' ? 'end' : 'past'}>
              <span className="when">{seconds(atMs)}</span>
              <span>{text}</span>
            </li>
          );
        })}
      </ol>
      {still && <p className="quiet">Nothing has changed for two minutes. It goes on trying; remove it if you do not want to wait.</p>}
      {ready && (
        <div className="result" role="status">
          <p>
            <strong>{deployment.name}</strong> answers after {seconds(progress.readyMs ?? 0)}
            {replica !== undefined && ` on Container ${replica.container ?? '–'}, by ${replica.engine ?? 'its engine'}`}
            {progress.firstMs !== null && `; its first ${deployment.kind === 'embedding' ? 'vector' : 'token'} took ${ms(progress.firstMs)}`}. A million tokens cost{' '}
            {priceWords(deployment.price_usd, deployment.kind !== 'embedding')}.
          </p>
          {progress.trouble !== null && <Trouble error={progress.trouble} />}
          <button type="button" className="small" onClick={() => setClosed(true)}>
            Close
          </button>
        </div>
      )}
    </div>
  );
}

function Details({ gateway, deployment, talk }: { gateway: GatewayModels; deployment: Deployment; talk: Talk }): ReactNode {
  useVersion(talk);
  const { month } = talk;
  const facts: [string, ReactNode][] = [
    ['Kind', deployment.kind],
    ['Deployed', `${new Date(deployment.created_s * 1000).toLocaleString()}, version ${deployment.version}`],
    ['Weights', <code key="w" title={deployment.sha256}>{`${deployment.sha256.slice(0, 12)}… (${bytes(deployment.bytes)})`}</code>],
    ['Context', `${deployment.context.toLocaleString('en')} tokens, ${deployment.parallel} requests side by side`],
    ['Price of a million tokens', priceWords(deployment.price_usd, deployment.kind !== 'embedding')],
    ['Who may ask', deployment.shared ? 'every account of this Gateway' : 'your account'],
    ...(deployment.edge === true ? ([['Where', 'near to this Gateway, on a machine without a card']] as [string, ReactNode][]) : []),
    ...(month === null
      ? []
      : ([['This key, this month', `${month.requests.toLocaleString('en')} requests, ${month.input.toLocaleString('en')} tokens in (${month.cached.toLocaleString('en')} cached), ${month.output.toLocaleString('en')} out, ${dollars(month.usd_micro)}`]] as [string, ReactNode][])),
  ];
  return (
    <div className="details">
      {deployment.why !== null && <p className="trouble">{sentence(deployment.why)}</p>}
      <dl>
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <Scale key={`${deployment.replicas.min} ${deployment.replicas.max}`} gateway={gateway} deployment={deployment} />
      <h3>Replicas</h3>
      {deployment.running.length === 0 && <p className="quiet">None runs{deployment.wanted === 0 ? ': nobody asks just now.' : ' yet.'}</p>}
      <ul className="replicas">
        {deployment.running.map((replica, at) => (
          <li key={replica.lease ?? at}>
            <strong>{stateWords(replica.state)}</strong>
            {replica.why !== null && <> – {sentence(replica.why)}</>}
            <span className="quiet">
              {[
                replica.container && `Container ${replica.container}`,
                replica.engine,
                `${replica.held} in hand`,
                `${replica.input_tokens.toLocaleString('en')} in (${replica.cached_tokens.toLocaleString('en')} cached), ${replica.output_tokens.toLocaleString('en')} out`,
                amount(replica.paid),
                replica.lease && `lease ${replica.lease.slice(0, 10)}…`,
              ]
                .filter(Boolean)
                .join(' · ')}
            </span>
          </li>
        ))}
      </ul>
      <Log gateway={gateway} name={deployment.name} />
    </div>
  );
}

/** What became of a deployment, line by line, for whoever wants to know. */
function Log({ gateway, name }: { gateway: GatewayModels; name: string }): ReactNode {
  const [open, setOpen] = useState(false);
  const [lines, setLines] = useState<readonly LogLine[]>([]);
  const [trouble, setTrouble] = useState<unknown>(null);
  const next = (lines.at(-1)?.number ?? -1) + 1;
  useEffect(() => {
    if (!open) return undefined;
    let gone = false;
    const look = async (): Promise<void> => {
      try {
        const more = await gateway.logs(name, next);
        if (gone) return;
        setTrouble(null);
        if (more.length > 0) setLines((known) => [...known, ...more].slice(-LINES_MAX));
      } catch (error) {
        if (!gone) setTrouble(error);
      }
    };
    void look();
    const timer = setInterval(() => void look(), LOG_EVERY_MS);
    return () => {
      gone = true;
      clearInterval(timer);
    };
  }, [gateway, name, next, open]);
  const text = lines.map((line) => `${new Date(line.at_ms).toLocaleTimeString()} ${line.replica === null ? '' : `#${line.replica} `}${line.from}: ${line.text}`).join('\n');
  return (
    <>
      <h3>Log</h3>
      <button type="button" className="small" aria-expanded={open} onClick={() => setOpen(!open)}>
        {open ? 'Hide' : 'Show'} what became of it
      </button>
      {open && trouble !== null && <Trouble error={trouble} />}
      {open && trouble === null && (
        <div className="log" tabIndex={0} role="log" aria-label="Log">
          {text || 'Nothing yet.'}
        </div>
      )}
    </>
  );
}

function Scale({ gateway, deployment }: { gateway: GatewayModels; deployment: Deployment }): ReactNode {
  const id = useId();
  const [min, setMin] = useState(String(deployment.replicas.min));
  const [max, setMax] = useState(String(deployment.replicas.max));
  const [said, setSaid] = useState<string | null>(null);
  const same = min === String(deployment.replicas.min) && max === String(deployment.replicas.max);
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    setSaid(null);
    try {
      await gateway.scale(deployment.name, { min: Number(min), max: Number(max) });
    } catch (error) {
      setSaid(errorWords(error));
    }
  };
  return (
    <form className="scale" onSubmit={(event) => void submit(event)}>
      <div>
        <label htmlFor={`${id}l`}>Replicas, at least</label>
        <input id={`${id}l`} type="number" required min={0} max={64} value={min} onChange={(event) => setMin(event.target.value)} />
      </div>
      <div>
        <label htmlFor={`${id}m`}>at most</label>
        <input id={`${id}m`} type="number" required min={Math.max(1, Number(min))} max={64} value={max} onChange={(event) => setMax(event.target.value)} />
      </div>
      <button type="submit" disabled={same}>
        Scale
      </button>
      <p className="quiet">
        {deployment.ready} of {deployment.wanted} wanted now answer.
      </p>
      {said !== null && (
        <p className="trouble" role="alert">
          {said}
        </p>
      )}
    </form>
  );
}

function Remove({ gateway, name, close, gone }: { gateway: GatewayModels; name: string; close: () => void; gone: () => void }): ReactNode {
  const box = useRef<HTMLDialogElement>(null);
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState<unknown>(null);
  useEffect(() => box.current?.showModal(), []);
  const remove = async (): Promise<void> => {
    setBusy(true);
    try {
      await gateway.remove(name);
      gone();
    } catch (error) {
      setTrouble(error);
      setBusy(false);
    }
  };
  return (
    <dialog ref={box} onClose={close} aria-labelledby="remove-title" onClick={(event) => event.target === event.currentTarget && box.current?.close()}>
      <div className="dialog">
        <h2 id="remove-title">Remove {name}?</h2>
        <p>Answers that are being given are cut off, and what they counted is paid. The rest of the deposits comes back.</p>
        {trouble !== null && <Trouble error={trouble} />}
        <div className="line">
          <button type="button" autoFocus onClick={() => box.current?.close()}>
            Keep it
          </button>
          <button type="button" className="danger" disabled={busy} onClick={() => void remove()}>
            {busy ? 'Removing…' : 'Remove'}
          </button>
        </div>
      </div>
    </dialog>
  );
}
