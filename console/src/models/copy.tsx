import { useEffect, useState, type ReactNode } from 'react';

type State = 'no' | 'yes' | 'failed';
const SHOWN_MS = 2000;

/** A button that copies a text, and says whether it could. */
export function Copy({ text, what }: { text: string; what: string }): ReactNode {
  const [state, setState] = useState<State>('no');
  useEffect(() => {
    if (state === 'no') return undefined;
    const timer = setTimeout(() => setState('no'), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [state]);
  const copy = (): void => {
    copied(text).then(
      () => setState('yes'),
      () => setState('failed'),
    );
  };
  const shown = { no: 'Copy', yes: 'Copied', failed: 'Select it and copy' }[state];
  return (
    <button type="button" className="small" onClick={copy} aria-label={state === 'no' ? `Copy the ${what}` : shown} aria-live="polite">
      {shown}
    </button>
  );
}

/** Browsers give the clipboard only to pages from this machine or over HTTPS; elsewhere the old way is left. */
async function copied(text: string): Promise<void> {
  if (navigator.clipboard !== undefined) return navigator.clipboard.writeText(text);
  const area = document.createElement('textarea');
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  if (!done) throw new Error('the browser does not let this page copy');
  return undefined;
}
