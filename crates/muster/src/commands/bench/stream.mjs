// Plays live sessions in a real browser and reads the clock that the latency meter draws. Started by `muster bench stream`
// with one JSON argument; prints one JSON object.
import { createRequire } from "node:module";
import fs from "node:fs";

const ask = JSON.parse(process.argv[2]);
const { chromium } = createRequire(`${ask.modules}/`)("playwright-core");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// ---- The page's side: at each animation frame, the brightness of the meter's cells in the picture that is shown.
const inPage = () => {
  const cell = 40, bits = 20, mask = (1 << bits) - 1;
  const M = (window.meter = { first: null, lags: [], gaps: [], clicks: [], frames: 0, waits: null });
  const clock = () => performance.timeOrigin + performance.now() + M.offset;
  M.offset = -1e9;
  for (let i = 0; i < 2000; i++) M.offset = Math.max(M.offset, Date.now() - performance.timeOrigin - performance.now());
  let buffer = new Uint8Array(0), last = -1, lastAt = 0, flip = null, busy = false;
  const read = async (video) => {
    const frame = new VideoFrame(video);
    try {
      const { width, height, x, y } = frame.visibleRect;
      const scale = width / 1280, rect = { x, y, width: Math.ceil(520 * scale) * 2, height: Math.ceil(100 * scale) * 2 };
      const size = frame.allocationSize({ rect });
      if (buffer.length < size) buffer = new Uint8Array(size);
      const [luma] = await frame.copyTo(buffer, { rect });
      const at = (column, row) => buffer[luma.offset + Math.floor((row + 0.5) * cell * scale) * luma.stride + Math.floor((column + 0.5) * cell * scale)];
      const middle = (at(24, 0) + at(25, 0)) / 2;
      if (at(24, 0) - at(25, 0) < 100) return null;
      let value = 0;
      for (let i = 0; i < bits + 4; i++) if (at(i, 0) > middle) value |= 1 << i;
      let sum = 5;
      for (let i = 0; i < bits; i += 4) sum += (value >> i) & 15;
      return ((value >> bits) & 15) === (sum & 15) ? { drawn: value & mask, flip: at(1, 3) > middle } : null;
    } finally {
      frame.close();
    }
  };
  const look = async (now) => {
    const video = [...document.querySelectorAll("video")].find((v) => v.videoWidth > 0 && v.readyState >= 2);
    if (!video || busy) return;
    busy = true;
    const seen = await read(video).catch(() => null);
    busy = false;
    if (!seen) return;
    if (M.first === null) M.first = now;
    if (seen.drawn !== last) {
      let lag = (Math.floor(now) & mask) - seen.drawn + (now % 1);
      if (lag < -(mask / 2)) lag += mask + 1;
      if (last >= 0) {
        M.lags.push(lag);
        M.gaps.push(now - lastAt);
        M.frames++;
      }
      last = seen.drawn;
      lastAt = now;
    }
    if (flip !== null && seen.flip !== flip && M.waits !== null) {
      M.clicks.push(now - M.waits);
      M.waits = null;
    }
    flip = seen.flip;
  };
  addEventListener("pointerdown", (e) => { if (e.isTrusted && M.waits === null) M.waits = performance.timeOrigin + e.timeStamp + M.offset; }, true);
  const loop = () => { requestAnimationFrame(loop); look(clock()); };
  requestAnimationFrame(loop);
  // ---- What the Container says of its pictures against when they are shown: for programs without a clock.
  const Rtc = window.RTCPeerConnection, sent = new Map(), shown = new Map();
  M.aged = null;
  const age = (rtp) => {
    if (M.aged === null || !sent.has(rtp) || !shown.has(rtp)) return;
    M.aged.push(shown.get(rtp) - sent.get(rtp));
    shown.delete(rtp);
  };
  window.RTCPeerConnection = class extends Rtc {
    createDataChannel(label, options) {
      const channel = super.createDataChannel(label, options);
      if (label === "control") channel.addEventListener("message", (event) => {
        const told = typeof event.data === "string" && JSON.parse(event.data);
        if (told.t !== "frames" || M.aged === null) return;
        for (const [rtp, captured] of told.f) { sent.set(rtp, captured); M.captured++; age(rtp); }
      });
      return channel;
    }
  };
  M.watch = () => {
    M.aged = [];
    M.captured = 0;
    const video = [...document.querySelectorAll("video")].find((v) => v.videoWidth > 0);
    const frame = (now, { rtpTimestamp, expectedDisplayTime }) => {
      video.requestVideoFrameCallback(frame);
      if (rtpTimestamp === undefined) return;
      shown.set(rtpTimestamp, performance.timeOrigin + Math.max(now, expectedDisplayTime) + M.offset);
      age(rtpTimestamp);
    };
    video.requestVideoFrameCallback(frame);
  };
  M.reset = () => { M.lags = []; M.gaps = []; M.clicks = []; M.frames = 0; };
};

// ---- Figures.
const at = (list, share) => {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted.length ? Number(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))].toFixed(1)) : null;
};
const ticks = (pid) => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10;
  } catch {
    return 0;
  }
};
const streaming = () =>
  fs.readdirSync("/proc").filter((pid) => /^\d+$/.test(pid)).filter((pid) => {
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")[1] === "__stream";
    } catch {
      return false;
    }
  });

