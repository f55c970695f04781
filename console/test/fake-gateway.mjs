// A Gateway for the tests: serves dist/ under the real content security policy, and passes offers and answers between
// the page and test/container.html.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { webcrypto } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import path from 'node:path';
import { fakeModels } from './fake-models.mjs';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const DIST = path.join(HERE, '..', 'dist');
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; " +
  "media-src 'self' blob:; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TYPES = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.html': 'text/html; charset=utf-8' };

export async function startGateway(port = 0) {
  const sessions = new Map();
  const reports = [];
  const joins = [];
  let offers = [];
  let takers = [];
  const answers = new Map();
  const models = fakeModels();
  let requests = 0;

  const gateway = {
    models,
    reports,
    joins,
    sessions,
    /** Makes a session; `path` is its states, each with how long it lasts. */
    session(id, { token = 'tok', app = {}, path: states = [['running', 0]], ...more } = {}) {
      const session = {
        token,
        key: null,
        publicKey: null,
        receipts: [],
        polls: [],
        state: {
          id,
          app: { name: 'neverball', version: '1.6.0', title: 'Neverball', keyboard: 'position', pointer: 'absolute', ...app },
          state: states[0][0],
          why: null,
          width: 1280,
          height: 720,
          fps: 30,
          container: 'c7f2a9',
          region: 'ca-east',
          rate_usd_per_hour: 0.42,
          ran_ms: 0,
          cost: '0.0012 MUST',
          ice_servers: [],
          microphone: true,
          ...more,
        },
      };
      sessions.set(id, session);
      let at = 0;
      for (const [state, ms] of states) {
        setTimeout(() => session.state.state !== 'ended' && (session.state.state = state), at);
        at += ms;
      }
      return session;
    },
    end(id, why, ran = 83_000) {
      Object.assign(sessions.get(id).state, { state: 'ended', why, ran_ms: ran, cost: '0.0097 MUST' });
    },
    close: () => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))),
  };

  const send = (response, status, body) => {
    response.writeHead(status, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' });
    response.end(JSON.stringify(body));
  };
  const refuse = (response, status, code, message) => send(response, status, { error: { code, message } });

  async function join(session, body, response, gone) {
    joins.push({ ...body, at: Date.now() });
    if (body.key !== undefined ? body.key !== session.key : body.token !== session.token) {
      return refuse(response, 403, 'token_wrong', 'The token is not that of this session.');
    }
    if (body.token !== undefined && session.key !== null) return refuse(response, 403, 'token_used', 'Somebody has used this link already.');
    const until = Date.now() + 30_000;
    while (session.state.state !== 'running') {
      if (session.state.state === 'ended') return refuse(response, 410, 'session_ended', session.state.why);
      if (Date.now() > until) return refuse(response, 503, 'not_ready', 'Still starting.');
      if (gone()) return undefined;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const request = ++requests;
    offers.push({ request, sdp: body.sdp, fps: session.state.fps });
    flush();
    const sdp = await new Promise((resolve) => answers.set(request, resolve));
    if (body.token !== undefined) {
      session.key = `key-${Math.random().toString(36).slice(2)}`;
      session.publicKey = body.public_key;
    }
    return send(response, 200, { key: session.key, sdp, state: session.state });
  }

  function flush() {
    if (offers.length === 0) return;
    const taker = takers.pop();
    if (taker === undefined) return;
    const taken = offers;
    offers = [];
    send(taker, 200, taken);
  }

  async function receipt(session, body, response) {
    const key = await webcrypto.subtle.importKey('spki', Buffer.from(session.publicKey, 'base64'), { name: 'ECDSA', namedCurve: 'P-256' }, false, ['verify']);
    const good = await webcrypto.subtle.verify(
      { name: 'ECDSA', hash: 'SHA-256' },
      key,
      Buffer.from(body.signature, 'base64'),
      new TextEncoder().encode(body.payload),
    );
    session.receipts.push({ good, payload: JSON.parse(body.payload), text: body.payload });
    return send(response, good ? 200 : 400, good ? {} : { error: { code: 'bad_signature', message: 'The signature is not right.' } });
  }

  async function file(response, name, csp) {
    try {
      const content = await readFile(name);
      response.writeHead(200, {
        'Content-Type': TYPES[path.extname(name)] ?? 'application/octet-stream',
        ...(csp ? { 'Content-Security-Policy': CSP } : {}),
      });
      response.end(content);
    } catch {
      response.writeHead(404).end();
    }
  }

  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://x');
    let text = '';
    for await (const chunk of request) text += chunk;
    const body = text === '' ? {} : JSON.parse(text);
    let closed = false;
    response.on('close', () => (closed = true));
    if (await models.handle(request, response, pathname, body, send)) return undefined;
    if (pathname === '/__container') return file(response, path.join(HERE, 'container.html'), false);
    if (pathname === '/__fake/offers') {
      takers = [response];
      return flush();
    }
    if (pathname === '/__fake/answer') {
      answers.get(body.request)?.(body.sdp);
      answers.delete(body.request);
      return send(response, 200, {});
    }
    if (pathname === '/__fake/report') {
      reports.push({ ...body, at: Date.now() });
      return send(response, 200, {});
    }
    if (pathname === '/api/v1/sessions' && request.method === 'GET') return send(response, 200, [...sessions.values()].map(({ state }) => state));
    if (pathname === '/api/v1/sessions') {
      const id = `s${sessions.size + 1}`;
      const { state } = gateway.session(id, { width: body.width, height: body.height, fps: body.fps });
      return send(response, 201, { ...state, link: `http://${request.headers.host}/s/${id}#tok`, token_expires_at: Date.now() + 120_000 });
    }
    const [, id, verb] = /^\/api\/v1\/sessions\/([^/]+)(?:\/(\w+))?$/.exec(pathname) ?? [];
    if (id !== undefined) {
      const session = sessions.get(id);
      if (session === undefined) return refuse(response, 404, 'unknown_session', 'There is no session of this name here.');
      if (verb === undefined) {
        session.polls.push({ bearer: request.headers.authorization, state: session.state.state });
        return send(response, 200, session.state);
      }
      if (verb === 'join') return join(session, body, response, () => closed);
      if (request.headers.authorization !== `Bearer ${session.key}`) return refuse(response, 401, 'unauthorized', 'Not the player’s key.');
      if (verb === 'receipts') return receipt(session, body, response);
      if (verb === 'stop') {
        gateway.end(id, 'You stopped the session.');
        return send(response, 200, session.state);
      }
    }
    if (pathname.startsWith('/s/')) return file(response, path.join(DIST, 'play.html'), true);
    if (pathname === '/models') return file(response, path.join(DIST, 'models.html'), true);
    if (pathname === '/') return file(response, path.join(DIST, 'index.html'), true);
    return file(response, path.join(DIST, path.normalize(pathname)), true);
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  gateway.url = `http://127.0.0.1:${server.address().port}`;
  return gateway;
}
