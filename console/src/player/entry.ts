// The player page's first script. It does only what the first frame needs; keys, menus and all else come after it.

import { Player } from './player';

const LATER_MS = 300;

function start(): void {
  const id = /\/s\/([^/]+)/.exec(location.pathname)?.[1] ?? '';
  const token = location.hash.length > 1 ? decodeURIComponent(location.hash.slice(1)) : null;
  if (location.hash !== '') history.replaceState(history.state, '', location.pathname + location.search);
  const player = new Player(
    decodeURIComponent(id),
    token,
    element('video', HTMLVideoElement),
    element('sound', HTMLAudioElement),
    element('still', HTMLCanvasElement),
    iceServers(),
  );
  const status = element('status-text', HTMLElement);
  player.subscribe(() => {
    const text = statusText(player);
    if (status.textContent !== text) status.textContent = text;
  });
  void player.run();
  // A session that has yet to start leaves time to load the rest; else the picture comes first.
  const idle = new Promise((resolve) => setTimeout(resolve, LATER_MS)).then(() =>
    player.state?.state !== 'running' || player.over ? undefined : Promise.race([player.firstFrame, new Promise((resolve) => setTimeout(resolve, 3000))]),
  );
  void Promise.race([player.firstFrame, idle]).then(async () => (await import('../ui/main')).mount(player));
}

function statusText({ phase, state }: Player): string {
  if (phase === 'reconnecting') return 'Reconnecting…';
  if (state === null || phase !== 'connecting') return 'Connecting…';
  if (state.state === 'matching') return 'Finding a machine…';
  if (state.state === 'opening') return 'Opening the lease…';
  if (state.state === 'starting') return `Starting ${state.app.title}…`;
  return 'Connecting…';
}

function element<T extends HTMLElement>(id: string, kind: { new (): T }): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`play.html has no ${id}`);
  return found;
}

/** The Gateway may put its relay servers into the page. */
function iceServers(): RTCIceServer[] {
  const content = document.querySelector('meta[name="muster-ice"]')?.getAttribute('content');
  try {
    const servers: unknown = JSON.parse(content || '[]');
    return Array.isArray(servers) ? (servers as RTCIceServer[]) : [];
  } catch {
    return [];
  }
}

start();
