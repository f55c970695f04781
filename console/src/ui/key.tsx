import { useId, useState, type FormEvent, type ReactNode } from 'react';
import { store, stored } from '../player/store';

const KEY = 'muster.api-key';

/** The API key of this tab, and what changes it. */
export function useKey(): [string | null, (key: string | null) => void] {
  const [key, setKey] = useState(() => stored(KEY));
  const keep = (next: string | null): void => {
    store(KEY, next);
    setKey(next);
  };
  return [key, keep];
}

/** Asks for an API key. */
export function AskKey({ title, hint, onKey }: { title: string; hint: ReactNode; onKey: (key: string) => void }): ReactNode {
  const id = useId();
  const [text, setText] = useState('');
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (text.trim() !== '') onKey(text.trim());
  };
  return (
    <section>
      <h2>{title}</h2>
      <form onSubmit={submit}>
        <label htmlFor={id}>API key</label>
        <div className="line">
          <input id={id} type="password" autoComplete="off" placeholder="mk_…" value={text} onChange={(event) => setText(event.target.value)} />
          <button type="submit" className="primary">
            Continue
          </button>
        </div>
        <p className="quiet">The key stays in this tab and is forgotten when you close it. {hint}</p>
      </form>
    </section>
  );
}
