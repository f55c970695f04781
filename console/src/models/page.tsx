import { useEffect, useMemo, useState, useSyncExternalStore, type ReactNode } from 'react';
import { ApiError } from '../player/api';
import { priceShort } from '../pure/money';
import { standingWords } from '../pure/steps';
import { sentence } from '../ui/format';
import { AskKey, useKey } from '../ui/key';
import { Top } from '../ui/top';
import { Deploy } from './deploy';
import { GatewayModels } from './gateway';
import { One } from './model';
import { forgetTalks } from './talk';
import type { Model } from './wire';

/** The part of the address that means the catalogue; no model has a name like that. */
const DEPLOY = '+';

export function Models(): ReactNode {
  const [key, keep] = useKey();
  const forget = (): void => {
    keep(null);
  };
  // Once the page's parts are gone, and with them what might still be kept.
  useEffect(() => {
    if (key === null) forgetTalks();
  }, [key]);
  return (
    <>
      <Top here="models">
        {key !== null && (
          <button type="button" className="small end" onClick={forget}>
            Forget the key
          </button>
        )}
      </Top>
      {key === null ? (
        <main className="narrow">
          <h1>Models</h1>
          <p className="lead">Put an open model on somebody’s idle card, talk to it here, and ask it from any OpenAI client. It is paid by the token.</p>
          <AskKey
            title="Your models"
            hint={
              <>
                <code>muster api-key new</code> makes one.
              </>
            }
            onKey={keep}
          />
        </main>
      ) : (
        <Shell key={key} apiKey={key} />
      )}
    </>
  );
}

function Shell({ apiKey }: { apiKey: string }): ReactNode {
  const gateway = useMemo(() => new GatewayModels(apiKey), [apiKey]);
  useEffect(() => gateway.follow(), [gateway]);
  useVersion(gateway);
  const [place, go] = usePlace();
  const models = gateway.models();
  const chosen = models.find(({ name }) => name === place) ?? null;
  const known = gateway.deployments !== null;
  const empty = known && models.length === 0;
  const view = chosen !== null ? 'model' : place === DEPLOY || (empty && place === '') ? 'deploy' : 'list';
  useEffect(() => {
    document.title = chosen === null ? 'Models · Muster' : `${chosen.name} · Muster`;
  }, [chosen]);
  return (
    <div className="shell" data-view={view}>
      {gateway.trouble !== null && <Trouble error={gateway.trouble} />}
      <aside>
        <div className="aside-head">
          <h1>Models</h1>
          {gateway.mayDeploy && (
            <a className="button small primary" href={`#${DEPLOY}`}>
              Deploy
            </a>
          )}
        </div>
        {!known && gateway.trouble === null && <p className="quiet pad">Asking the Gateway…</p>}
        {empty && <p className="quiet pad">None yet. Choose one of the catalogue.</p>}
        {known && !gateway.mayDeploy && <p className="quiet pad">This key may ask models, and not deploy any.</p>}
        <ul className="models" aria-label="Models that can be asked">
          {models.map((model) => (
            <li key={model.name}>
              <a href={`#${encodeURIComponent(model.name)}`} {...(model === chosen ? { 'aria-current': 'true' } : {})}>
                <span className="name">{model.name}</span>
                <State model={model} />
                <span className="quiet">
                  {model.kind}
                  {model.owner !== null && ` · of ${model.owner}`}
                  {model.price !== null && ` · ${priceShort(model.price, model.kind !== 'embedding')}`}
                </span>
              </a>
            </li>
          ))}
        </ul>
      </aside>
      <main>
        {view !== 'list' && (
          <a className="back" href="#">
            ‹ All models
          </a>
        )}
        {view === 'model' && chosen !== null && <One key={chosen.name} gateway={gateway} model={chosen} gone={() => go('')} />}
        {view === 'deploy' && <Deploy gateway={gateway} deployed={go} />}
        {view === 'list' && place === '' && gateway.mayDeploy && <Deploy gateway={gateway} deployed={go} />}
        {view === 'list' && place !== '' && known && (
          <div className="nothing">
            <p role="alert">There is no model “{place}” here, or it is not yours.</p>
          </div>
        )}
      </main>
    </div>
  );
}

/** How a model stands, in a word or two and a colour. */
export function State({ model }: { model: Model }): ReactNode {
  const words = model.deployment === null ? 'shared' : standingWords(model.deployment);
  const look = words.startsWith('ready') || words === 'shared' ? 'good' : words === 'in trouble' ? 'bad' : words.startsWith('asleep') ? '' : 'warn';
  return <span className={`state ${look}`}>{words}</span>;
}

/** A call that failed, in words. */
export function Trouble({ error }: { error: unknown }): ReactNode {
  return (
    <p className="trouble" role="alert">
      {errorWords(error)}
    </p>
  );
}

export function errorWords(error: unknown): string {
  if (error instanceof ApiError && error.status === 401) return 'This API key is not known here. Forget it and enter another.';
  return error instanceof Error ? sentence(error.message) : 'Something went wrong.';
}

/** Renders again whenever what is shown has changed. */
export function useVersion(of: { version: number; subscribe: (listener: () => void) => () => void }): void {
  useSyncExternalStore(
    useMemo(() => (listener: () => void) => of.subscribe(listener), [of]),
    () => of.version,
  );
}

/** What stands behind the # of the address, and what changes it. */
function usePlace(): [string, (place: string) => void] {
  const read = (): string => {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch {
      return '';
    }
  };
  const [place, setPlace] = useState(read);
  useEffect(() => {
    const changed = (): void => setPlace(read());
    addEventListener('hashchange', changed);
    return () => removeEventListener('hashchange', changed);
  }, []);
  return [place, (next) => (location.hash = next === DEPLOY ? DEPLOY : encodeURIComponent(next))];
}
