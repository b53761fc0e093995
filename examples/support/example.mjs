// Starts an example with its hub, kills and restarts the hub, and opens pages in Chromium for the examples' tests.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

const HUB = fileURLToPath(new URL('hub', import.meta.url));
const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const PATIENCE_MS = 60_000;
/** The first start installs packages and builds. */
const START_PATIENCE_MS = 400_000;
/** The system gives outgoing connections ports from here on. */
const EPHEMERAL = 32_768;
/** What Chromium itself logs about a hub that is away. A page cannot prevent it. */
const AWAY = /^WebSocket connection to '.*' failed|^Failed to load resource: net::ERR_/;

/** Waits until a condition holds; fails with the text after `patienceMs`. */
export async function until(what, holds, patienceMs = PATIENCE_MS) {
  const end = Date.now() + patienceMs;
  while (!(await holds())) {
    assert.ok(Date.now() < end, `not within ${patienceMs} ms: ${what}`);
    await sleep(50);
  }
}

/** A free port below the range of outgoing connections. */
export async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * (EPHEMERAL - 20_000));
    const server = createServer();
    const isFree = await new Promise((resolve) => {
      server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true));
    });
    await new Promise((resolve) => server.close(resolve));
    if (isFree) return port;
  }
}

/** Settings of the machine's own hub must not reach the one of the test. */
function cleanEnvironment() {
  const isForeign = (name) => /^(RECADO|WS|DATABASE)_/.test(name) && !/^RECADO_(HUB_BIN|POSTGRES_)/.test(name);
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isForeign(name)));
}

/** A folder that the hub's database may enter, which another user runs where the test is root. */
function newFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'recado-example-'));
  chmodSync(folder, 0o755);
  return folder;
}

/** A started example. */
export class Example {
  folder = newFolder();
  /** Address of the page. */
  url = '';
  /** True between `killHub` and the first connection after `startHub`. */
  isHubAway = false;
  #env = cleanEnvironment();
  #processes = [];
  #browser;
  #errors = [];

  /** Starts `command FOLDER` with PORT for the hub, and the name `portName` for the page. */
  static async start(command, portName) {
    const example = new Example();
    const port = await freePort();
    example.#env.PORT = String(await freePort());
    example.#env[portName] = String(port);
    example.url = `http://127.0.0.1:${port}`;
    const started = example.#run(command, [example.folder]);
    const ready = until(
      'the page answers',
      async () => {
        assert.equal(started.exitCode, null, 'the example ended');
        return fetch(example.url).then(
          (answer) => answer.ok,
          () => false,
        );
      },
      START_PATIENCE_MS,
    );
    await ready.catch(async (error) => {
      await example.stop();
      throw error;
    });
    return example;
  }

  #run(command, words) {
    const child = spawn(command, words, {
      env: this.#env,
      stdio: ['ignore', 'ignore', command === HUB ? 'ignore' : 'inherit'],
    });
    this.#processes.push(child);
    return child;
  }

  /** Runs a command of the hub's program, and returns its output. */
  async hub(...words) {
    const { stdout } = await promisify(execFile)(HUB, [this.folder, ...words], { env: this.#env });
    return stdout;
  }

  /** Number of open connections of a user to the hub. */
  async connections(user) {
    return (await this.#connections(user)).length;
  }

  /** Whether the user's pages have acknowledged everything that they were sent. */
  async hasAcked(user) {
    return (await this.#connections(user)).every((one) => one.ackedSeq >= one.sentSeq);
  }

  async #connections(user) {
    const stats = JSON.parse(await this.hub('stats', '-o', 'json', '--url', `http://127.0.0.1:${this.#env.PORT}`));
    // Those of a killed hub are listed until its lease ends.
    return stats.connections.filter((one) => one.userId === user && one.instance === stats.instance);
  }

  /** kill -9: the hub has no time to say goodbye. Its database goes on. */
  killHub() {
    this.isHubAway = true;
    process.kill(Number(readFileSync(join(this.folder, 'hub.pid'), 'utf8')), 'SIGKILL');
  }

  /** Starts the hub again, on the same port and database. */
  async startHub() {
    this.#run(HUB, [this.folder, 'serve']);
    await until('the hub answers', () =>
      fetch(`http://127.0.0.1:${this.#env.PORT}/readyz`).then(
        (answer) => answer.ok,
        () => false,
      ),
    );
  }

  /** Runs SQL in the hub's database, as a service does that posts inside its own transaction. */
  async sql(text) {
    const psql = join(process.env.RECADO_POSTGRES_BIN ?? '', 'psql');
    await promisify(execFile)(psql, [
      '-Xqv',
      'ON_ERROR_STOP=1',
      '-h',
      join(this.folder, 'hub/run'),
      '-U',
      'recado',
      '-c',
      text,
      'recado',
    ]);
  }

  /** A browser profile. Its tabs share a connection. */
  async profile(options = {}) {
    this.#browser ??= await chromium.launch({
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      args: ['--no-sandbox'],
    });
    const context = await this.#browser.newContext(options);
    context.setDefaultTimeout(PATIENCE_MS);
    // Records each toast that a page ever showed.
    await context.addInitScript(() => {
      globalThis.shown = [];
      const look = (nodes) => {
        for (const node of nodes) {
          if (node instanceof Element && node.matches('.toast'))
            globalThis.shown.push(
              `${node.querySelector('strong').textContent}: ${node.querySelector('p').textContent}`,
            );
        }
      };
      const observer = new MutationObserver((changes) => {
        for (const change of changes) look(change.addedNodes);
      });
      observer.observe(document, { childList: true, subtree: true });
    });
    context.on('page', (page) => {
      page.on('pageerror', (error) => this.#errors.push(String(error)));
      page.on('console', (message) => {
        if (message.type() !== 'error' && message.type() !== 'warning') return;
        if (!this.isHubAway || !AWAY.test(message.text())) this.#errors.push(message.text());
      });
    });
    return context;
  }

  /** The environment of the test, without settings of the machine's own hub. */
  get environment() {
    return this.#env;
  }

  /** The page's errors and warnings, but for failed connections while the hub was away. */
  get errors() {
    return this.#errors;
  }

  async stop() {
    await this.#browser?.close();
    for (const child of this.#processes) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      await gone;
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The toasts that a page has shown since it was loaded, in order. */
export const toasts = (page) => page.evaluate(() => globalThis.shown);

/** Waits for so many toasts, and compares all that were shown. */
export async function expectToasts(page, expected) {
  await page.waitForFunction((count) => globalThis.shown.length >= count, expected.length);
  assert.deepEqual(await toasts(page), expected);
}

/** Checks the page for faults that assistive technology meets, and for a page wider than its window. */
export async function expectAccessible(page) {
  // Not by a script element, which the page's policy refuses.
  await page.evaluate(readFileSync(AXE, 'utf8'));
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  assert.deepEqual(
    violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)]),
    [],
  );
  assert.ok(
    await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
    'the page is wider than its window',
  );
}

/** Saves a picture in the folder SHOTS, for a look at the page. */
export async function picture(page, name) {
  if (process.env.SHOTS) await page.screenshot({ path: join(process.env.SHOTS, `${name}.png`) });
}
