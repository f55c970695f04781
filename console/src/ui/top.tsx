import type { ReactNode } from 'react';

/** The way from page to page. */
export function Top({ here, children }: { here: 'sessions' | 'models'; children?: ReactNode }): ReactNode {
  return (
    <nav className="top" aria-label="Pages">
      <a href="/" className="brand">
        Muster
      </a>
      <a href="/" {...(here === 'sessions' ? { 'aria-current': 'page' } : {})}>
        Sessions
      </a>
      <a href="/models" {...(here === 'models' ? { 'aria-current': 'page' } : {})}>
        Models
      </a>
      {children}
    </nav>
  );
}
