// Drives the built pages in Chromium against a fake Gateway, with a second browser as the Container.
// `npm run build` first; pictures go to shots/. Ends with status 1 where a check failed.

import { chromium } from 'playwright-core';
import { mkdir, readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { startGateway } from './fake-gateway.mjs';
import { modelScenes } from './models.mjs';

const SHOTS = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'shots');
const ARGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--disable-features=WebRtcHideLocalIpsWithMdns', '--disable-background-timer-throttling', '--disable-renderer-backgrounding',
  '--disable-backgrounding-occluded-windows', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
];
const launch = { executablePath: '/usr/bin/chromium', args: ARGS };
const only = new Set(process.argv.slice(2));
let failed = 0;

function check(good, text) {
  console.log(`${good ? 'ok  ' : 'FAIL'} ${text}`);
  if (!good) failed += 1;
}
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(what, ms = 10_000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await what();
    if (value) return value;
    if (Date.now() > end) return null;
    await wait(25);
  }
}

await mkdir(SHOTS, { recursive: true });
const gateway = await startGateway();
const server = await chromium.launchServer({ ...launch, args: [...ARGS, '--autoplay-policy=no-user-gesture-required'] });
const containerBrowser = await chromium.connect(server.wsEndpoint());
const container = await containerBrowser.newPage();
container.on('console', (message) => console.log('     container:', message.text()));
await container.goto(`${gateway.url}/__container`);
const browser = await chromium.launch(launch);

async function descendants(pid) {
  const children = new Map();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
    const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const all = [];
  const walk = (one) => (all.push(one), (children.get(one) ?? []).forEach(walk));
  walk(pid);
  return all;
}

const problems = [];
async function open(options, address) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
  // When the page's state changed, by its own clock; the page itself has no hook for it.
  await page.addInitScript(() => {
    window.states = [];
    document.addEventListener('DOMContentLoaded', () => {
      const note = () => {
        const video = document.getElementById('video');
        window.states.push([document.body.dataset.state, performance.now(), Date.now(), video?.readyState, video?.currentTime]);
      };
      note();
      new MutationObserver(note).observe(document.body, { attributeFilter: ['data-state'] });
    });
  });
  await page.goto(address);
  return { context, page };
}
const inState = (page, state, ms = 15_000) => page.waitForSelector(`body[data-state="${state}"]`, { timeout: ms, state: 'attached' });
const shot = (page, name) => page.screenshot({ path: path.join(SHOTS, `${name}.png`) });
const input = (from = 0) => gateway.reports.slice(from).filter(({ kind }) => kind === 'input').map(({ message }) => message);
const DESKTOP = { viewport: { width: 1440, height: 900 } };
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };

