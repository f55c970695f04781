/** What is looked at of a deployment while it comes up. */
export interface Standing {
  wanted: number;
  ready: number;
  why: string | null;
  running: readonly { state: string; why: string | null }[];
}

/** One line of what has happened, and when. */
export interface Step {
  text: string;
  atMs: number;
  /** Whether it tells of a failure. */
  bad: boolean;
}

const STEPS_MAX = 200;
/** What the Gateway says of a replica for which nothing else is to be said yet. */
const NOTHING_YET = 'a Container is looked for';
const WORDS: Readonly<Record<string, string>> = {
  matching: 'Looking for a Container',
  opening: 'Opening the lease',
  starting: 'Starting',
  ready: 'Ready',
  draining: 'Finishing what it has',
  ended: 'Ended',
};

/** A replica's state in words. */
export const stateWords = (state: string): string => WORDS[state] ?? state;

/** How a deployment stands, in a word or two. */
export function standingWords({ wanted, ready, why, running }: Standing): string {
  if (ready > 0) return ready < wanted ? `ready, ${ready} of ${wanted}` : 'ready';
  if (running.some(({ state }) => state === 'draining')) return 'changing';
  if (running.some(({ state }) => state !== 'ended')) return 'starting';
  if (wanted === 0) return 'asleep until asked';
  return why === null ? 'starting' : 'in trouble';
}

/** What happens now, as `muster model deploy` tells it. */
export function stepNow({ running, why, ready }: Standing): { text: string; bad: boolean } {
  if (ready > 0) return { text: 'Ready', bad: false };
  const last = running.filter(({ state }) => state !== 'ended').at(-1);
  if (last !== undefined) {
    const words = stateWords(last.state);
    const why = last.why === null || last.why === '' || last.why === NOTHING_YET ? '' : `: ${last.why}`;
    return { text: words + why, bad: false };
  }
  if (why !== null) return { text: `Trying again: ${why}`, bad: true };
  return { text: 'Looking for a Container', bad: false };
}

/**
 * The steps with what is now. A line that differs from the last one only in its numbers takes its place, and what was
 * told before is not told again while it is tried again and again.
 */
export function withStep(steps: readonly Step[], standing: Standing, atMs: number): readonly Step[] {
  const now = stepNow(standing);
  const last = steps.at(-1);
  if (last?.text === now.text) return steps;
  const form = (text: string): string => text.replaceAll(/\d+([.,]\d+)?/g, '#');
  if (last !== undefined && form(last.text) === form(now.text)) return [...steps.slice(0, -1), { ...now, atMs: last.atMs }];
  if (now.text !== 'Ready' && steps.some(({ text }) => form(text) === form(now.text))) return steps;
  return [...steps, { ...now, atMs }].slice(-STEPS_MAX);
}