// ---- The Gateway.
const call = async (method, path, body) => {
  const headers = { authorization: `Bearer ${ask.key}`, ...(body ? { "content-type": "application/json" } : {}) };
  const answer = await fetch(ask.url + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : null;
};
const start = (app) => call("POST", "/api/v1/sessions", { app, width: 1280, height: 720, fps: 60, cpu_millis: ask.cpu_millis });
const stop = async (id) => {
  await call("POST", `/api/v1/sessions/${id}/stop`);
  for (let i = 0; i < 300 && (await call("GET", `/api/v1/sessions/${id}`)).state !== "ended"; i++) await sleep(100);
};

const browser = await chromium.launch({
  executablePath: ask.browser,
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"],
});
// A tab that is open before anything is asked for, as a player's is.
const tab = async () => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 720 } });
  await context.addInitScript(inPage);
  return { page: await context.newPage(), context };
};
const open = async (link, { page, context }) => {
  const began = Date.now();
  await page.goto(link, { waitUntil: "commit" });
  const first = await page.waitForFunction(() => window.meter && window.meter.first, null, { timeout: 30_000, polling: 20 });
  return { page, context, began, first: await first.jsonValue() };
};

const requests = [], pages = [];
for (let i = 0; i < ask.starts; i++) {
  const empty = await tab();
  const asked = Date.now();
  const session = await start("latency");
  const { context, first } = await open(session.link, empty);
  requests.push(first - asked);
  await context.close();
  await stop(session.id);
}

// How old pictures are on the screen, and how many of those captured are shown.
const ages = {};
const watch = async (page, each = () => {}) => {
  await page.evaluate(() => window.meter.watch());
  const began = Date.now();
  while (Date.now() - began < ask.seconds * 1_000) {
    await each();
    await sleep(50);
  }
  const { aged, captured } = await page.evaluate(() => ({ aged: window.meter.aged, captured: window.meter.captured }));
  return { aged, captured, seconds: (Date.now() - began) / 1_000 };
};
const level = async () => {
  const session = await start(ask.game);
  const { page, context } = await tab();
  await page.goto(session.link, { waitUntil: "commit" });
  // Its packages may have to come first, and the level shows its name until somebody clicks.
  await page.waitForFunction(() => [...document.querySelectorAll("video")].some((v) => v.videoWidth > 0), null, { timeout: 300_000 });
  for (let i = 0; i < 6; i++) {
    await sleep(1_500);
    await page.mouse.click(640, 360);
  }
  let step = 0;
  ages.game = await watch(page, () => page.mouse.move(640 + 120 * Math.sin(step / 7), 360 + 80 * Math.cos(step++ / 5)));
  if (ask.shot) await page.screenshot({ path: ask.shot });
  await context.close();
  await stop(session.id);
};

const phase = async (app) => {
  const session = await start(app);
  const { page, context } = await open(session.link, await tab());
  await sleep(3_000);
  await page.evaluate(() => window.meter.reset());
  const pids = streaming();
  const spent = () => pids.reduce((sum, pid) => sum + ticks(pid), 0);
  const [before, began] = [spent(), Date.now()];
  await sleep(ask.seconds * 1_000);
  const [cpu, seconds] = [spent() - before, (Date.now() - began) / 1_000];
  const still = await page.evaluate(() => ({ lags: window.meter.lags, gaps: window.meter.gaps, frames: window.meter.frames }));
  await page.evaluate(() => window.meter.reset());
  for (let i = 0; i < ask.clicks; i++) {
    await page.mouse.move(500 + ((i * 37) % 300), 300 + ((i * 53) % 250));
    await sleep(20 + Math.random() * 34);
    await page.mouse.down();
    await sleep(25);
    await page.mouse.up();
    await sleep(350 + Math.random() * 400);
  }
  const clicks = await page.evaluate(() => window.meter.clicks);
  if (ask.game && app === "latency-light") ages.light = await watch(page);
  await context.close();
  for (let i = 0; app === "latency-light" && i < ask.starts; i++) {
    const { link } = await call("POST", `/api/v1/sessions/${session.id}/link`);
    const again = await open(link, await tab());
    pages.push(again.first - again.began);
    await again.context.close();
  }
  await stop(session.id);
  return {
    draw_to_present_ms_p50: at(still.lags, 0.5),
    draw_to_present_ms_p95: at(still.lags, 0.95),
    presented_fps: Number((still.frames / seconds).toFixed(1)),
    present_gap_ms_p99: at(still.gaps, 0.99),
    server_cpu_ms_per_frame: still.frames ? Number((cpu / still.frames).toFixed(2)) : null,
    click_to_photon_ms_p50: at(clicks, 0.5),
    click_to_photon_ms_p95: at(clicks, 0.95),
    clicks_seen: clicks.length,
  };
};
const light = await phase("latency-light");
const full = await phase("latency-scroll");
if (ask.game) await level();
await browser.close();
const figures = { ...light, first_frame_ms_p50: at(requests, 0.5), first_frame_ms_p95: at(requests, 0.95), page_to_first_frame_ms_p50: at(pages, 0.5) };
for (const [name, value] of Object.entries(full)) figures[`full_scroll_${name}`] = value;
for (const [name, { aged, captured, seconds }] of Object.entries(ages)) {
  figures[`${name}_capture_to_present_ms_p50`] = at(aged, 0.5);
  figures[`${name}_capture_to_present_ms_p95`] = at(aged, 0.95);
  figures[`${name}_captured_fps`] = Number((captured / seconds).toFixed(1));
  figures[`${name}_presented_fps_of_captured`] = Number((aged.length / seconds).toFixed(1));
}
console.log(JSON.stringify(figures));
