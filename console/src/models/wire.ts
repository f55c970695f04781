/** What the Gateway tells of models. */

import type { Price } from '../pure/money';
import type { Kind } from '../pure/snippets';

/** A model of the catalogue. */
export interface CatalogEntry {
  name: string;
  about: string;
  kind: Kind;
  licence: string;
  parameters: number;
  context: number | null;
  bytes: number | null;
  recipe?: { engine: string; quantisation: string }[];
  /** Whether it can be deployed from here. */
  deployable: boolean;
  /** Why not. */
  why: string;
}

export interface Replica {
  state: string;
  why: string | null;
  lease: string | null;
  container: string | null;
  engine: string | null;
  held: number;
  input_tokens: number;
  cached_tokens: number;
  output_tokens: number;
  paid: string;
}

export interface Deployment {
  id: string;
  name: string;
  kind: Kind;
  version: number;
  created_s: number;
  shared: boolean;
  edge?: boolean;
  sha256: string;
  bytes: number;
  context: number;
  parallel: number;
  replicas: { min: number; max: number };
  wanted: number;
  ready: number;
  /** How many of those that answer are of the present version. */
  updated?: number;
  why: string | null;
  price_usd: Price | null;
  running: Replica[];
}

/** A line of a deployment's log. */
export interface LogLine {
  number: number;
  at_ms: number;
  replica: number | null;
  from: string;
  text: string;
}

/** A line of `/v1/models`. */
export interface Listed {
  id: string;
  owned_by: string;
  context_length: number;
  price_usd_micro_per_million_tokens: Price;
}

/** A line of `/v1/usage`: this month's. */
export interface Used {
  model: string;
  requests: number;
  input: number;
  cached: number;
  output: number;
  usd_micro: number;
}

/** A model that can be asked: one's own deployment, or one that somebody shares. */
export interface Model {
  name: string;
  kind: Kind;
  context: number;
  price: Price | null;
  owner: string | null;
  deployment: Deployment | null;
}

export const pathOf = (name: string, rest = ''): string => `models/${encodeURIComponent(name)}${rest}`;
