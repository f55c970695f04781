import { describe, expect, it } from 'vitest';
import { answerTimeoutMs, backoffMs } from './backoff';
import { ClockOffset } from './clock';
import { FrameLog, freezeThreshold, percentile } from './frames';
import { keyOf } from './keys';
import { RelativeMotion, drawnRect, inPicture } from './picture';
import { base64, canonical, canonicalReceipt } from './receipt';
import { apart, preferred, withStereo, onlyLoopback } from './sdp';
import { CELL, CELLS, STRIP_HEIGHT, STRIP_WIDTH, checkSum, decodeStrip, encodeCells } from './strip';
import { notches } from './wheel';

describe('places in the picture', () => {
  it('stands in the middle, with bars at the sides or above and below', () => {
    expect(drawnRect({ left: 0, top: 0, width: 2000, height: 720 }, 1280, 720)).toEqual({ left: 360, top: 0, width: 1280, height: 720 });
    expect(drawnRect({ left: 10, top: 20, width: 640, height: 1000 }, 1280, 720)).toEqual({ left: 10, top: 340, width: 640, height: 360 });
  });

  it('maps points, and holds points in the bars to the edge', () => {
    const drawn = drawnRect({ left: 0, top: 0, width: 2000, height: 720 }, 1280, 720);
    expect(inPicture(drawn, 360, 0)).toEqual({ x: 0, y: 0 });
    expect(inPicture(drawn, 1000, 180)).toEqual({ x: 0.5, y: 0.25 });
    expect(inPicture(drawn, 5, 800)).toEqual({ x: 0, y: 1 });
  });

  it('does not divide by nothing', () => {
    expect(inPicture(drawnRect({ left: 0, top: 0, width: 0, height: 0 }, 0, 0), 3, 4)).toEqual({ x: 0, y: 0 });
  });

  it('keeps fractions of relative movement', () => {
    const motion = new RelativeMotion();
    motion.add(1, -1, 0.6);
    expect(motion.take()).toBeNull();
    motion.add(1, -1, 0.6);
    expect(motion.take()).toEqual({ dx: 1, dy: -1 });
    motion.add(4, 0, 0.2);
    expect(motion.take()).toEqual({ dx: 1, dy: 0 });
  });
});

describe('the wheel', () => {
  it('counts notches in pixels, lines and pages', () => {
    expect(notches(100, 0)).toBe(1);
    expect(notches(-120, 0)).toBe(-1);
    expect(notches(240, 0)).toBe(2);
    expect(notches(600, 0)).toBe(6);
    expect(notches(3, 1)).toBe(1);
    expect(notches(1, 2)).toBe(8);
    expect(notches(4, 0)).toBe(0.04);
    expect(notches(Number.NaN, 0)).toBe(0);
  });
});

/** A strip as it comes out of a codec: studio range, smeared edges, noise. */
function strip(code: number, noise: number, stride = STRIP_WIDTH): Uint8Array {
  const luma = new Uint8Array(stride * STRIP_HEIGHT);
  const cells = encodeCells(code);
  let seed = code ^ 0x9e3779b9;
  for (let y = 0; y < STRIP_HEIGHT; y++) {
    for (let x = 0; x < STRIP_WIDTH; x++) {
      seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
      const inner = cells[Math.floor(x / CELL)] ?? 0;
      const next = cells[Math.floor((x + 1) / CELL)] ?? inner;
      const mixed = 16 + 219 * (x % CELL === CELL - 1 ? (inner + next) / 2 : inner);
      luma[y * stride + x] = Math.min(255, Math.max(0, mixed + (((seed >>> 16) / 65535) * 2 - 1) * noise));
    }
  }
  return luma;
}

