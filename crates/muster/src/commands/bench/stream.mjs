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
const open = async (link) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 720 } });
  await context.addInitScript(inPage);
  const page = await context.newPage();
  const began = Date.now();
  await page.goto(link, { waitUntil: "commit" });
  const first = await page.waitForFunction(() => window.meter && window.meter.first, null, { timeout: 30_000, polling: 20 });
  return { page, context, began, first: await first.jsonValue() };
};

const requests = [], pages = [];
for (let i = 0; i < ask.starts; i++) {
  const asked = Date.now();
  const session = await start("latency");
  const { context, first } = await open(session.link);
  requests.push(first - asked);
  await context.close();
  await stop(session.id);
}

const phase = async (app) => {
  const session = await start(app);
  const { page, context } = await open(session.link);
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
  await context.close();
  for (let i = 0; app === "latency-light" && i < ask.starts; i++) {
    const { link } = await call("POST", `/api/v1/sessions/${session.id}/link`);
    const again = await open(link);
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
await browser.close();
const figures = { ...light, first_frame_ms_p50: at(requests, 0.5), first_frame_ms_p95: at(requests, 0.95), page_to_first_frame_ms_p50: at(pages, 0.5) };
for (const [name, value] of Object.entries(full)) figures[`full_scroll_${name}`] = value;
console.log(JSON.stringify(figures));
