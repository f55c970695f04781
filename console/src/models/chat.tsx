import { memo, useEffect, useId, useLayoutEffect, useRef, useState, type KeyboardEvent, type ReactNode } from 'react';
import { advice } from '../pure/advice';
import { dollars } from '../pure/money';
import { ms, sentence } from '../ui/format';
import { Stop, Up } from '../ui/icons';
import { Copy } from './copy';
import { useVersion } from './page';
import { Said } from './said';
import { speedOf, type Talk, type Turn } from './talk';
import type { Model } from './wire';

const NEAR_END_PX = 60;
const IDEAS: Readonly<Record<string, readonly string[]>> = {
  chat: ['Tell me something that few people know.', 'Write a haiku about idle computers.', 'Explain in three sentences what a GPU does.'],
  completion: ['Once upon a time', 'The three laws of robotics are'],
};

interface ChatProps {
  model: Model;
  talk: Talk;
  /** Whether keys are for it. */
  shown: boolean;
}

/** A conversation, or texts that a model goes on with. */
export function Chat({ model, talk, shown }: ChatProps): ReactNode {
  useVersion(talk);
  const [text, setText] = useState('');
  const [open, setOpen] = useState(false);
  const { busy, turns } = talk;
  const scroll = useRef<HTMLDivElement>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const pinned = useRef(true);
  const [away, setAway] = useState(false);

  // Follows the answer, unless somebody reads further up.
  useLayoutEffect(() => {
    if (pinned.current && scroll.current !== null) scroll.current.scrollTop = scroll.current.scrollHeight;
  });
  useEffect(() => {
    if (!busy || !shown) return undefined;
    const escape = (event: globalThis.KeyboardEvent): void => {
      if (event.key !== 'Escape' || event.isComposing) return;
      event.preventDefault();
      talk.stop();
    };
    addEventListener('keydown', escape);
    return () => removeEventListener('keydown', escape);
  }, [busy, shown, talk]);
  useLayoutEffect(() => {
    if (field.current === null) return;
    field.current.style.height = 'auto';
    field.current.style.height = `${field.current.scrollHeight + 2}px`;
  }, [text]);
  useEffect(() => {
    if (shown && !matchMedia('(pointer: coarse)').matches) field.current?.focus({ preventScroll: true });
  }, [shown]);

  const follow = (): void => {
    pinned.current = true;
    setAway(false);
    if (scroll.current !== null) scroll.current.scrollTop = scroll.current.scrollHeight;
  };
  const send = (said: string): void => {
    if (said.trim() === '' || busy) return;
    setText('');
    follow();
    void talk.say(model.kind === 'chat' ? said.trim() : said);
    field.current?.focus({ preventScroll: true });
  };
  const key = (event: KeyboardEvent): void => {
    // A phone's keyboard has no other way to a new line.
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing || matchMedia('(pointer: coarse)').matches) return;
    event.preventDefault();
    send(text);
  };
  const asleep = model.deployment !== null && model.deployment.ready === 0;
  const hint = model.kind === 'chat' ? `Message ${model.name}` : `A text that ${model.name} goes on with`;
  return (
    <div className="chat">
      <div
        className="turns"
        ref={scroll}
        tabIndex={0}
        role="log"
        aria-label="Conversation"
        aria-live="polite"
        aria-busy={busy}
        onScroll={({ currentTarget: box }) => {
          pinned.current = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
          setAway(!pinned.current);
        }}
      >
        {turns.length === 0 && (
          <div className="begin">
            <p className="quiet">{model.kind === 'chat' ? 'Say something to begin.' : 'Give it the beginning of a text.'} The conversation stays in this tab.</p>
            <div className="ideas">
              {(IDEAS[model.kind] ?? []).map((idea) => (
                <button key={idea} type="button" className="small" onClick={() => send(idea)}>
                  {idea}
                </button>
              ))}
            </div>
          </div>
        )}
        {turns.map((turn, at) => (
          <OneTurn key={turn.id} turn={turn} kind={model.kind} last={at === turns.length - 1 && !busy} talk={talk} asleep={asleep} />
        ))}
      </div>
      {away && (
        <button type="button" className="small latest" onClick={follow}>
          To the latest ↓
        </button>
      )}
      <form
        className="composer"
        onSubmit={(event) => {
          event.preventDefault();
          send(text);
        }}
      >
        {open && <Wishes talk={talk} kind={model.kind} />}
        <div className="write">
          <textarea ref={field} rows={1} value={text} placeholder={hint} aria-label={hint} onChange={(event) => setText(event.target.value)} onKeyDown={key} />
          {busy ? (
            <button type="button" className="round stop" aria-label="Stop" title="Stop (Esc)" onClick={() => talk.stop()}>
              <Stop />
            </button>
          ) : (
            <button type="submit" className="round primary" aria-label="Send" title="Send (Enter)" disabled={text.trim() === ''}>
              <Up />
            </button>
          )}
        </div>
        <div className="under">
          <button type="button" className="small" aria-expanded={open} onClick={() => setOpen(!open)}>
            Settings
          </button>
          <button type="button" className="small" disabled={turns.length === 0} onClick={() => talk.clear()}>
            New conversation
          </button>
          <Spent talk={talk} />
        </div>
      </form>
    </div>
  );
}

