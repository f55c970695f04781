import { createRoot } from 'react-dom/client';
import { Clipboard } from '../player/clipboard';
import { Pointer } from '../player/cursor';
import { Delivery } from '../player/delivery';
import { Input } from '../player/input';
import { Meter } from '../player/meter';
import { Pads } from '../player/pads';
import type { Player } from '../player/player';
import { Microphone, Sound } from '../player/sound';
import { App, type Parts } from './app';

/** Everything that the first frame did not need. */
export function mount(player: Player): void {
  const stage = document.getElementById('stage');
  const root = document.getElementById('ui');
  const pointer = document.getElementById('pointer');
  if (stage === null || root === null || !(pointer instanceof HTMLImageElement)) return;
  const input = new Input(player, stage);
  const meter = new Meter(player);
  const parts: Parts = { player, stage, input, meter, sound: new Sound(player), microphone: new Microphone(player), clipboard: new Clipboard(player) };
  new Pads(player);
  new Pointer(player, input, stage, pointer);
  new Delivery(player, meter);
  stage.focus({ preventScroll: true });
  createRoot(root).render(<App {...parts} />);
}
