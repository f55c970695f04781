// Deploys a model of a real Gateway's catalogue in Chromium, talks to it, stops it in mid-answer, runs its snippet, and
// removes it. `npm run build` is not needed: the Gateway serves its own pages.
//   node test/live-models.mjs --url http://127.0.0.1:8600 --key-file FILE [--model tiny] [--clients DIR] [--shots DIR]
// FILE holds an API key without limits that nobody else uses meanwhile. DIR is where muster-gateway's
// tests/clients/install.sh has put OpenAI's clients: their snippets are run as well then. Ends with status 1 where a check
// failed.

import { chromium } from 'playwright-core';
import { execFileSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';

const { values: args } = parseArgs({
  options: { url: { type: 'string' }, 'key-file': { type: 'string' }, model: { type: 'string', default: 'tiny' }, clients: { type: 'string' }, shots: { type: 'string' } },
});
const key = (await readFile(args['key-file'], 'utf8')).trim();
const NAME = `page-${args.model}`;
/** For what a shared machine that is paused now and then may take. */
const PATIENCE_MS = 120_000;

let failed = 0;
function check(good, text) {
  console.log(`${good ? 'ok  ' : 'FAIL'} ${text}`);
  if (!good) failed += 1;
}
async function until(what, ms = PATIENCE_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await what();
    if (value) return value;
    if (Date.now() > end) return null;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
async function used() {
  const response = await fetch(`${args.url}/v1/usage`, { headers: { authorization: `Bearer ${key}` } });
  const { data } = await response.json();
  return data.find(({ model }) => model === NAME) ?? { requests: 0, input: 0, cached: 0, output: 0, usd_micro: 0 };
}

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'] });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'dark' });
context.setDefaultTimeout(PATIENCE_MS);
const page = await context.newPage();
const problems = [];
page.on('pageerror', (error) => problems.push(String(error)));
page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
if (args.shots) await mkdir(args.shots, { recursive: true });
const shot = (name) => (args.shots ? page.screenshot({ path: path.join(args.shots, `${name}.png`) }) : null);
const last = page.locator('.answer').last();
const settled = () => page.waitForSelector('button[aria-label="Send"]');
async function say(text) {
  await page.fill('.write textarea', text);
  await page.keyboard.press('Enter');
}

try {
  const before = await used();
  await page.goto(`${args.url}/models`);
  await page.fill('input[type=password]', key);
  await page.click('text=Continue');
  await page.click('aside .button');
  await page.click(`button[aria-label="Choose ${args.model}"]`);
  await page.fill('.options input >> nth=0', NAME);
  await page.click('.options button:text-is("Deploy")');
  await until(async () => /took [\d.]+ ms/.test(await page.textContent('.result').catch(() => '')));
  const result = await page.textContent('.result').catch(() => '');
  check(/answers after [\d.]+ s on Container \w+, by .+; its first token took [\d.]+ ms/.test(result), `deployed: ${result}`);
  console.log(`     ${(await page.locator('.steps li').allTextContents()).join(' | ')}`);
  await shot('live-models-deployed');

  await page.click('text=Settings');
  await page.fill('.wishes input >> nth=1', '24');
  let facts = '';
  // Random weights may end an answer before it has begun.
  for (let tries = 0; tries < 10 && !facts.includes('tokens/s'); tries += 1) {
    await say('hello');
    await page.waitForSelector('.answer');
    await settled();
    facts = await last.locator('.facts').textContent();
  }
  check(/first token after .* tokens\/s · [\d,]+ in.* out · \$\d/.test(facts), `an answer came with its figures: ${facts}`);
  await shot('live-models-chat');

  await page.fill('.wishes input >> nth=1', '1500');
  for (let tries = 0; tries < 20 && !(await last.getAttribute('class')).includes('stopped'); tries += 1) {
    await say('go on and on');
    const began = await until(async () => /about [\d,]+ out/.test(await last.locator('.facts').textContent()) || !(await page.isVisible('button[aria-label="Stop"]')));
    if (began) await page.click('button[aria-label="Stop"]', { timeout: 1000 }).catch(() => console.log('     it had ended already'));
    await settled();
  }
  check((await last.getAttribute('class')).includes('stopped'), 'an answer is stopped in its middle');
  check(await until(async () => !(await page.textContent('.spent')).includes('about')), 'its count is learnt');
  const spent = await page.textContent('.spent');
  const now = await used();
  const [input, output, micro] = [now.input - before.input, now.output - before.output, now.usd_micro - before.usd_micro];
  const told = spent.replaceAll(',', '').match(/^(\d+) in.* (\d+) out · \$([\d.]+) so far/);
  check(told && Number(told[1]) === input && Number(told[2]) === output, `the page's tokens are the Gateway's, ${input} in and ${output} out: ${spent}`);
  check(told && Math.round(Number(told[3]) * 1e6) === micro, `the page's cost is the Gateway's, ${micro} millionths of a dollar`);
  const stopped = await last.locator('.facts').textContent();
  check(Number(stopped.replaceAll(',', '').match(/ (\d+) out/)?.[1]) < 1500, `after the stop nothing more was drawn: ${stopped}`);
  await shot('live-models-stopped');

  await page.click('[role=tab]:has-text("Code")');
  await page.click('text=Make a key for it');
  await page.waitForSelector('.snippets p[role=status]');
  const snippet = await page.textContent('.snippets pre');
  check(!snippet.includes('YOUR_API_KEY') && !snippet.includes(key), 'a key of its own stands in the snippet');
  const answer = execFileSync('bash', ['-c', snippet], { encoding: 'utf8', timeout: PATIENCE_MS, stdio: ['ignore', 'pipe', 'ignore'] });
  check(answer.trimEnd().endsWith('data: [DONE]'), 'the curl snippet runs as it was copied');
  if (args.clients) {
    // Random weights may say nothing at first.
    const run = (program, file) => {
      let said = '';
      for (let tries = 0; tries < 10 && said.trim() === ''; tries += 1) said = execFileSync(program, [file], { encoding: 'utf8', timeout: PATIENCE_MS });
      return said;
    };
    for (const [language, program, file] of [['Python', path.join(args.clients, 'venv/bin/python'), 'js/snippet.py'], ['JavaScript', 'node', 'js/snippet.mjs']]) {
      await page.click(`.snippets button:text-is("${language}")`);
      await writeFile(path.join(args.clients, file), await page.textContent('.snippets pre'));
      const said = run(program, path.join(args.clients, file));
      check(said.trim() !== '', `the ${language} snippet runs as it was copied: ${JSON.stringify(said.slice(0, 40))}`);
    }
  }

  await page.click('.one > header >> text=Remove');
  await page.click('dialog >> button:text-is("Remove")');
  await page.waitForSelector('.one', { state: 'detached' });
  const gone = await fetch(`${args.url}/api/v1/models/${NAME}`, { headers: { authorization: `Bearer ${key}` } });
  check(gone.status === 404, 'it is removed');
} catch (error) {
  check(false, error.message);
  await shot('live-models-failed');
} finally {
  await browser.close();
}
check(problems.length === 0, `no errors in the page${problems.length > 0 ? `: ${problems.join('\n')}` : ''}`);
console.log(failed === 0 ? 'all good' : `${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
