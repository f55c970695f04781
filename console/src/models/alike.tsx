import { useId, useState, type FormEvent, type ReactNode } from 'react';
import { api } from '../player/api';
import { advice } from '../pure/advice';
import { countsOf } from '../pure/answer';
import { likeness, pairs } from '../pure/likeness';
import { ms, sentence } from '../ui/format';
import { Spent } from './chat';
import { useVersion } from './page';
import { troubleOf, type Talk } from './talk';
import type { Model } from './wire';

const TEXTS_MAX = 8;
const FIRST = ['A cat sleeps on the sofa.', 'A kitten is napping on the couch.', 'The stock market fell sharply today.'];
/** Steps of the colour that likeness is shown in. */
const SHADES = 5;

interface Result {
  texts: readonly string[];
  vectors: readonly (readonly number[])[];
  tookMs: number;
}

interface Embeddings {
  data: { index: number; embedding: number[] }[];
  usage: unknown;
}

/** Compares sentences by what an embedding model makes of them. */
export function Alike({ model, talk }: { model: Model; talk: Talk }): ReactNode {
  useVersion(talk);
  const id = useId();
  const [texts, setTexts] = useState<readonly string[]>(FIRST);
  const [busy, setBusy] = useState(false);
  const [result, setResult] = useState<Result | null>(null);
  const [trouble, setTrouble] = useState<unknown>(null);
  const said = texts.map((text) => text.trim()).filter((text) => text !== '');
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setTrouble(null);
    const begun = performance.now();
    try {
      const { data, usage } = await api<Embeddings>('POST', '/v1/embeddings', { bearer: talk.bearer, body: { model: model.name, input: said } });
      const vectors = [...data].sort((a, b) => a.index - b.index).map(({ embedding }) => embedding);
      setResult({ texts: said, vectors, tookMs: performance.now() - begun });
      const counts = countsOf(usage);
      if (counts !== null) talk.spent(counts);
      void talk.look();
    } catch (error) {
      setResult(null);
      setTrouble(error);
    }
    setBusy(false);
  };
  return (
    <div className="alike">
      <form onSubmit={(event) => void submit(event)}>
        <p className="quiet">Texts that mean the like are near 1, others near 0.</p>
        {texts.map((text, at) => (
          <div className="line" key={at}>
            <label className="out-of-sight" htmlFor={`${id}${at}`}>
              Text {at + 1}
            </label>
            <span className="number" aria-hidden="true">
              {at + 1}
            </span>
            <input id={`${id}${at}`} value={text} autoComplete="off" onChange={(event) => setTexts(texts.map((one, index) => (index === at ? event.target.value : one)))} />
            {texts.length > 2 && (
              <button type="button" className="small" aria-label={`Take text ${at + 1} away`} onClick={() => setTexts(texts.filter((_, index) => index !== at))}>
                ×
              </button>
            )}
          </div>
        ))}
        <div className="under">
          <button type="submit" className="primary" disabled={busy || said.length < 2}>
            {busy ? 'Comparing…' : 'Compare'}
          </button>
          <button type="button" className="small" disabled={texts.length >= TEXTS_MAX} onClick={() => setTexts([...texts, ''])}>
            Another text
          </button>
          <Spent talk={talk} />
        </div>
      </form>
      {trouble !== null && (
        <p className="trouble" role="alert">
          {sentence(troubleOf(trouble).message)} {advice(troubleOf(trouble))}
        </p>
      )}
      {result !== null && <Likeness result={result} />}
    </div>
  );
}

function Likeness({ result: { texts, vectors, tookMs } }: { result: Result }): ReactNode {
  const [best] = pairs(vectors);
  return (
    <div className="likeness" role="status">
      {best !== undefined && (
        <p>
          The likest are {best.a + 1} and {best.b + 1}, with <strong>{best.value.toFixed(3)}</strong>.{' '}
          <span className="quiet">
            {vectors[0]?.length ?? 0} numbers each, after {ms(tookMs)}
          </span>
        </p>
      )}
      <div className="wide" tabIndex={0}>
        <table>
          <caption className="out-of-sight">How alike each two texts are</caption>
          <thead>
            <tr>
              <td />
              {texts.map((text, at) => (
                <th key={at} scope="col" title={text}>
                  {at + 1}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {vectors.map((row, at) => (
              <tr key={at}>
                <th scope="row" title={texts[at]}>
                  {at + 1}
                </th>
                {vectors.map((column, other) => {
                  const value = likeness(row, column);
                  return (
                    <td key={other} className={at === other ? 'same' : `shade${Math.max(0, Math.min(SHADES - 1, Math.floor(value * SHADES)))}`}>
                      {value.toFixed(2)}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}
