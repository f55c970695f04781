// What the page of models is looked at for: deploying, talking, stopping, failing, comparing, snippets, and a phone.

import { KEY } from './fake-models.mjs';

export function modelScenes({ gateway, open, check, until, wait, shot, DESKTOP: desktop, PHONE: phone }) {
  const [DESKTOP, PHONE] = [desktop, phone].map((options) => ({ ...options, colorScheme: 'dark' }));
  const { models } = gateway;
  const says = (page, selector, words, ms) => until(async () => (await page.textContent(selector).catch(() => ''))?.includes(words), ms);
  const last = (page) => page.locator('.answer').last();
  const answered = (page, words) => until(async () => (await last(page).textContent()).includes(words));
  const settled = (page) => page.waitForSelector('button[aria-label="Send"]');

  /** Opens the page with the key in, at a model where one is named. */
  async function enter(options, name = '', key = KEY) {
    const { page, context } = await open(options, `${gateway.url}/models${name === '' ? '' : `#${name}`}`);
    await page.fill('input[type=password]', key);
    await page.click('text=Continue');
    return { page, context };
  }
  async function say(page, text) {
    await page.fill('.write textarea', text);
    await page.keyboard.press('Enter');
  }

  return {
    async deploy() {
      models.clear();
      models.stepMs = 450;
      const { page, context } = await open(DESKTOP, `${gateway.url}/models`);
      await page.waitForSelector('h1');
      await shot(page, 'desktop-models-key');
      await page.fill('input[type=password]', KEY);
      await page.click('text=Continue');
      await page.waitForSelector('.catalog li');
      check((await page.locator('.catalog h3').allTextContents()).includes('qwen3-0.6b'), 'the catalogue is shown where nothing is deployed');
      check((await page.textContent('.catalog .off')).includes('no Container here has 43 GiB'), 'what cannot be deployed says why');
      check((await page.locator('.catalog .off button').count()) === 0, 'and has no button');
      check((await page.textContent('.models')).includes('house-model'), 'what others share is in the list');
      await page.fill('input[type=search]', 'minil');
      check((await page.locator('.catalog li').count()) === 1, 'the catalogue is searched');
      await page.fill('input[type=search]', '');
      await page.click('button[aria-label="Choose tiny"]');
      await shot(page, 'desktop-models-catalog');
      await page.click('.options button:text-is("Deploy")');
      await page.waitForSelector('.steps li');
      await says(page, '.steps', '1 of 2 MiB', 5000);
      await shot(page, 'desktop-models-deploying');
      check((await page.textContent('.models .state')) === 'starting', 'the list says that it starts');
      await page.waitForSelector('.result');
      check(await says(page, '.result', 'its first token took', 5000), 'the time to its first token is told');
      const steps = await page.locator('.steps li span:last-child').allTextContents();
      check(
        JSON.stringify(steps) ===
          JSON.stringify(['Looking for a Container', 'Opening the lease: the deposit is paid', 'Starting: the weights arrive: 2 of 2 MiB', 'Starting: the model is loaded', 'Ready']),
        `each step is shown: ${JSON.stringify(steps)}`,
      );
      const result = await page.textContent('.result');
      check(/on Container c7f2a9, by llama\.cpp/.test(result) && result.includes('$0.10 in · $0.01 cached · $0.40 out'), `Container and price are named: ${result}`);
      check(JSON.stringify(models.calls.at(-1)) === JSON.stringify(['deploy', { catalog: 'tiny', name: 'tiny', replicas: { min: 1, max: 1 } }]), 'the catalogue’s name is what is sent');
      check(models.asked.at(-1)?.body.max_tokens === 1 && /\$0\.00000\d so far/.test(await page.textContent('.spent')), 'the one token that it took is in the cost');
      await shot(page, 'desktop-models-deployed');
      await say(page, 'Hello');
      await settled(page);
      check((await page.locator('.steps').count()) === 0, 'the steps give their room to the conversation');
      await page.reload();
      await page.waitForSelector('.composer');
      check((await page.locator('.steps').count()) === 0, 'after a reload it is simply there');
      await context.close();
    },

    async trouble() {
      models.clear();
      const one = models.deploy('big', 'chat', { why: 'no Container has 43 GiB of memory; the nearest lacks 12 GiB' });
      const { page, context } = await enter(DESKTOP, 'big');
      check(await says(page, '.steps', 'the nearest lacks 12 GiB', 5000), 'why nothing starts is told in words');
      check((await page.textContent('.title .state')) === 'in trouble', 'and it is marked');
      await shot(page, 'desktop-models-trouble');
      Object.assign(one, structuredClone(models.path.at(-1)), { why: null });
      check(await says(page, '.title .state', 'ready', 5000), 'it is ready once it is');
      await context.close();
      const wrong = await enter(DESKTOP, '', 'mk_wrong');
      check(await says(wrong.page, '.shell > .trouble', 'not known here', 5000), 'a wrong key is told');
      await wrong.page.click('text=Forget the key');
      await wrong.page.waitForSelector('input[type=password]');
      await wrong.context.close();
      const few = await enter(DESKTOP, 'house-model', 'mk_models');
      await few.page.waitForSelector('.composer');
      check((await few.page.textContent('aside')).includes('may ask models, and not deploy'), 'a key that may only ask sees what it may ask');
      check((await few.page.locator('aside .button').count()) === 0, 'and nothing to deploy with');
      await few.context.close();
    },

    async chat() {
      models.clear();
      models.ready('tiny', 'chat');
      models.ready('qwen3-0.6b', 'chat');
      const { page, context } = await enter(DESKTOP, 'tiny');
      await page.waitForSelector('.composer');
      check(await page.evaluate(() => document.activeElement?.tagName === 'TEXTAREA'), 'one can write at once');
      await page.keyboard.type('First line');
      await page.keyboard.press('Shift+Enter');
      await page.keyboard.type('second line');
      const text = '# Idle cards\n\nThey **wait** in `garages`:\n\n1. one\n2. two\n\n```python\nprint("hello")\n```\n\n| card | OB |\n|---|---|\n| a | 100 |\n\nThat is *all*.';
      models.answers.push({ pieces: text.match(/[\s\S]{1,6}/g), everyMs: 25 });
      const from = models.asked.length;
      await page.keyboard.press('Enter');
      await until(async () => (await last(page).textContent().catch(() => '')).includes('wait'));
      const half = await last(page).textContent();
      check(half.includes('wait') && !half.includes('That is'), 'text shows as it comes');
      check((await page.getAttribute('.turns', 'aria-busy')) === 'true', 'a screen reader is told that more comes');
      await settled(page);
      check((await page.getAttribute('.turns', 'aria-busy')) === 'false', 'and when it is whole');
      const asked = models.asked[from].body;
      check(asked.messages[0].content === 'First line\nsecond line', 'Shift and Enter make a new line, Enter sends');
      check(asked.stream_options?.include_usage === true && asked.temperature === undefined && asked.max_tokens === undefined, 'nothing is asked for that was not set');
      check((await page.locator('.said h3, .said strong, .said ol li, .said table td, .said pre').count()) >= 7, 'Markdown is drawn');
      const facts = await last(page).locator('.facts').textContent();
      check(/first token after \d+ ms · [\d.]+ tokens\/s · 12 in, \d+ out · \$0\.0000\d+/.test(facts), `the answer’s figures: ${facts}`);
      await shot(page, 'desktop-models-chat');

      // Thoughts, settings, and what was said before.
      await page.click('text=Settings');
      await page.fill('.wishes textarea', 'Be short.');
      await page.fill('.wishes input >> nth=0', '0.2');
      await page.fill('.wishes input >> nth=1', '64');
      models.answers.push({ reasoning: ['The person ', 'wants ', 'little.'], everyMs: 40, finish: 'length' });
      await say(page, 'Again');
      check(await says(page, '.thoughts p', 'The person', 4000), 'thoughts show while there is nothing else');
      await settled(page);
      check((await page.locator('.thoughts p').count()) === 0 && /Thought for \d/.test(await page.textContent('.thoughts')), 'and fold away once the answer is there');
      const second = models.asked.at(-1).body;
      check(
        second.temperature === 0.2 && second.max_tokens === 64 && second.messages.map(({ role }) => role).join() === 'system,user,assistant,user',
        'settings and the conversation go along',
      );
      check((await last(page).textContent()).includes('limit of tokens'), 'an answer that was cut off by its limit says so');
      await shot(page, 'desktop-models-settings');
      const spent = await page.textContent('.spent');
      const row = models.usageOf('tiny');
      check(spent.includes(`${row.input} in (${row.cached} cached)`) && spent.includes(`$${(row.usd_micro / 1e6).toFixed(6)}`), `the cost so far is the Gateway’s own: ${spent} ${JSON.stringify(row)}`);

      // A reload, and another model meanwhile.
      await page.reload();
      await page.waitForSelector('.answer');
      check((await page.locator('.answer').count()) === 2 && (await page.textContent('.spent')) === spent, 'a reload keeps conversation and cost');
      models.answers.push({ pieces: new Array(40).fill('word '), everyMs: 25 });
      await say(page, 'Write on');
      await until(async () => (await last(page).textContent()).includes('word'));
      await page.click('.models a:has-text("qwen3")');
      await page.waitForSelector('.begin');
      await page.click('.models a:has-text("tiny")');
      check(await until(async () => (await last(page).textContent()).match(/word/g)?.length === 40), 'an answer goes on while another model is looked at');
      await page.click('text=New conversation');
      check((await page.locator('.answer').count()) === 0, 'a conversation is begun anew');
      models.answers.push({ pieces: new Array(400).fill('word '), everyMs: 25 });
      await say(page, 'Write on');
      await until(async () => (await last(page).textContent()).includes('word'));
      await page.click('text=Forget the key');
      await page.waitForSelector('input[type=password]');
      check(await until(() => models.asked.at(-1).gone), 'forgetting the key ends what is being written');
      await wait(300);
      check((await page.evaluate(() => sessionStorage.length)) === 0, 'and nothing is kept of key and conversations');
      await context.close();
    },

    async stop() {
      models.clear();
      models.ready('tiny', 'chat');
      const { page, context } = await enter(DESKTOP, 'tiny');
      await page.waitForSelector('.composer');
      const start = models.usageOf('tiny')?.output ?? 0;
      const endless = { pieces: new Array(2000).fill('and '), everyMs: 20 };
      for (const [how, act] of [['the button', () => page.click('button[aria-label="Stop"]')], ['Escape', () => page.keyboard.press('Escape')]]) {
        const before = models.usageOf('tiny')?.requests ?? 0;
        models.answers.push(endless);
        await say(page, 'Count the sheep');
        await until(async () => ((await last(page).textContent().catch(() => '')).match(/and/g) ?? []).length > 5);
        await shot(page, 'desktop-models-streaming');
        await act();
        await settled(page);
        const request = models.asked.at(-1);
        check(await until(() => request.gone), `${how} ends the request itself`);
        const pieces = request.pieces;
        await wait(200);
        check(pieces < 1000 && request.pieces <= pieces + 1, `nothing more is drawn after ${how}: ${request.pieces} pieces`);
        await until(() => models.usageOf('tiny').requests === before + 1);
        const exact = `${models.usageOf('tiny').output - start} out`;
        check(await until(async () => (await page.textContent('.spent')).includes(exact), 8000), `what was drawn until ${how} is counted as the Gateway counts it: ${await page.textContent('.spent')}`);
        check(!(await page.textContent('.spent')).includes('about') && (await last(page).textContent()).includes('Stopped by you'), 'and is no estimate any more');
      }
      models.answers.push({ waitMs: 5000 });
      await say(page, 'Are you there?');
      await page.waitForSelector('.waiting');
      await page.keyboard.press('Escape');
      check(await answered(page, 'Stopped before the first token'), 'a request that waits is stopped as well');
      await say(page, 'And now?');
      check(await answered(page, 'this is an answer'), 'after that it answers again');
      await settled(page);
      const asked = models.asked.at(-1).body.messages;
      check(asked.every(({ content }) => content !== ''), 'nothing empty is sent along');
      await shot(page, 'desktop-models-stopped');
      await context.close();
    },

    async failures() {
      models.clear();
      models.ready('tiny', 'chat');
      const { page, context } = await enter(DESKTOP, 'tiny');
      await page.waitForSelector('.composer');
      const cases = [
        [{ status: 400, error: ['context_length_exceeded', 'the prompt has 3000 tokens and the context holds 2048'] }, ['3000 tokens', 'Begin a new conversation']],
        [{ status: 429, error: ['insufficient_quota', 'the budget of this key is $1.00, and $1.00 is spent'] }, ['The budget of this key', 'larger budget']],
        [{ status: 429, error: ['rate_limit_exceeded', 'the queue is full'], headers: { 'Retry-After': '3' } }, ['The queue is full.', 'in 3 s']],
        [{ status: 503, error: ['service_unavailable', 'the model tiny has no replica that is ready'] }, ['no replica', 'how the replicas stand']],
        [{ failAfter: 3 }, ['Hello, this', 'The engine broke while it answered.', 'Try again']],
        [{ cutAfter: 2 }, ['broke off', 'not whole']],
      ];
      for (const [like, words] of cases) {
        models.answers.push(like);
        await say(page, 'Hello?');
        await page.waitForSelector('.answer.failed');
        const told = await last(page).textContent();
        check(words.every((word) => told.includes(word)), `told: ${told}`);
        if (like.failAfter !== undefined) await shot(page, 'desktop-models-failed');
        await last(page).locator('button:text-is("Try again")').click();
        check(await answered(page, 'this is an answer'), 'and another try answers');
        await settled(page);
      }
      await page.route('**/v1/chat/completions', (route) => route.abort());
      await say(page, 'Hello?');
      check(await answered(page, 'The Gateway did not answer. Is the Gateway still running'), 'a Gateway that is gone is told');
      await context.close();
    },

    async snippet() {
      models.clear();
      models.ready('tiny', 'chat');
      const { page, context } = await enter(DESKTOP, 'tiny');
      await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: gateway.url });
      await page.click('[role=tab]:has-text("Code")');
      await page.click('button[aria-label="Copy the snippet"]');
      check(await says(page, '.panel-code .code-head button', 'Copied', 3000), 'copying is confirmed');
      const copied = await page.evaluate(() => navigator.clipboard.readText());
      check(copied.startsWith(`curl -N '${gateway.url}/v1/chat/completions'`) && copied.includes('YOUR_API_KEY') && copied.includes('"model": "tiny"'), `the snippet has address, model and a place for the key: ${copied.split('\n')[0]}`);
      check(!copied.includes(KEY), 'the page’s own key is not in it');
      await page.click('.snippets button:text-is("Python")');
      check((await page.textContent('.snippets pre')).includes(`OpenAI(\n    base_url="${gateway.url}/v1",\n    api_key="YOUR_API_KEY",\n)`), 'Python is there');
      await page.click('.snippets button:text-is("JavaScript")');
      check((await page.textContent('.snippets pre')).includes(`baseURL: "${gateway.url}/v1"`), 'JavaScript is there');
      await page.click('text=Make a key for it');
      check(await says(page, '.snippets pre', `mk_${'4f'.repeat(32)}`, 3000), 'a key that is made stands in the snippet');
      check(JSON.stringify(models.calls.at(-1)) === JSON.stringify(['key', { models: ['tiny'] }]), 'it opens this model alone');
      await shot(page, 'desktop-models-code');
      await page.focus('[role=tab][aria-selected=true]');
      await page.keyboard.press('ArrowRight');
      await page.waitForSelector('.details dl');
      await page.fill('.scale input >> nth=1', '3');
      await page.click('.scale button');
      await until(() => models.calls.at(-1)[0] === '/scale');
      check(JSON.stringify(models.calls.at(-1)) === JSON.stringify(['/scale', 'tiny', { min: 1, max: 3 }]), 'replicas are scaled');
      await page.click('text=Show what became of it');
      check(await says(page, '.log', '#1 engine: the model is loaded', 3000), 'the log is shown');
      await wait(2300);
      check((await page.textContent('.log')).match(/it answers/g).length === 1, 'and each line once');
      await shot(page, 'desktop-models-details');
      await page.click('.one > header >> text=Remove');
      await page.waitForSelector('dialog[open]');
      await shot(page, 'desktop-models-remove');
      await page.keyboard.press('Escape');
      await page.waitForSelector('dialog', { state: 'detached' });
      check(models.deployments.has('tiny'), 'Escape removes nothing');
      await page.click('.one > header >> text=Remove');
      await page.click('dialog >> button:text-is("Remove")');
      await page.waitForSelector('.catalog, .nothing');
      check(!models.deployments.has('tiny'), 'removing asks first, and then removes');
      await context.close();
    },

    async alike() {
      models.clear();
      models.ready('minilm', 'embedding');
      models.ready('story', 'completion');
      const { page, context } = await enter(DESKTOP, 'minilm');
      await page.click('button:text-is("Another text")');
      await page.fill('.alike .line >> nth=3 >> input', 'The market for stock fell.');
      await page.click('.alike button:text-is("Compare")');
      await page.waitForSelector('.likeness td');
      check(/The likest are 1 and 2, with 1\.000/.test(await page.textContent('.likeness')), `like sentences are found: ${await page.textContent('.likeness p')}`);
      check((await page.locator('.likeness tbody td').count()) === 16, 'each two are compared');
      check(/^24 in · \$0\.000003 so far$/.test(await page.textContent('.spent')), `and it cost what it cost: ${await page.textContent('.spent')}`);
      await shot(page, 'desktop-models-alike');
      await page.click('.models a:has-text("story")');
      await page.fill('.write textarea', 'Once upon a time ');
      await page.keyboard.press('Enter');
      check(await answered(page, 'Once upon a time Hello, this is an answer.'), 'a completion goes on with the text');
      check(models.asked.at(-1).path === '/v1/completions' && models.asked.at(-1).body.prompt === 'Once upon a time ', 'and is asked as one');
      await settled(page);
      await shot(page, 'desktop-models-completion');
      await context.close();
    },

    async modelsOnPhone() {
      models.clear();
      models.stepMs = 250;
      const { page, context } = await enter(PHONE);
      await page.tap('aside .button');
      await page.waitForSelector('.catalog li');
      await page.tap('button[aria-label="Choose qwen3-0.6b"]');
      await wait(200);
      await shot(page, 'phone-models-catalog');
      await page.tap('.options button:text-is("Deploy")');
      await says(page, '.steps', '2 of 2 MiB', 5000);
      await shot(page, 'phone-models-deploying');
      await page.waitForSelector('.result');
      await page.tap('.result button');
      models.answers.push({ reasoning: ['Hm, ', 'a greeting.'], pieces: ['A rather long answer ', 'with a `word_that_is_so_long_that_no_phone_has_room_for_all_of_its_letters_in_one_line`', ' in it.\n\n```\nconst line = "code that is wider than the screen of a phone, and scrolls";\n```'], everyMs: 60 });
      await page.fill('.write textarea', 'Hello from a phone');
      await page.tap('button[aria-label="Send"]');
      await settled(page);
      await wait(300);
      await shot(page, 'phone-models-chat');
      const wide = () => page.evaluate(() => document.documentElement.scrollWidth);
      check((await wide()) === 390, 'nothing is wider than the phone');
      for (const tab of ['Code', 'Details']) {
        await page.tap(`[role=tab]:has-text("${tab}")`);
        await wait(100);
        check((await wide()) === 390, `${tab}: nothing is wider than the phone`);
        await shot(page, `phone-models-${tab.toLowerCase()}`);
      }
      await page.tap('.back');
      await page.waitForSelector('aside .models');
      await wait(100);
      await shot(page, 'phone-models-list');
      await context.close();
      models.ready('minilm', 'embedding');
      const light = await enter({ ...PHONE, colorScheme: 'light' }, 'minilm');
      await light.page.tap('.alike button:text-is("Compare")');
      await light.page.waitForSelector('.likeness td');
      check((await light.page.evaluate(() => document.documentElement.scrollWidth)) === 390, 'comparing: nothing is wider than the phone');
      await shot(light.page, 'phone-light-models-alike');
      await light.context.close();
      const desk = await enter({ ...DESKTOP, colorScheme: 'light' }, 'qwen3-0.6b');
      await desk.page.waitForSelector('.composer');
      await say(desk.page, 'Hello');
      await settled(desk.page);
      await shot(desk.page, 'desktop-light-models-chat');
      await desk.page.goto(`${gateway.url}/`);
      await desk.page.waitForSelector('.start');
      await shot(desk.page, 'desktop-light-home');
      await desk.context.close();
    },
  };
}
