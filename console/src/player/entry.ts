// The player page's first script. It does only what the first frame needs; keys, menus and all else come after it.

import { Player } from './player';

const LATER_MS = 2000;
const LONG_MS = 15_000;

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
  const show = (): void => {
    const text = statusText(player);
    if (status.textContent !== text) status.textContent = text;
  };
  player.subscribe(show);
  setInterval(show, 1000);
  void player.run();
  void Promise.race([player.firstFrame, slow(player)]).then(async () => (await import('../ui/main')).mount(player));
}

/** Resolves once the picture will not come at once, which leaves time to load the rest. */
async function slow(player: Player): Promise<void> {
  const until = performance.now() + LATER_MS;
  while (!player.over && performance.now() < until) {
    const state = player.state?.state;
    if (state !== undefined && state !== 'running') return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const BARRED =
  'This browser does not connect to programs on its own machine; Firefox is known for that. Open the session in Chromium, or ' +
  'have the network started with --listen and the address of this machine.';

function statusText({ phase, state, since, link }: Player): string {
  const long = performance.now() - since > LONG_MS;
  if (phase === 'reconnecting') return long ? 'Reconnecting… Is your network up?' : 'Reconnecting…';
  if (state === null || phase !== 'connecting') return 'Connecting…';
  if (state.state === 'matching') return state.why === null ? 'Finding a machine…' : `Finding a machine… Just now ${state.why}.`;
  if (state.state === 'opening') return 'Opening the lease…';
  // What is fetched first, and how far it is.
  if (state.state === 'starting' && state.why !== null) return `${state.why.charAt(0).toUpperCase()}${state.why.slice(1)}…`;
  if (state.state === 'starting') return `Starting ${state.app.title}…`;
  if (long && link?.barred === true) return BARRED;
  return long ? 'Still connecting… This network may block WebRTC over UDP.' : 'Connecting…';
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

// The script is `async`, so as not to wait for the style sheet; the page's end may not be there yet.
if (document.getElementById('ui') === null) document.addEventListener('DOMContentLoaded', start);
else start();
