/** What went wrong, as a Gateway tells it. */
export interface Trouble {
  code: string;
  status: number;
  message: string;
  retryAfterMs: number | null;
}

/** What to do about an answer that failed; empty where the Gateway's own words say it. */
export function advice({ code, status, retryAfterMs }: Trouble): string {
  if (code === 'network') return 'Is the Gateway still running, and this machine online? What you wrote is kept: try again.';
  if (code === 'broken_off') return 'The answer is not whole. Try again: another replica may take it.';
  if (code === 'context_length_exceeded') return 'Begin a new conversation, or write less: prompt and answer share the context.';
  if (code === 'insufficient_quota') return 'Give the key a larger budget, or use another key.';
  if (code === 'missing' || code === 'no_key' || status === 401) return 'Forget the key and enter another; `muster api-key new` makes one.';
  if (code === 'scope_missing') return 'Use a key that opens models.';
  if (code === 'model_not_found' || code === 'unknown_model') return 'It may have been removed: choose another model.';
  if (status === 429) return retryAfterMs === null ? 'Wait a moment and try again.' : `Try again in ${Math.ceil(retryAfterMs / 1000)} s.`;
  if (status === 402) return 'Enter an API key: models are paid through its account.';
  if (status >= 500) return 'Try again; “Details” says how the replicas stand.';
  return '';
}