/** Tokens and money of the conversation so far. */
export function Spent({ talk }: { talk: Talk }): ReactNode {
  const { input, cached, output, micro, about } = talk.total();
  const number = (value: number): string => value.toLocaleString('en');
  return (
    <p className="spent quiet" title={about ? 'Of an answer that was cut off or is being written, only what was seen is counted here' : undefined}>
      {number(input)} in{cached > 0 && ` (${number(cached)} cached)`} · {talk.kind !== 'embedding' && `${number(output)} out · `}
      <strong>
        {about && 'about '}
        {dollars(micro)}
      </strong>{' '}
      so far
    </p>
  );
}

interface TurnProps {
  turn: Turn;
  kind: Model['kind'];
  last: boolean;
  talk: Talk;
  asleep: boolean;
}

const OneTurn = memo(function OneTurn({ turn, kind, last, talk, asleep }: TurnProps): ReactNode {
  const { state, text, reasoning } = turn;
  const writing = state === 'waiting' || state === 'writing';
  return (
    <>
      {kind === 'chat' ? (
        <div className="asked">
          <span className="out-of-sight">You: </span>
          {turn.prompt}
        </div>
      ) : null}
      <article className={`answer ${state}`} aria-label="Answer" aria-busy={writing}>
        {reasoning !== '' && <Thoughts turn={turn} writing={writing && text === ''} />}
        {kind === 'completion' ? (
          <p className="goes-on">
            <span className="quiet">{turn.prompt}</span>
            {text}
          </p>
        ) : (
          text !== '' && <Said text={text} />
        )}
        {state === 'waiting' && <p className="quiet waiting">{asleep ? 'Waiting for the model to start…' : 'Waiting for the first token…'}</p>}
        {state === 'stopped' && <p className="quiet">{text === '' && reasoning === '' ? 'Stopped before the first token.' : 'Stopped by you.'}</p>}
        {state === 'done' && text === '' && reasoning === '' && <p className="quiet">The model had nothing to say.</p>}
        {turn.finish === 'length' && <p className="quiet">Cut off where the limit of tokens was reached.</p>}
        {turn.trouble !== null && (
          <div className="trouble" role="alert">
            {sentence(turn.trouble.message)} {advice(turn.trouble)}
          </div>
        )}
        <div className="facts">
          <Facts turn={turn} />
          {!writing && text !== '' && <Copy text={text} what="answer" />}
          {last && (
            <button type="button" className="small" onClick={() => void talk.again()}>
              Try again
            </button>
          )}
        </div>
      </article>
    </>
  );
});

function Facts({ turn }: { turn: Turn }): ReactNode {
  const { counts, micro, firstMs, pieces } = turn;
  const speed = speedOf(turn);
  const number = (value: number): string => value.toLocaleString('en');
  const facts = [
    firstMs === null ? null : `first token after ${ms(firstMs)}`,
    speed === null ? null : `${speed.toFixed(1)} tokens/s`,
    counts === null ? (pieces === 0 ? null : `about ${number(pieces)} out`) : `${number(counts.input)} in${counts.cached > 0 ? ` (${number(counts.cached)} cached)` : ''}, ${number(counts.output)} out`,
    micro === null ? null : dollars(micro),
  ];
  return <span className="quiet">{facts.filter((fact) => fact !== null).join(' · ')}</span>;
}

function Thoughts({ turn, writing }: { turn: Turn; writing: boolean }): ReactNode {
  const [open, setOpen] = useState<boolean | null>(null);
  const end = turn.textMs ?? turn.lastMs;
  const took = end === null || turn.firstMs === null ? '' : ` for ${((end - turn.firstMs) / 1000).toFixed(1)} s`;
  // In sight while there is nothing else, unless somebody has said otherwise.
  const shown = open ?? writing;
  return (
    <div className="thoughts">
      <button type="button" className="small" aria-expanded={shown} onClick={() => setOpen(!shown)}>
        {writing ? 'Thinking…' : `Thought${took}`} {shown ? '▾' : '▸'}
      </button>
      {shown && <p>{turn.reasoning.trim()}</p>}
    </div>
  );
}

function Wishes({ talk, kind }: { talk: Talk; kind: Model['kind'] }): ReactNode {
  const id = useId();
  const { settings } = talk;
  return (
    <div className="wishes">
      {kind === 'chat' && (
        <div className="whole">
          <label htmlFor={`${id}s`}>System prompt</label>
          <textarea id={`${id}s`} rows={2} value={settings.system} placeholder="What the model shall be and do" onChange={(event) => talk.change({ system: event.target.value })} />
        </div>
      )}
      <div>
        <label htmlFor={`${id}t`}>Temperature</label>
        <input id={`${id}t`} type="number" min={0} max={2} step="any" placeholder="1" value={settings.temperature} onChange={(event) => talk.change({ temperature: event.target.value })} />
      </div>
      <div>
        <label htmlFor={`${id}m`}>Tokens at most</label>
        <input id={`${id}m`} type="number" min={1} step={1} placeholder="as the context has room" value={settings.maxTokens} onChange={(event) => talk.change({ maxTokens: event.target.value })} />
      </div>
      {kind === 'chat' && (
        <label className="check">
          <input type="checkbox" checked={settings.thinks} onChange={(event) => talk.change({ thinks: event.target.checked })} />
          Let it think first, where it can
        </label>
      )}
    </div>
  );
}
