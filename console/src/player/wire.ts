// What page, Gateway and Container say to each other: docs/streaming.md.

export interface SessionState {
  id: string;
  app: { name: string; version: string; title: string; keyboard: 'position' | 'text'; pointer: 'absolute' | 'relative' };
  state: 'matching' | 'opening' | 'starting' | 'running' | 'ended';
  why: string | null;
  width: number;
  height: number;
  fps: number;
  container: string | null;
  region: string | null;
  rate_usd_per_hour: number | null;
  rate_must_per_hour?: string | null;
  ran_ms: number;
  cost: string | null;
  ice_servers: RTCIceServer[] | null;
  microphone: boolean;
}

export interface JoinAnswer {
  key: string;
  sdp: string;
  state: SessionState;
}

export type InputMessage =
  | { t: 'key'; code: string; key: string; down: boolean }
  | { t: 'move'; x: number; y: number }
  | { t: 'rel'; dx: number; dy: number }
  | { t: 'button'; b: number; down: boolean; x?: number; y?: number }
  | { t: 'wheel'; dx: number; dy: number }
  | { t: 'touch'; id: number; phase: 'start' | 'move' | 'end'; x: number; y: number }
  | { t: 'pad'; i: number; id: string; axes: number[]; buttons: number[] }
  | { t: 'padgone'; i: number }
  | { t: 'release' };

export type ToContainer =
  | { t: 'ping'; at: number }
  | { t: 'keyframe' }
  | { t: 'code'; n: number }
  | { t: 'clip'; text: string }
  | { t: 'clipwanted'; on: boolean }
  | { t: 'limit'; bps: number };

export interface StreamStats {
  t: 'stats';
  fps: number;
  bps: number;
  loss: number;
  rtt: number;
  width: number;
  height: number;
  encode: number;
}

export interface Cursor {
  t: 'cursor';
  hidden?: boolean;
  x?: number;
  y?: number;
  w?: number;
  h?: number;
  hot?: [number, number];
  png?: string;
}

export type FromContainer =
  | { t: 'hello'; width: number; height: number; fps: number; codec: string }
  | { t: 'pong'; at: number; now: number }
  | { t: 'frames'; f: [number, number][] }
  | StreamStats
  | Cursor
  | { t: 'clip'; text: string }
  | { t: 'note'; code: string; text: string; seconds?: number | null }
  | { t: 'end'; text: string };

/** The longest clipboard text that may be sent, in bytes. */
export const CLIP_BYTES_MAX = 60 * 1024;