const scenes = {
  ...modelScenes({ gateway, open, check, until, wait, shot, DESKTOP, PHONE }),

  async start() {
    const session = gateway.session('start', { path: [['matching', 0]] });
    const { page, context } = await open(DESKTOP, `${gateway.url}/s/start#tok`);
    for (const [state, text] of [['matching', 'Finding a machine…'], ['opening', 'Opening the lease…'], ['starting', 'Starting Neverball…']]) {
      session.state.state = state;
      check(await until(async () => (await page.textContent('#status-text')) === text, 4000), `says: ${text}`);
    }
    session.state.why = 'fetching neverball: 34 of 67 MB';
    check(await until(async () => (await page.textContent('#status-text')) === 'Fetching neverball: 34 of 67 MB…', 4000), 'says what is fetched');
    session.state.why = null;
    await shot(page, 'desktop-before');
    check(!page.url().includes('#'), 'the token is gone from the address');
    session.state.state = 'running';
    await inState(page, 'playing');
    check(session.polls.every(({ bearer }) => bearer === 'Bearer tok' || bearer === `Bearer ${session.key}`), 'state is asked for with token or key');
    await context.close();
  },

  async fast() {
    const times = [];
    for (let i = 0; i < 4; i++) {
      gateway.session(`fast${i}`);
      const { page, context } = await open(DESKTOP, `${gateway.url}/s/fast${i}#tok`);
      await inState(page, 'playing');
      const marks = await page.evaluate(() => ({
        join: performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/join')).map(({ startTime, responseEnd }) => [startTime, responseEnd].map(Math.round)),
        script: performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('.js')).map(({ responseEnd }) => Math.round(responseEnd)),
        states: window.states.map(([state, at]) => `${state} ${Math.round(at)}`),
      }));
      console.log(`     ${JSON.stringify(marks)}`);
      times.push(await page.evaluate(() => Math.round(window.states.find(([state]) => state === 'playing')[1])));
      await context.close();
    }
    console.log(`     page opened to first frame, ms: ${times.join(' ')} (the fake Container's own gathering included)`);
  },

  async play() {
    const session = gateway.session('play');
    const { page, context } = await open(DESKTOP, `${gateway.url}/s/play#tok`);
    await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: gateway.url });
    await inState(page, 'playing');
    await page.waitForSelector('.more');
    const sample = () =>
      page.evaluate(() => {
        const video = document.getElementById('video');
        const canvas = document.createElement('canvas');
        canvas.width = 64;
        canvas.height = 36;
        const context = canvas.getContext('2d');
        context.drawImage(video, 0, 0, 64, 36);
        return [...context.getImageData(0, 20, 64, 4).data].join();
      });
    const first = await sample();
    await wait(500);
    check(first !== (await sample()), 'the picture moves');
    check(await page.evaluate(() => document.getElementById('sound').muted), 'sound is muted before a gesture');
    check((await page.textContent('.hints')).includes('Sound on'), 'the hint for sound shows');
    await keysAndMouse(page);
    check(!(await page.evaluate(() => document.getElementById('sound').muted)), 'a gesture turns the sound on');
    const audio = await page.evaluate(() => document.getElementById('sound').srcObject?.getAudioTracks().length);
    check(audio === 1, 'sound has an element and a stream of its own');

    await padAndPointer(page);
    await menu(page);
    await reconnects(page);
    await pageReload(page, session);
    await clips(page);
    await microphone(page);

    await until(() => session.receipts.some(({ payload }) => payload.codes.some(({ seen }) => seen !== null)), 45_000);
    const receipts = session.receipts;
    const codes = receipts.flatMap(({ payload }) => payload.codes);
    const asked = gateway.reports.filter(({ message }) => message.t === 'code').map(({ message }) => message.n);
    check(codes.some(({ code, seen }) => seen !== null && asked.includes(code)), `a delivery code was seen: ${JSON.stringify(codes)}`);
    check(receipts.length > 0 && receipts.every(({ good }) => good), `${receipts.length} receipts, all with a good signature`);
    console.log(`     ${receipts.at(-1)?.text}`);
    check(receipts.some(({ payload }) => payload.latency_p95_ms !== null && payload.latency_p95_ms > 0 && payload.latency_p95_ms < 1000), 'capture-to-screen time is measured');
    check(receipts.some(({ payload }) => payload.fps > 5), 'frames are counted');

    // A still picture is no freeze.
    const count = session.receipts.length;
    await container.evaluate(() => window.fake.still(true));
    await wait(1500);
    await container.evaluate(() => window.fake.still(false));
    console.log(`     receipts so far: ${count}`);

    await container.evaluate(() => window.fake.say({ t: 'note', code: 'time', text: 'The session’s time limit is near.', seconds: 60 }));
    await page.waitForSelector('.note');
    await shot(page, 'desktop-note');
    gateway.end('play', 'The time limit was reached.');
    await container.evaluate(() => window.fake.say({ t: 'end', text: 'The time limit was reached.' }));
    await inState(page, 'ended');
    await page.waitForSelector('.summary');
    await until(async () => (await page.textContent('.panel')).includes('0.0097'), 4000);
    const panel = await page.textContent('.panel');
    check(panel.includes('time limit') && panel.includes('1 min 23 s') && panel.includes('0.0097 MUST'), `the end is told: ${panel}`);
    await shot(page, 'desktop-ended');
    await page.reload();
    await inState(page, 'ended');
    await page.waitForSelector('.summary');
    check((await page.textContent('.panel')).includes('1 min 23 s'), 'a reload after the end tells it once more');
    await context.close();
  },

  async lock() {
    gateway.session('lock', { app: { pointer: 'relative' } });
    const { page, context } = await open(DESKTOP, `${gateway.url}/s/lock#tok`);
    await inState(page, 'playing');
    await page.waitForSelector('.more');
    let from = gateway.reports.length;
    await page.mouse.move(700, 400);
    await page.mouse.click(700, 400);
    const locked = await until(() => page.evaluate(() => document.pointerLockElement?.id === 'stage'), 3000);
    check(locked, 'a click captures the mouse of a program with a relative pointer');
    await wait(200);
    // The first move under capture may be swallowed by the browser.
    await page.mouse.move(701, 401);
    await page.mouse.move(700, 400);
    await wait(200);
    from = gateway.reports.length;
    await page.mouse.move(740, 380, { steps: 8 });
    const total = () => input(from).filter(({ t }) => t === 'rel').reduce(([x, y], { dx, dy }) => [x + dx, y + dy], [0, 0]);
    const near = ([x, y]) => Math.abs(x - 40 * (1280 / 1440)) <= 2 && Math.abs(y + 20 * (1280 / 1440)) <= 2;
    await until(() => near(total()), 4000);
    const sum = total();
    check(near(sum), `movement is told in picture pixels: ${sum}`);
    await page.mouse.down();
    await page.mouse.up();
    await page.evaluate(() => document.exitPointerLock());
    await until(() => input(from).at(-1)?.t === 'release', 2000);
    const after = input(from);
    check(after.some(({ t, b, down, x }) => t === 'button' && b === 0 && down && x === undefined), 'buttons under capture have no place');
    check(after.at(-1)?.t === 'release', 'letting go of the mouse lets go of all');
    const [other] = await Promise.all([context.waitForEvent('page'), page.evaluate(() => void window.open(location.href))]);
    await inState(other, 'playing');
    await inState(page, 'failed');
    await page.waitForSelector('.panel');
    check((await page.textContent('.panel')).includes('another tab'), 'the same session in another tab is told, and that one plays');
    await context.close();
  },

  async phone() {
    gateway.session('phone', { path: [['starting', 1200], ['running', 0]] });
    const { page, context } = await open(PHONE, `${gateway.url}/s/phone#tok`);
    await until(async () => (await page.textContent('#status-text')) === 'Starting Neverball…', 3000);
    await shot(page, 'phone-before');
    await inState(page, 'playing');
    await page.waitForSelector('.stick');
    const from = gateway.reports.length;
    const video = await page.locator('#video').boundingBox();
    await page.touchscreen.tap(195, video.y + video.height / 2 - 200 + 200);
    await until(() => input(from).some(({ t, phase }) => t === 'touch' && phase === 'end'), 2000);
    const touches = input(from).filter(({ t }) => t === 'touch');
    check(touches[0]?.phase === 'start' && Math.abs(touches[0].x - 0.5) < 0.01 && Math.abs(touches[0].y - 0.5) < 0.01, `a finger is a touch: ${JSON.stringify(touches)}`);
    const stick = await page.locator('.stick').boundingBox();
    const cdp = await context.newCDPSession(page);
    const at = (x, y, id = 0) => ({ x, y, id });
    const middle = [stick.x + 64, stick.y + 64];
    await cdp.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: [at(...middle)] });
    await cdp.send('Input.dispatchTouchEvent', { type: 'touchMove', touchPoints: [at(middle[0] + 60, middle[1])] });
    await until(() => input(from).some(({ code, down }) => code === 'ArrowRight' && down), 2000);
    await shot(page, 'phone-stick');
    await cdp.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
    await until(() => input(from).some(({ code, down }) => code === 'ArrowRight' && !down), 2000);
    const keys = input(from).filter(({ t }) => t === 'key');
    check(keys.length === 2 && keys[0].down && !keys[1].down, `the stick presses and lets go: ${JSON.stringify(keys)}`);
    const two = (dy) => [at(150, 300 + dy, 1), at(230, 300 + dy, 2)];
    await cdp.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: [two(0)[0]] });
    await cdp.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: two(0) });
    for (const dy of [-20, -40, -60, -80]) await cdp.send('Input.dispatchTouchEvent', { type: 'touchMove', touchPoints: two(dy) });
    await cdp.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
    const rolled = () => input(from).filter(({ t }) => t === 'wheel').reduce((sum, { dy }) => sum + dy, 0);
    await until(() => rolled() > 1.9, 4000);
    const wheel = rolled();
    check(Math.abs(wheel - 2) < 0.1, `two fingers turn the wheel: ${wheel} notches`);
    const before = gateway.reports.length;
    await page.tap('button[aria-label="Keyboard"]');
    await page.keyboard.insertText('Hi!');
    await until(() => input(before).filter(({ t }) => t === 'key').length >= 10, 2000);
    const typed = input(before).filter(({ t, down }) => t === 'key' && down).map(({ code }) => code);
    check(typed.join() === 'ShiftLeft,KeyH,KeyI,ShiftLeft,Digit1', `the phone’s keyboard types: ${typed}`);
    await page.evaluate(() => document.activeElement.blur());
    await page.tap('.more');
    await page.waitForSelector('.menu');
    await page.tap('text=Show quality');
    await shot(page, 'phone-menu');
    await page.tap('button[aria-label="Close the menu"]');
    await wait(2200);
    await shot(page, 'phone-playing');
    await page.setViewportSize({ width: 844, height: 390 });
    await wait(400);
    await shot(page, 'phone-landscape');
    await page.setViewportSize({ width: 390, height: 844 });
    await page.tap('.more');
    await page.tap('text=Stop the session');
    await shot(page, 'phone-confirm');
    await page.tap('.panel button.danger');
    await inState(page, 'ended');
    await page.waitForSelector('.summary');
    await wait(300);
    await shot(page, 'phone-ended');
    await context.close();
  },

  async errors() {
    for (const [name, options] of [['desktop', DESKTOP], ['phone', PHONE]]) {
      gateway.session(`bad-${name}`, { path: [['matching', 600], ['opening', 0]] });
      const { page, context } = await open(options, `${gateway.url}/s/bad-${name}#tok`);
      await wait(900);
      const why = 'No Container could take this session: 3 were asked; 2 lack a card with 8 GB of memory, 1 is draining.';
      Object.assign(gateway.sessions.get(`bad-${name}`).state, { state: 'ended', why });
      await inState(page, 'failed');
      await page.waitForSelector('.panel');
      check((await page.textContent('.panel')).includes('3 were asked'), `${name}: why it failed is told`);
      await shot(page, `${name}-error`);
      await context.close();
    }
    const { page, context } = await open(DESKTOP, `${gateway.url}/s/nobody#tok`);
    await inState(page, 'failed');
    await page.waitForSelector('.panel');
    check((await page.textContent('.panel')).includes('No such session'), 'an unknown session is told');
    await context.close();
    const none = await open(DESKTOP, `${gateway.url}/s/nobody`);
    await inState(none.page, 'failed');
    await none.page.waitForSelector('.panel');
    check((await none.page.textContent('.panel')).includes('incomplete'), 'a link without a token is told');
    await none.context.close();
  },

  async home() {
    for (const [name, options] of [['desktop', DESKTOP], ['phone', PHONE]]) {
      const { page, context } = await open(options, `${gateway.url}/`);
      await page.waitForSelector('h1');
      await shot(page, `${name}-home-key`);
      await page.fill('input[type=password]', 'mk_test');
      await page.click('text=Continue');
      await page.waitForSelector('.start');
      await page.click('button:text-is("Start")');
      await page.waitForSelector('.link');
      await wait(300);
      check((await page.textContent('.link code')).includes('/s/'), `${name}: a session is started from the home page`);
      await shot(page, `${name}-home`);
      await context.close();
    }
  },
};