describe('the code in the picture', () => {
  it('has 40 cells and a check sum', () => {
    const cells = encodeCells(0xabcd1234);
    expect(cells).toHaveLength(CELLS);
    expect(cells.slice(0, 12)).toEqual([1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1]);
    expect(checkSum(0xabcd1234)).toBe((10 + 11 + 12 + 13 + 1 + 2 + 3 + 4) % 16);
  });

  it('is read back, also under noise', () => {
    for (const code of [0, 1, 0xffffffff, 2882400001, 0xdeadbeef]) {
      for (const noise of [0, 30, 70]) expect(decodeStrip(strip(code, noise), 0, STRIP_WIDTH)).toBe(code);
    }
  });

  it('is read with a wider stride, from an offset and from RGBA', () => {
    const inner = strip(2882400001, 20, 512);
    const shifted = new Uint8Array(inner.length + 7);
    shifted.set(inner, 7);
    expect(decodeStrip(shifted, 7, 512)).toBe(2882400001);
    const rgba = new Uint8ClampedArray(STRIP_WIDTH * STRIP_HEIGHT * 4);
    strip(77, 10).forEach((value, i) => rgba.fill(value, i * 4, i * 4 + 4));
    expect(decodeStrip(rgba, 0, STRIP_WIDTH * 4, 4)).toBe(77);
  });

  it('is not seen where there is none, or where a bit is wrong', () => {
    expect(decodeStrip(new Uint8Array(STRIP_WIDTH * STRIP_HEIGHT).fill(128), 0, STRIP_WIDTH)).toBeNull();
    const luma = strip(0x12345678, 0);
    for (let y = 0; y < 8; y++) for (let x = 0; x < 8; x++) luma[y * STRIP_WIDTH + 6 * CELL + x] = 235;
    expect(decodeStrip(luma, 0, STRIP_WIDTH)).toBeNull();
  });
});

describe('the clock', () => {
  it('believes the sample with the shortest round trip', () => {
    const clock = new ClockOffset();
    expect(clock.offset).toBeNull();
    clock.add(1000, 1100, 501_000);
    clock.add(2000, 2010, 502_005);
    clock.add(3000, 3300, 503_290);
    expect(clock.offset).toBe(500_000);
    expect(clock.rtt).toBe(300);
    clock.add(5000, 4000, 1);
    expect(clock.offset).toBe(500_000);
  });
});

describe('frames', () => {
  const play = (log: FrameLog, count: number, first: number, at: number): void => {
    for (let i = 0; i < count; i++) log.show(first + i, at + i * 20);
  };
  const said = (count: number, first: number, at: number): [number, number][] =>
    Array.from({ length: count }, (_, i) => [first + i, at + i * 20]);

  it('are as old as the clocks say', () => {
    const log = new FrameLog();
    play(log, 3, 100, 1000);
    log.sent(said(3, 100, 900_970), 900_000);
    expect(log.takeLatencies()).toEqual([30, 30, 30]);
    expect(log.takeLatencies()).toEqual([]);
  });

  it('freeze where frames were sent and none was shown', () => {
    const log = new FrameLog();
    play(log, 20, 0, 1000);
    play(log, 5, 45, 1900);
    log.sent(said(50, 0, 990), 0);
    expect(log.takeFreezes()).toEqual({ count: 1, ms: 520 - 20 });
    expect(log.takeFreezes()).toEqual({ count: 0, ms: 0 });
  });

  it('do not freeze where the picture stood still', () => {
    const log = new FrameLog();
    play(log, 20, 0, 1000);
    play(log, 5, 20, 5000);
    log.sent([...said(20, 0, 990), ...said(5, 20, 4990)], 0);
    expect(log.takeFreezes()).toEqual({ count: 0, ms: 0 });
  });

  it('freeze where a frame came late', () => {
    const log = new FrameLog();
    play(log, 20, 0, 1000);
    log.show(20, 1800);
    log.sent(said(21, 0, 990), 0);
    expect(log.takeFreezes().count).toBe(1);
  });

  it('have WebRTC’s threshold', () => {
    expect(freezeThreshold(16)).toBe(166);
    expect(freezeThreshold(100)).toBe(300);
  });

  it('have percentiles', () => {
    expect(percentile([], 0.95)).toBeNull();
    expect(percentile([5, 1, 3, 2, 4], 0.5)).toBe(3);
    expect(percentile(Array.from({ length: 100 }, (_, i) => i + 1), 0.95)).toBe(95);
  });
});

describe('reconnecting', () => {
  it('waits ever longer, up to two seconds', () => {
    expect([0, 1, 2, 3, 4, 50].map(backoffMs)).toEqual([0, 250, 500, 1000, 2000, 2000]);
    expect([0, 1, 2, 3, 4, 5].map(answerTimeoutMs)).toEqual([2500, 2500, 8000, 2500, 2500, 8000]);
  });
});

