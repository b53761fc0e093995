// Tests that the guide leads from an empty folder to a toast, and that its quotations are true.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Example, expectToasts, freePort, until } from '../support/example.mjs';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const GUIDES = join(ROOT, 'docs/guides');

/** Fenced blocks of a page, each with the remark before it. */
function blocks(page) {
  const text = readFileSync(join(GUIDES, page), 'utf8');
  const found = text.matchAll(/<!-- (file|from|not run): ([^\n]*?) -->\n```(\w+)\n(.*?\n)```/gs);
  return [...found].map(([, kind, remark, language, body]) => ({ page, kind, remark, language, body }));
}

/** Lines without their indentation: a quotation from inside a function begins at the margin. */
const lines = (text) =>
  text
    .trim()
    .split('\n')
    .map((line) => line.trim())
    .join('\n');

test('what the guides quote is in the examples', () => {
  const quotes = readdirSync(GUIDES)
    .flatMap(blocks)
    .filter(({ kind }) => kind === 'from');
  assert.ok(quotes.length >= 5, `${quotes.length} quotations`);
  for (const { page, remark, body } of quotes) {
    const source = lines(readFileSync(join(ROOT, remark), 'utf8'));
    assert.ok(source.includes(lines(body)), `${page}: this is not in ${remark}:\n${body}`);
  }
});

test('whole files of the guide are those of the shop', () => {
  const files = blocks('show-a-toast.md').filter(({ remark }) => remark.endsWith(', from examples/shop'));
  assert.equal(files.length, 3);
  for (const { remark, body } of files) {
    assert.equal(body, readFileSync(join(ROOT, 'examples/shop', remark.split(',')[0]), 'utf8'), remark);
  }
});

let terminal;
let example;

after(async () => {
  await terminal?.end();
  await example?.stop();
});

/** A shell at a terminal that runs blocks one after another, as a reader pastes them. */
class Terminal {
  output = '';
  #child;
  #count = 0;
  database;

  constructor(folder, env) {
    this.database = join(folder, 'hub/data/postmaster.pid');
    // A program in the background that reads from a terminal is stopped. So the shell has one, as a reader's has.
    const shell = ['--quiet', '--flush', '--command', 'bash --norc --noprofile -i', '/dev/null'];
    this.#child = spawn('script', shell, { cwd: folder, env: { ...env, TERM: 'dumb' }, stdio: ['pipe', 'pipe', 'pipe'] });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream.on('data', (piece) => void (this.output += piece));
  }

  async run(text) {
    const mark = `block ${++this.#count} ended with `;
    // The status and a full stop: a piece of output may end between them.
    const ended = new RegExp(`${mark}\\d+\\.`);
    this.#child.stdin.write(`${text}\necho "${mark}$?."\n`);
    await until(`${text}\n${this.output}`, () => ended.test(this.output) || this.#child.exitCode !== null, 300_000);
    assert.ok(this.output.includes(`${mark}0.`), this.output);
  }

  /** Ends the shell, and with it what runs in its background, and waits until the hub has stopped its database. */
  async end() {
    // What a failed test has left. A stopped program does not take the first signal.
    this.#child.stdin.write('kill $(jobs -pr); kill -9 $(jobs -ps); exit\n');
    await until('the database has stopped', () => !existsSync(this.database));
    this.#child.kill();
  }
}

test('the guide leads from an empty folder to a toast', async () => {
  example = new Example();
  const { folder } = example;
  const [hubPort, pagePort] = [await freePort(), await freePort()];
  const here = (text) => text.replaceAll(':8080', `:${hubPort}`).replaceAll('5173', pagePort);
  const page = blocks('show-a-toast.md');
  for (const { remark, body } of page.filter(({ kind }) => kind === 'file')) {
    const path = join(folder, remark.split(',')[0]);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, here(body));
  }
  // `recado` is on the path. The client was packed from a copy of its folder, which others may be building in.
  mkdirSync(join(folder, 'bin'));
  const hub = `#!/bin/sh\nexec ${ROOT}/examples/support/hub ${folder} "$@"\n`;
  writeFileSync(join(folder, 'bin/recado'), hub, { mode: 0o755 });
  const env = {
    ...example.environment,
    PATH: `${folder}/bin:${process.env.PATH}`,
    PORT: String(hubPort),
    RECADO: join(folder, 'repository'),
  };
  mkdirSync(join(folder, 'repository/clients'), { recursive: true });
  terminal = new Terminal(folder, env);
  await terminal.run(`cp -R ${ROOT}/examples/support/.prepared/client repository/clients/typescript`);
  const shell = page.filter(({ language }) => language === 'sh').map(({ body }) => here(body));
  assert.equal(shell.length, 6);
  const [start, install, startPage, post, killHub, endAll] = shell;
  for (const block of [start, install, startPage]) await terminal.run(block);
  const address = `http://127.0.0.1:${pagePort}`;
  await until('the page answers', () =>
    fetch(address).then(
      (answer) => answer.ok,
      () => false,
    ),
  );
  const tab = await (await example.profile()).newPage();
  // A device's first connection begins at the end of the log.
  const socket = tab.waitForEvent('websocket', (one) => one.url().includes('/ws?'));
  const caughtUp = socket.then((one) =>
    one.waitForEvent('framereceived', ({ payload }) => payload.includes('caught_up')),
  );
  await Promise.all([tab.goto(address), caughtUp]);
  await terminal.run(post);
  await expectToasts(tab, ['Order placed: Lamp, order 1']);
  await tab.goto('about:blank');
  await terminal.run(post);
  await terminal.run(post);
  await tab.goto(address);
  await expectToasts(tab, Array(2).fill('Order placed: Lamp, order 1'));
  example.isHubAway = true;
  await terminal.run(killHub);
  await expectToasts(tab, Array(3).fill('Order placed: Lamp, order 1'));
  assert.deepEqual(example.errors, []);
  await tab.close();
  await terminal.run(endAll);
  await until('the hub and the page have ended', () => !existsSync(terminal.database));
});