async function keysAndMouse(page) {
  const from = gateway.reports.length;
  await page.keyboard.down('KeyA');
  await page.keyboard.down('KeyA');
  await page.keyboard.up('KeyA');
  await page.keyboard.press('Tab');
  await until(() => input(from).filter(({ t }) => t === 'key').length >= 4, 3000);
  check(
    JSON.stringify(input(from).slice(0, 4)) ===
      JSON.stringify([
        { t: 'key', code: 'KeyA', key: 'a', down: true },
        { t: 'key', code: 'KeyA', key: 'a', down: false },
        { t: 'key', code: 'Tab', key: 'Tab', down: true },
        { t: 'key', code: 'Tab', key: 'Tab', down: false },
      ]),
    'keys go out as in the contract, without repetition',
  );
  const at = gateway.reports.length;
  // 1440×900 shows 1280×720 at 1440×810, 45 down.
  await page.mouse.move(720, 45 + 202.5, { steps: 10 });
  await page.mouse.down();
  await page.mouse.up();
  await page.mouse.down({ button: 'right' });
  await page.mouse.up({ button: 'right' });
  await page.mouse.wheel(0, 100);
  await page.mouse.wheel(0, -240);
  await until(() => input(at).filter(({ t }) => t === 'wheel').length >= 2, 3000);
  const got = input(at);
  const down = got.find(({ t, down: isDown }) => t === 'button' && isDown);
  check(got.some(({ t }) => t === 'move'), 'moves go out');
  check(down?.b === 0 && Math.abs(down.x - 0.5) < 0.002 && Math.abs(down.y - 0.25) < 0.002, `a button brings its place along: ${JSON.stringify(down)}`);
  check(got.filter(({ t, b }) => t === 'button' && b === 2).length === 2, 'the right button goes out');
  check(JSON.stringify(got.filter(({ t }) => t === 'wheel').map(({ dy }) => dy)) === '[1,-2]', 'the wheel counts notches');
  await page.keyboard.down('KeyW');
  await page.evaluate(() => window.dispatchEvent(new Event('blur')));
  await until(() => input(at).at(-1)?.t === 'release', 2000);
  check(input(at).at(-1)?.t === 'release', 'losing the focus lets go of all');
  await page.keyboard.up('KeyW');
}

