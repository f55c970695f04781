// Plays a real session of the app `latency` in Chromium, from the link to the end. `npm run build` is not needed: the
// Gateway serves its own pages.
//   node test/live.mjs --link LINK --key-file FILE [--freeze PID] [--shots DIR]
// FILE holds the API key. PID is the program that streams: it is halted for four seconds. Ends with status 1 where a
// check failed.

import { chromium } from 'playwright-core';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';

const { values: args } = parseArgs({
  options: { link: { type: 'string' }, 'key-file': { type: 'string' }, freeze: { type: 'string' }, shots: { type: 'string' } },
});
const link = new URL(args.link);
const id = link.pathname.split('/').pop();
const api = `${link.origin}/api/v1/sessions/${id}`;
const bearer = { authorization: `Bearer ${(await readFile(args['key-file'], 'utf8')).trim()}` };
/** For what a shared machine that is paused now and then may take. */
const PATIENCE_MS = 90_000;
const DESKTOP = { viewport: { width: 1440, height: 900 } };
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
/** The middle of the square that flips at each input, and what moves, in the picture's pixels. */
const SQUARE = [30, 110, 60, 60];
const MOVES = [0, 220, 1280, 440];

let failed = 0;
function check(good, text) {
  console.log(`${good ? 'ok  ' : 'FAIL'} ${text}`);
  if (!good) failed += 1;
}
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(what, ms = PATIENCE_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await what();
    if (value) return value;
    if (Date.now() > end) return null;
    await wait(25);
  }
}

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--disable-features=WebRtcHideLocalIpsWithMdns', '--disable-background-timer-throttling',
    '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows',
  ],
});
const problems = [];
const publicKeys = [];

async function open(options, address) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
  page.on('request', (request) => {
    if (!request.url().endsWith('/join')) return;
    const key = request.postDataJSON()?.public_key;
    if (key) publicKeys.push(key);
  });
  await page.goto(address);
  return { context, page };
}
const inState = async (page, state) => {
  const selector = `body[data-state="${state}"]`;
  await page.waitForSelector(selector, { timeout: PATIENCE_MS, state: 'attached' }).catch(async () => {
    const told = await page.evaluate(() => `${document.body.dataset.state}: ${document.body.innerText}`);
    throw new Error(`the page is not ${state}, but ${told}`);
  });
};
async function shot(page, name) {
  if (args.shots) await page.screenshot({ path: path.join(args.shots, `${name}.png`) });
}

/** Brightness of a part of the next frame that is shown, and its pixels' sum in blocks; null where none comes. */
const look = (page, part) =>
  page.evaluate(
    ([x, y, w, h]) =>
      new Promise((resolve) => {
        const video = document.getElementById('video');
        const give = setTimeout(() => resolve(null), 5000);
        video.requestVideoFrameCallback((now, { width, height }) => {
          clearTimeout(give);
          const canvas = document.createElement('canvas');
          [canvas.width, canvas.height] = [32, 16];
          const context = canvas.getContext('2d', { willReadFrequently: true });
          context.drawImage(video, x, y, w, h, 0, 0, 32, 16);
          const { data } = context.getImageData(0, 0, 32, 16);
          const luma = [];
          for (let i = 0; i < data.length; i += 4) luma.push(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);
          resolve({ width, height, mean: luma.reduce((a, b) => a + b) / luma.length, luma });
        });
      }),
    part,
  );
async function moves(page) {
  const first = await look(page, MOVES);
  if (first === null) return false;
  return Boolean(
    await until(async () => {
      const next = await look(page, MOVES);
      return next !== null && next.luma.some((value, i) => Math.abs(value - first.luma[i]) > 12);
    }),
  );
}
const isWhite = async (page) => {
  const square = await look(page, SQUARE);
  return square === null ? null : square.mean > 128;
};
async function flips(page, act, what) {
  const before = await isWhite(page);
  const began = Date.now();
  await act();
  const flipped = await until(async () => {
    const now = await isWhite(page);
    return now !== null && now !== before;
  });
  check(before !== null && flipped, `${what} flips the square from ${before ? 'white' : 'black'} (${Date.now() - began} ms with all of this test's own)`);
}
const panel = async (page) => {
  await page.waitForSelector('.panel', { timeout: PATIENCE_MS });
  return page.innerText('.panel');
};

