/** A call that failed: `code` is the Gateway's, or `network` where no answer came. */
export class ApiError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly status: number,
    readonly retryAfterMs: number | null = null,
  ) {
    super(message);
  }
}

interface Call {
  bearer?: string | null;
  body?: unknown;
  signal?: AbortSignal;
}

/** Calls the Gateway's API, `path` under `/api/v1/` where it does not begin with a slash. Throws only `ApiError`. */
export async function api<T>(method: 'GET' | 'POST' | 'DELETE', path: string, { bearer, body, signal }: Call = {}): Promise<T> {
  const headers: Record<string, string> = {};
  if (bearer) headers['Authorization'] = `Bearer ${bearer}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response: Response;
  let text: string;
  try {
    response = await fetch(path.startsWith('/') ? path : `/api/v1/${path}`, {
      method,
      headers,
      cache: 'no-store',
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    });
    text = await response.text();
  } catch {
    throw new ApiError('network', 'The Gateway did not answer.', 0);
  }
  let value: unknown = null;
  try {
    value = text === '' ? null : JSON.parse(text);
  } catch {
    if (response.ok) throw new ApiError('network', 'The Gateway’s answer could not be read.', response.status);
  }
  if (response.ok) return value as T;
  throw refusal(response, value);
}

/** What a Gateway says that does not meet a request. */
export function refusal(response: Response, value: unknown): ApiError {
  const error = (value as { error?: { code?: string; message?: string } } | null)?.error;
  const seconds = Number(response.headers.get('Retry-After') ?? '');
  return new ApiError(
    error?.code ?? `http_${response.status}`,
    error?.message ?? `The Gateway answered with status ${response.status}.`,
    response.status,
    seconds > 0 ? seconds * 1000 : null,
  );
}

/** Whether another try may help: no answer came, or the Gateway is in trouble itself. */
export function passing(error: unknown): boolean {
  if (!(error instanceof ApiError)) return true;
  return ['network', 'not_ready', 'too_many_requests'].includes(error.code) || error.status === 429 || error.status >= 500;
}