async function padAndPointer(page) {
  const from = gateway.reports.length;
  await page.evaluate(() => {
    window.pad = { index: 0, id: 'Test pad', connected: true, axes: [0, 0, 0, 0], buttons: [{ value: 0 }, { value: 1 }] };
    navigator.getGamepads = () => [window.pad, null];
    window.dispatchEvent(new Event('gamepadconnected'));
  });
  await wait(150);
  await page.evaluate(() => (window.pad.axes[0] = 0.5));
  await until(() => input(from).filter(({ t }) => t === 'pad').length >= 2, 2000);
  await page.evaluate(() => {
    navigator.getGamepads = () => [];
    window.dispatchEvent(Object.assign(new Event('gamepaddisconnected'), { gamepad: window.pad }));
  });
  await until(() => input(from).some(({ t }) => t === 'padgone'), 2000);
  check(
    JSON.stringify(input(from)) ===
      JSON.stringify([
        { t: 'pad', i: 0, id: 'Test pad', axes: [0, 0, 0, 0], buttons: [0, 1] },
        { t: 'pad', i: 0, id: 'Test pad', axes: [0.5, 0, 0, 0], buttons: [0, 1] },
        { t: 'padgone', i: 0 },
      ]),
    `a gamepad is told only when it changes: ${JSON.stringify(input(from))}`,
  );
  const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
  await container.evaluate((image) => window.fake.say({ t: 'cursor', x: 5, y: 5, w: 24, h: 24, hot: [3, 4], png: image }), png);
  const cursor = await until(() => page.evaluate(() => document.getElementById('stage').style.cursor), 2000);
  check(/^url\("data:image\/png.*"\) 3 4, default$/.test(cursor ?? ''), 'the program’s pointer is the page’s cursor');
  await container.evaluate(() => window.fake.say({ t: 'cursor', hidden: true }));
  check(await until(async () => (await page.evaluate(() => document.getElementById('stage').style.cursor)) === 'none', 2000), 'a hidden pointer is hidden');
}

