import { useId, useState, type FormEvent, type ReactNode } from 'react';
import { bytes, many } from '../pure/sizes';
import { sentence } from '../ui/format';
import type { DeployRequest, GatewayModels } from './gateway';
import { Trouble } from './page';
import type { CatalogEntry } from './wire';

const KINDS: Readonly<Record<string, string>> = { chat: 'Chat', completion: 'Completion', embedding: 'Embedding' };

/** The catalogue. */
export function Deploy({ gateway, deployed }: { gateway: GatewayModels; deployed: (name: string) => void }): ReactNode {
  const id = useId();
  const [wanted, setWanted] = useState('');
  const [kind, setKind] = useState('');
  const [chosen, setChosen] = useState<string | null>(null);
  const entries = gateway.catalog ?? [];
  const kinds = [...new Set(entries.map((entry) => entry.kind))];
  const fits = ({ name, about, licence, kind: its }: CatalogEntry): boolean =>
    (kind === '' || kind === its) && `${name} ${about} ${licence}`.toLowerCase().includes(wanted.trim().toLowerCase());
  const found = entries.filter(fits).sort((a, b) => Number(b.deployable) - Number(a.deployable));
  return (
    <div className="deploy">
      <h2 className="title">Deploy a model</h2>
      <p className="quiet">
        Choose one, and it runs on a Container that has room for it. A file of your own goes by <code>muster model deploy file:MODEL.gguf</code>.
      </p>
      {gateway.catalogTrouble !== null && <Trouble error={gateway.catalogTrouble} />}
      {gateway.catalog === null && gateway.catalogTrouble === null && <p className="quiet">Asking for the catalogue…</p>}
      {gateway.catalog !== null && (
        <div className="filter">
          <div>
            <label htmlFor={`${id}s`}>Search</label>
            <input id={`${id}s`} type="search" value={wanted} autoComplete="off" onChange={(event) => setWanted(event.target.value)} />
          </div>
          <div role="group" aria-label="Kind" className="chips">
            {['', ...kinds].map((one) => (
              <button key={one} type="button" className="small" aria-pressed={kind === one} onClick={() => setKind(one)}>
                {KINDS[one] ?? 'All'}
              </button>
            ))}
          </div>
        </div>
      )}
      {gateway.catalog !== null && found.length === 0 && <p className="quiet">Nothing of the catalogue fits that.</p>}
      <ul className="catalog">
        {found.map((entry) => (
          <li key={entry.name} className={entry.deployable ? '' : 'off'}>
            <div className="entry">
              <div>
                <h3>{entry.name}</h3>
                <p>{sentence(entry.about)}</p>
                <p className="quiet">
                  {[KINDS[entry.kind], `${many(entry.parameters)} parameters`, entry.recipe?.[0]?.quantisation, entry.bytes === null ? null : bytes(entry.bytes), entry.context === null ? null : `${entry.context.toLocaleString('en')} tokens of context`, entry.licence]
                    .filter(Boolean)
                    .join(' · ')}
                </p>
                {!entry.deployable && <p className="quiet why">Not from here: {entry.why}</p>}
              </div>
              {entry.deployable && chosen !== entry.name && (
                <button type="button" className="primary" onClick={() => setChosen(entry.name)} aria-label={`Choose ${entry.name}`}>
                  Choose
                </button>
              )}
            </div>
            {chosen === entry.name && <Options gateway={gateway} entry={entry} deployed={deployed} close={() => setChosen(null)} />}
          </li>
        ))}
      </ul>
    </div>
  );
}

interface OptionsProps {
  gateway: GatewayModels;
  entry: CatalogEntry;
  deployed: (name: string) => void;
  close: () => void;
}

function Options({ gateway, entry, deployed, close }: OptionsProps): ReactNode {
  const id = useId();
  const [name, setName] = useState(entry.name);
  const [min, setMin] = useState('1');
  const [max, setMax] = useState('1');
  const [price, setPrice] = useState('');
  const [shared, setShared] = useState(false);
  const [edge, setEdge] = useState(false);
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState<unknown>(null);
  const taken = (gateway.deployments ?? []).some((one) => one.name === name.trim());
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setTrouble(null);
    const request: DeployRequest = { catalog: entry.name, name: name.trim(), replicas: { min: Number(min), max: Math.max(Number(min), Number(max)) } };
    // One limit for all three kinds: what is cheaper than that is not turned down.
    if (price.trim() !== '') request.price_max_usd = { input: Number(price), cached: Number(price), output: Number(price) };
    if (shared) request.shared = true;
    if (edge) request.edge = true;
    try {
      const one = await gateway.deploy(request);
      deployed(one.name);
    } catch (error) {
      setTrouble(error);
      setBusy(false);
    }
  };
  return (
    <form className="options" onSubmit={(event) => void submit(event)}>
      <div>
        <label htmlFor={`${id}n`}>Name that requests use</label>
        <input id={`${id}n`} required maxLength={200} pattern="[A-Za-z0-9._:\/\-]+" title="Letters, digits, and any of . _ : / -" value={name} autoComplete="off" onChange={(event) => setName(event.target.value)} />
      </div>
      <div>
        <label htmlFor={`${id}l`}>Replicas, at least</label>
        <input id={`${id}l`} type="number" required min={0} max={64} value={min} onChange={(event) => setMin(event.target.value)} />
      </div>
      <div>
        <label htmlFor={`${id}m`}>at most</label>
        <input id={`${id}m`} type="number" required min={Math.max(1, Number(min))} max={64} value={max} onChange={(event) => setMax(event.target.value)} />
      </div>
      <div>
        <label htmlFor={`${id}p`}>Price limit, $ per million</label>
        <input id={`${id}p`} type="number" min={0} step="any" placeholder="none" value={price} onChange={(event) => setPrice(event.target.value)} />
      </div>
      <div className="whole checks">
        <label className="check">
          <input type="checkbox" checked={shared} onChange={(event) => setShared(event.target.checked)} />
          Other accounts of this Gateway may ask it
        </label>
        <label className="check">
          <input type="checkbox" checked={edge} onChange={(event) => setEdge(event.target.checked)} />
          Near to here, on a machine without a card
        </label>
      </div>
      <p className="quiet whole">
        {taken
          ? `There is a deployment ${name.trim()} already: this changes it, and its answers in hand are finished.`
          : min === '0'
            ? 'With none at least, it sleeps while nobody asks; the first request after that waits for its start.'
            : 'Nothing is billed before the first replica has answered.'}
      </p>
      {trouble !== null && <Trouble error={trouble} />}
      <div className="line whole">
        <button type="submit" className="primary" disabled={busy}>
          {busy ? 'Deploying…' : taken ? 'Change it' : 'Deploy'}
        </button>
        <button type="button" onClick={close}>
          Cancel
        </button>
      </div>
    </form>
  );
}