async function plays() {
  const { page, context } = await open(DESKTOP, args.link);
  await inState(page, 'playing');
  const first = await look(page, MOVES);
  check(first?.width === 1280 && first?.height === 720, `the picture is ${first?.width}×${first?.height}`);
  check(await moves(page), 'the picture moves');
  await page.waitForSelector('.more', { timeout: PATIENCE_MS });
  await flips(page, () => page.keyboard.press('KeyA'), 'a key');
  await flips(page, () => page.mouse.click(720, 450), 'a click');
  await flips(page, () => page.keyboard.press('Space'), 'another key');
  check(new URL(page.url()).hash === '', 'the token is gone from the address');
  await shot(page, 'desktop-playing');

  const second = await open(DESKTOP, args.link);
  await inState(second.page, 'failed');
  const told = await panel(second.page);
  check(/used already/.test(told) && /new link|new one/.test(told), `the used link says so: ${told.replace(/\s+/g, ' ').slice(0, 120)}`);
  await shot(second.page, 'desktop-used-link');
  await second.context.close();
  check(await moves(page), 'the first player plays on');

  if (args.freeze) {
    const pid = Number(args.freeze);
    process.kill(pid, 'SIGSTOP');
    try {
      await inState(page, 'reconnecting');
      await shot(page, 'desktop-reconnecting');
      await wait(4000);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await inState(page, 'playing');
    check(await moves(page), 'after a silence the picture is back by itself, and moves');
    await flips(page, () => page.keyboard.press('KeyB'), 'a key after the silence');
  }

  await page.click('.more');
  await page.click('text=Show quality');
  await wait(2500);
  await shot(page, 'desktop-menu');
  await page.keyboard.press('Escape');
  await page.waitForSelector('.menu', { state: 'detached' });
  console.log(`     overlay: ${(await page.locator('.overlay div').allTextContents()).join(' | ')}`);

  await page.reload();
  await inState(page, 'playing');
  check(await moves(page), 'a reload goes on without a new link');
  return { page, context };
}

async function receipts() {
  const good = await until(async () => {
    const all = await (await fetch(`${api}/receipts`, { headers: bearer })).json();
    return all.some(({ payload }) => JSON.parse(payload).codes.some(({ seen }) => seen !== null)) && all;
  }, 2 * PATIENCE_MS);
  check(good, 'a receipt with a delivery code that was seen is kept');
  if (!good) return;
  const keys = await Promise.all(
    publicKeys.map((key) => crypto.subtle.importKey('spki', Buffer.from(key, 'base64'), { name: 'ECDSA', namedCurve: 'P-256' }, false, ['verify'])),
  );
  let signed = 0;
  for (const { payload, signature } of good) {
    const text = new TextEncoder().encode(payload);
    const checks = keys.map((key) => crypto.subtle.verify({ name: 'ECDSA', hash: 'SHA-256' }, key, Buffer.from(signature, 'base64'), text));
    if ((await Promise.all(checks)).some(Boolean)) signed += 1;
  }
  check(signed === good.length, `${signed} of ${good.length} receipts bear the player's signature`);
  const all = good.map(({ payload }) => JSON.parse(payload));
  check(all.every(({ session }) => session === id), 'receipts name their session');
  check(all.every(({ seq }, i) => seq === i), `receipts count on: ${all.map(({ seq }) => seq)}`);
  check(all.every(({ from, to }, i) => from < to && (i === 0 || all[i - 1].to <= from)), 'their times do not overlap');
  const late = all.flatMap(({ codes }) => codes).filter(({ asked, seen }) => seen !== null && !(seen >= asked && seen - asked <= 2000));
  check(late.length === 0, 'codes are seen after they were asked for, and within 2 s');
  console.log(`     ${good.at(-1).payload}`);
}

async function phoneThenStop(desktop) {
  const fresh = await (await fetch(`${api}/link`, { method: 'POST', headers: bearer })).json();
  check(fresh.link?.startsWith(`${link.origin}/s/${id}#`), 'the account gets a new link');
  await desktop.context.close();
  const { page, context } = await open(PHONE, fresh.link);
  await inState(page, 'playing');
  check(await moves(page), 'the picture moves on a phone');
  await flips(page, () => page.tap('#stage'), 'a finger');
  await page.waitForSelector('.more', { timeout: PATIENCE_MS });
  await wait(500);
  await shot(page, 'phone-playing');
  await page.tap('.more');
  await page.waitForSelector('.menu');
  await shot(page, 'phone-menu');
  await page.tap('text=Stop the session');
  await shot(page, 'phone-confirm');
  await page.tap('.panel button.danger');
  await inState(page, 'ended');
  const told = await panel(page);
  check(/has ended/.test(told) && /You stopped the session/.test(told), `the end is told: ${told.replace(/\s+/g, ' ')}`);
  await until(async () => (await (await fetch(api, { headers: bearer })).json()).state === 'ended');
  await wait(1500);
  const [state, text] = [await (await fetch(api, { headers: bearer })).json(), await panel(page)];
  const shown = /[\d.]+(?= MUST)/.exec(text)?.[0];
  check(Math.abs(Number(shown) / Number(state.cost.split(' ')[0]) - 1) < 0.001, `the page tells the cost, ${state.cost}: ${shown}`);
  await shot(page, 'phone-ended');
  await page.setViewportSize(DESKTOP.viewport);
  await shot(page, 'desktop-ended');
  await context.close();
}

try {
  if (args.shots) await mkdir(args.shots, { recursive: true });
  const desktop = await plays();
  await receipts();
  await phoneThenStop(desktop);
  const unexpected = problems.filter((text) => !/Failed to load resource/.test(text));
  check(unexpected.length === 0, `no errors in the pages${unexpected.length > 0 ? `: ${unexpected.join('\n')}` : ''}`);
} catch (error) {
  check(false, error.stack);
} finally {
  await browser.close().catch(() => undefined);
}
console.log(failed === 0 ? 'all good' : `${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