async function menu(page) {
  const from = gateway.reports.length;
  await page.keyboard.press('Control+Alt+Shift+KeyM');
  await page.waitForSelector('.menu');
  await page.click('text=Show quality');
  await page.selectOption('select', '4000000');
  await wait(300);
  await page.keyboard.press('KeyB');
  await page.evaluate(() => document.activeElement?.blur());
  await shot(page, 'desktop-menu');
  await page.keyboard.press('Escape');
  await page.waitForSelector('.menu', { state: 'detached' });
  const sent = gateway.reports.slice(from);
  check(sent.some(({ message }) => message.t === 'limit' && message.bps === 4000000), 'the bitrate limit is sent');
  check(!sent.some(({ message }) => message.code === 'KeyB' || message.code === 'Escape'), 'keys in the menu stay in the page');
  await wait(2500);
  await shot(page, 'desktop-playing');
  console.log(`     overlay: ${(await page.locator('.overlay div').allTextContents()).join(' | ')}`);
}

async function reconnects(page) {
  const joined = gateway.joins.length;
  await page.evaluate(() => (window.states.length = 0));
  await container.evaluate(() => window.fake.close());
  await inState(page, 'reconnecting');
  check(await page.evaluate(() => !document.getElementById('still').hidden), 'the last picture stays in sight');
  await inState(page, 'playing');
  const states = await page.evaluate(() => window.states);
  console.log(`     ${JSON.stringify(states)}, asked at ${gateway.joins[joined]?.at}`);
  const [lost, back] = states.map(([, at]) => at);
  check(back - lost < 3000, `after a closed connection the picture is back in ${Math.round(back - lost)} ms`);
  check(gateway.joins[joined]?.key !== undefined && gateway.joins[joined].token === undefined, 'it rejoins with its key');
  await wait(1000);

  // The Container goes silent: nothing is answered, and nothing says so.
  const pids = await descendants(server.process().pid);
  await page.evaluate(() => (window.states.length = 0));
  const silent = Date.now();
  for (const pid of pids) process.kill(pid, 'SIGSTOP');
  await wait(4500);
  await shot(page, 'desktop-reconnecting');
  for (const pid of pids) process.kill(pid, 'SIGCONT');
  const again = Date.now();
  await inState(page, 'playing');
  const times = await page.evaluate(() => window.states.map(([state, , at]) => [state, at]));
  const noticed = times.find(([state]) => state === 'reconnecting')?.[1] - silent;
  const back2 = times.findLast(([state]) => state === 'playing')?.[1] - again;
  check(noticed < 2500, `silence is noticed after ${noticed} ms`);
  check(back2 < 3000, `the picture is back ${back2} ms after the network`);
  await wait(500);
}