describe('answers', () => {
  it('tell whether they lead to this machine alone', () => {
    const answer = (...addresses: string[]): string =>
      addresses.map((address, at) => `a=candidate:${at} 1 udp 2130706175 ${address} 4711 typ host\r\n`).join('');
    expect(onlyLoopback(answer('127.0.0.1'))).toBe(true);
    expect(onlyLoopback(answer('127.0.0.1', '::1'))).toBe(true);
    expect(onlyLoopback(answer('127.0.0.1', '192.0.2.7'))).toBe(false);
    expect(onlyLoopback('v=0\r\n')).toBe(false);
  });
});

describe('receipts', () => {
  it('have one form', () => {
    const text = canonicalReceipt({
      session: 's1', seq: 3, from: 1000.4, to: 11000.6, fps: 59.94, latency_p95_ms: 41.26, loss: 0.00123456, bitrate_bps: 3200000.7,
      freezes: 0, freeze_ms: 0, width: 1280, height: 720, codes: [{ seen: 5000.2, code: 2882400001, asked: 4900.9 }, { code: 1, asked: 2, seen: null }],
    });
    expect(text).toBe(
      '{"bitrate_bps":3200001,"codes":[{"asked":4901,"code":2882400001,"seen":5000},{"asked":2,"code":1,"seen":null}],"fps":59.9,' +
        '"freeze_ms":0,"freezes":0,"from":1000,"height":720,"latency_p95_ms":41.3,"loss":0.0012,"seq":3,"session":"s1","to":11001,"width":1280}',
    );
  });

  it('sort keys at every depth and escape text', () => {
    expect(canonical({ b: [1, { d: null, c: 'ä"\n' }], a: true })).toBe('{"a":true,"b":[1,{"c":"ä\\"\\n","d":null}]}');
  });

  it('carry bytes as base64', () => {
    expect(base64(new Uint8Array([0, 1, 254, 255]).buffer)).toBe('AAH+/w==');
  });
});

describe('text from a phone', () => {
  it('becomes keys', () => {
    expect(keyOf('a')).toEqual({ code: 'KeyA', key: 'a', shift: false });
    expect(keyOf('Q')).toEqual({ code: 'KeyQ', key: 'Q', shift: true });
    expect(keyOf('?')).toEqual({ code: 'Slash', key: '?', shift: true });
    expect(keyOf('\n')).toEqual({ code: 'Enter', key: 'Enter', shift: false });
    expect(keyOf('ß')).toEqual({ code: '', key: 'ß', shift: false });
  });
});

describe('SDP', () => {
  it('asks for stereo once', () => {
    const sdp = 'm=audio 9\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\na=x\r\n';
    const stereo = withStereo(sdp);
    expect(stereo).toContain('a=fmtp:111 minptime=10;useinbandfec=1;stereo=1\r\n');
    expect(withStereo(stereo)).toBe(stereo);
  });

  it('keeps picture and sound apart', () => {
    const sdp = 'v=0\r\nm=video 9\r\na=msid:one v\r\na=ssrc:5 msid:one v\r\nm=audio 9\r\na=msid:one a\r\n';
    expect(apart(sdp)).toBe('v=0\r\nm=video 9\r\na=msid:muster-video v\r\na=ssrc:5 msid:muster-video v\r\nm=audio 9\r\na=msid:muster-audio a\r\n');
  });

  it('prefers H.264 and then VP8', () => {
    const codecs = [
      { mimeType: 'video/VP8' }, { mimeType: 'video/rtx' }, { mimeType: 'video/VP9' },
      { mimeType: 'video/H264', sdpFmtpLine: 'level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640c1f' },
      { mimeType: 'video/H264', sdpFmtpLine: 'level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f' },
      { mimeType: 'video/H264', sdpFmtpLine: 'level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f' },
    ];
    expect(preferred(codecs).map((codec) => codecs.indexOf(codec))).toEqual([5, 3, 0, 1]);
    expect(preferred([{ mimeType: 'video/AV1' }, { mimeType: 'video/rtx' }])).toEqual([]);
  });
});
