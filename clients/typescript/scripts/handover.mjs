// Measures how long tabs wait for a notification after the tab that leads has gone, in Chromium.
//
//   node scripts/handover.mjs [--rounds 10] [--tabs 3]
//
// Needs what the browser tests need: a built hub (target/ or RECADO_HUB_BIN), PostgreSQL's programs, Chromium
// (CHROMIUM, default /usr/bin/chromium). In each round a new profile opens the tabs, a service posts every 20 ms, and
// the leader is closed, killed or paused. A round fails if another tab misses a number or has one twice.
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { cpus, loadavg } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '10' }, tabs: { type: 'string', default: '3' } },
});
const [rounds, count] = [values.rounds, values.tabs].map(Number);
if (!(rounds >= 1 && count >= 2)) throw new Error('--rounds must be at least 1, and --tabs at least 2');

/** A tab is shown so long after the leader was paused. */
const SHOWN_AFTER_MS = 500;
const POST_EVERY_MS = 20;
const LIMIT_MS = 60_000;
const rest = (ms) => new Promise((done) => setTimeout(done, ms));

/** Ways in which a leader ends. Each returns what undoes it. */
const WAYS = {
  'tab closed': (leader) => leader.close(),
  'renderer killed': async (leader) => {
    const session = await leader.context().newCDPSession(leader);
    session.send('Page.crash').catch(() => {});
  },
  'page paused, another tab shown after 0.5 s': async (leader, followers) => {
    await pause(leader);
    rest(SHOWN_AFTER_MS).then(() => followers[0].evaluate(() => window.dispatchEvent(new Event('focus'))));
  },
  'page paused, no tab touched': (leader) => pause(leader),
};

async function pause(page) {
  const session = await page.context().newCDPSession(page);
  await session.send('Debugger.enable');
  await session.send('Debugger.pause');
}

/** The hub and the browser of the tests, in the language of this script. */
async function support() {
  const folder = mkdtempSync(resolve('node_modules', '.handover-'));
  try {
    const entryPoints = ['test/support/hub.ts', 'test/support/browser.ts'];
    const options = { bundle: true, platform: 'node', format: 'esm', target: 'node20', packages: 'external' };
    // hub.ts looks for the hub relative to itself.
    const define = { 'import.meta.url': JSON.stringify(pathToFileURL(resolve('test/support/hub.ts')).href) };
    await build({ ...options, entryPoints, outdir: folder, outExtension: { '.js': '.mjs' }, define });
    const [hub, browser] = await Promise.all(
      ['hub.mjs', 'browser.mjs'].map((name) => import(pathToFileURL(join(folder, name)).href)),
    );
    return { ...hub, ...browser };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const { Hub, userToken, launch } = await support();
const { outputFiles } = await build({
  entryPoints: ['test/browser/page.ts'],
  bundle: true,
  format: 'esm',
  target: 'es2022',
  write: false,
});
const server = createServer((request, response) => {
  const isScript = request.url === '/page.js';
  response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
  response.end(isScript ? outputFiles[0].text : '<!doctype html><script type="module" src="/page.js"></script>');
});
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const hub = await Hub.start({ WS_HEARTBEAT_INTERVAL: '1s' });
const browser = await launch();

async function openTabs(context, user, transport) {
  const query = new URLSearchParams({ hub: hub.url, token: userToken(user), transport });
  const pages = [];
  for (let i = 0; i < count; i++) {
    const page = await context.newPage();
    await page.goto(`http://127.0.0.1:${server.address().port}/?${query}`);
    await page.waitForFunction(() => client.snapshot().state === 'live', null, { timeout: LIMIT_MS });
    await page.evaluate(() => {
      client.subscribe(() => {
        if (client.snapshot().isLeader) window.ledAt ??= Date.now();
      });
    });
    pages.push(page);
  }
  const leads = await Promise.all(pages.map((page) => page.evaluate(() => client.snapshot().isLeader)));
  return { leader: pages[leads.indexOf(true)], followers: pages.filter((_, at) => !leads[at]) };
}

/** One round: milliseconds until another tab leads, and until the other tabs have a notification by it. */
async function round(number, way, transport) {
  const user = `handover-${number}`;
  const context = await browser.newContext();
  const { leader, followers } = await openTabs(context, user, transport);
  const writing = writer(user);
  try {
    return await measure(way, leader, followers, writing);
  } finally {
    await writing.stop();
    await context.close();
  }
}

/** Posts one notification after the other until it is stopped. */
function writer(user) {
  const posted = [];
  let isPosting = true;
  const posting = (async () => {
    while (isPosting) {
      posted.push((await hub.post(user, 1))[0].seq);
      await rest(POST_EVERY_MS);
    }
    return posted;
  })();
  return {
    stop: () => {
      isPosting = false;
      return posting;
    },
  };
}

async function measure(way, leader, followers, writing) {
  await followers[0].waitForFunction(() => seen.seqs.length > 10, null, { timeout: LIMIT_MS });
  const began = Date.now();
  await WAYS[way](leader, followers);
  const look = () => Promise.all(followers.map((page) => page.evaluate(() => window.ledAt ?? null)));
  let ledAt;
  while (!ledAt) {
    if (Date.now() - began > LIMIT_MS) throw new Error(`${way}: no other tab leads after ${LIMIT_MS} ms`);
    ledAt = (await look()).find(Boolean);
    await rest(20);
  }
  const firsts = [];
  for (const page of followers) {
    const first = (at) => seen.times.find((time) => time >= at);
    await page.waitForFunction(first, ledAt, { timeout: LIMIT_MS });
    firsts.push(await page.evaluate(first, ledAt));
  }
  const posted = await writing.stop();
  for (const page of followers) {
    await page.waitForFunction((seq) => (client.seq ?? 0) >= seq, posted.at(-1), { timeout: LIMIT_MS });
    const seqs = await page.evaluate(() => seen.seqs);
    if (seqs.join() !== posted.join()) throw new Error(`${way}: a tab received ${seqs.length} of ${posted.length}`);
  }
  return { led: ledAt - began, first: Math.min(...firsts) - began, all: Math.max(...firsts) - began };
}

/** Median and longest, in milliseconds. */
function figures(times) {
  const sorted = [...times].sort((a, b) => a - b);
  const middle = (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.floor(sorted.length / 2)]) / 2;
  return `${Math.round(middle)}, ${sorted.at(-1)}`;
}

let number = 0;
try {
  console.log(
    `${cpus().length} processors, load ${loadavg()[0].toFixed(1)}; ${rounds} rounds, ${count} tabs; ms: median, longest\n`,
  );
  console.log('| leader | transport | another tab leads | first notification in another tab | in all other tabs |');
  console.log('| --- | --- | --- | --- | --- |');
  for (const way of Object.keys(WAYS)) {
    for (const transport of ['websocket', 'sse']) {
      const results = [];
      for (let i = 0; i < rounds; i++) results.push(await round(++number, way, transport));
      const columns = ['led', 'first', 'all'].map((name) => figures(results.map((result) => result[name])));
      console.log(`| ${way} | ${transport} | ${columns.join(' | ')} |`);
    }
  }
  console.log(`\nload ${loadavg()[0].toFixed(1)} at the end`);
} finally {
  await browser.close();
  server.close();
  await hub.stop();
}