async function pageReload(page, session) {
  const before = session.receipts.length;
  await page.reload();
  await inState(page, 'playing');
  check(gateway.joins.at(-1).key === session.key, 'a reload rejoins with the kept key');
  await until(() => session.receipts.length > before, 14_000);
  check(session.receipts.at(-1)?.good === true, 'receipts after a reload are signed with the kept pair');
}

async function clips(page) {
  await page.evaluate(() => navigator.clipboard.writeText('from the page'));
  const from = gateway.reports.length;
  await page.keyboard.press('Control+Alt+Shift+KeyM');
  await page.click('text=reads my clipboard');
  await page.click('text=writes my clipboard');
  const sent = () => gateway.reports.slice(from).map(({ message }) => message);
  await until(() => sent().some(({ t }) => t === 'clip') && sent().some(({ t }) => t === 'clipwanted'), 3000);
  check(sent().some(({ t, text }) => t === 'clip' && text === 'from the page'), 'the clipboard goes out after consent');
  check(sent().some(({ t, on }) => t === 'clipwanted' && on), 'consent for the other way is sent');
  await container.evaluate(() => window.fake.say({ t: 'clip', text: 'from the program' }));
  const got = await until(async () => (await page.evaluate(() => navigator.clipboard.readText())) === 'from the program', 3000);
  check(got, 'the program’s clipboard comes in');
  await page.keyboard.press('Escape');
}

async function microphone(page) {
  const joined = gateway.joins.length;
  await page.keyboard.press('Control+Alt+Shift+KeyM');
  await page.click('.menu >> text=Microphone');
  await until(() => gateway.joins.length > joined, 5000);
  check(/m=audio[\s\S]*a=sendrecv/.test(gateway.joins.at(-1).sdp), 'the microphone makes the sound go both ways');
  await page.keyboard.press('Escape');
  await inState(page, 'playing');
}

try {
  for (const [name, scene] of Object.entries(scenes)) {
    if (only.size > 0 && !only.has(name)) continue;
    console.log(`— ${name}`);
    try {
      await scene();
    } catch (error) {
      check(false, `${name}: ${error.message}`);
    }
  }
  const unexpected = problems.filter((text) => !/Failed to load resource/.test(text));
  check(unexpected.length === 0, `no errors in the pages${unexpected.length > 0 ? `: ${unexpected.join('\n')}` : ''}`);
} finally {
  await browser.close().catch(() => undefined);
  await containerBrowser.close().catch(() => undefined);
  await server.close().catch(() => undefined);
  await gateway.close();
}
console.log(failed === 0 ? 'all good' : `${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
