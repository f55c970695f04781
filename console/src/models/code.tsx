import { useState, type ReactNode } from 'react';
import { PLACEHOLDER, snippet, type Language } from '../pure/snippets';
import { sentence } from '../ui/format';
import { Copy } from './copy';
import type { GatewayModels } from './gateway';
import { errorWords, useVersion } from './page';
import { numbers, type Talk } from './talk';
import type { Model } from './wire';

const LANGUAGES: readonly [Language, string, string][] = [
  ['curl', 'curl', 'Runs in any shell.'],
  ['python', 'Python', 'OpenAI’s own client, unchanged: pip install openai'],
  ['javascript', 'JavaScript', 'OpenAI’s own client, unchanged: npm install openai'],
];

/** What to run elsewhere to ask this model. */
export function Code({ gateway, model, talk }: { gateway: GatewayModels; model: Model; talk: Talk }): ReactNode {
  useVersion(talk);
  const [language, setLanguage] = useState<Language>('curl');
  const [made, setMade] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState<string | null>(null);
  const make = async (): Promise<void> => {
    setBusy(true);
    setTrouble(null);
    try {
      setMade(await gateway.makeKey(model.name));
    } catch (error) {
      setTrouble(errorWords(error));
    }
    setBusy(false);
  };
  const text = snippet(language, {
    origin: location.origin,
    model: model.name,
    kind: model.kind,
    key: made ?? PLACEHOLDER,
    prompt: talk.turns.at(-1)?.prompt ?? (model.kind === 'completion' ? 'Once upon a time' : 'Hello!'),
    system: talk.settings.system.trim(),
    ...numbers(talk.settings),
  });
  const hint = LANGUAGES.find(([name]) => name === language)?.[2] ?? '';
  return (
    <div className="snippets">
      <div role="group" aria-label="Language" className="chips">
        {LANGUAGES.map(([name, words]) => (
          <button key={name} type="button" className="small" aria-pressed={language === name} onClick={() => setLanguage(name)}>
            {words}
          </button>
        ))}
      </div>
      <div className="code">
        <div className="code-head">
          <span>{hint}</span>
          <Copy text={text} what="snippet" />
        </div>
        <pre tabIndex={0}>
          <code>{text}</code>
        </pre>
      </div>
      {made === null ? (
        <div className="line">
          <button type="button" disabled={busy} onClick={() => void make()}>
            {busy ? 'Making a key…' : 'Make a key for it'}
          </button>
          <p className="quiet">
            Puts a new API key that may ask {model.name} and nothing else in the place of {PLACEHOLDER}.
          </p>
        </div>
      ) : (
        <p role="status">
          The key stands in the snippet now. It is shown this once: keep it where you keep passwords. <code>muster api-key ls</code> lists keys, <code>muster api-key revoke</code> takes one back.
        </p>
      )}
      {trouble !== null && (
        <p className="trouble" role="alert">
          {sentence(trouble)}
        </p>
      )}
    </div>
  );
}
