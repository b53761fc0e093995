// Opens the console in Chromium, signed in, and watches what the page must never do.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

/** Nothing leaves the machine: no updates, no lists, no names but this machine's own. */
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
];
/** A browser is slow on a busy machine. */
export const PATIENCE = 30_000;

/** A page of the console. */
export class Console {
  scene;
  page;
  #browser;
  #problems = [];
  #expected = [];

  constructor(scene, browser, page) {
    this.scene = scene;
    this.#browser = browser;
    this.page = page;
    page.setDefaultTimeout(PATIENCE);
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning')
        this.#problems.push(`console: ${message.text()} ${message.location().url}`);
    });
    page.on('pageerror', (error) => this.#problems.push(`page: ${error.stack}`));
    page.on('dialog', (dialog) => {
      this.#problems.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on('request', (request) => {
      const url = request.url();
      if (!url.startsWith(scene.url) && !/^(data|blob|about):/.test(url)) this.#problems.push(`request to ${url}`);
      if (request.headers().cookie) this.#problems.push(`cookie in a request to ${url}`);
      if (url.includes(scene.token)) this.#problems.push(`token in the address ${url}`);
      if (url.includes('rcl_')) this.#problems.push(`link in the address ${url}`);
      if ((request.headers().referer ?? '').match(/token|rcl_/)) this.#problems.push(`token in the referrer of ${url}`);
    });
  }

  /** Errors that match are part of the story: a browser logs each refused request. */
  expect(pattern) {
    this.#expected.push(pattern);
  }

  /** Fails if the page did something that it must not. */
  check() {
    const problems = this.#problems.filter((one) => !this.#expected.some((pattern) => pattern.test(one)));
    assert.deepEqual(problems, []);
  }

  async signIn(token = this.scene.token) {
    await this.page.goto(`${this.scene.url}/admin`);
    await this.page.getByLabel('Admin key or token').fill(token);
    await this.page.getByRole('button', { name: 'Sign in' }).click();
    await this.page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  }

  /** Opens a link that signs in. */
  async open(link) {
    await this.page.goto(`${this.scene.url}/admin#token=${link}`);
  }

  /** Goes to a page by its address, and waits for its title. */
  async go(hash, title) {
    await this.page.evaluate((to) => {
      location.hash = to;
    }, hash);
    await this.page.getByRole('heading', { level: 1, name: title }).waitFor();
  }

  table(name) {
    return this.page.getByRole('table', { name, exact: true });
  }

  row(table, text) {
    return this.table(table).locator('tbody tr').filter({ hasText: text }).first();
  }

  /** Waits until the page says this. */
  async says(text) {
    await this.page.getByText(text).first().waitFor();
  }

  /** Confirms the open dialog, after typing what it asks for. */
  async confirm(verb, typed) {
    const dialog = this.page.getByRole('dialog');
    await dialog.waitFor();
    const button = dialog.getByRole('button', { name: verb, exact: true });
    if (typed !== undefined) {
      assert.ok(await button.isDisabled(), 'the button works before the text was typed');
      await dialog.getByRole('textbox').fill(typed);
    }
    await button.click();
    await dialog.waitFor({ state: 'detached' });
  }

  /** Whether the page is wider than its window. */
  async overflow() {
    return this.page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  }

  async request(path, init = {}) {
    const answer = await fetch(this.scene.url + path, {
      ...init,
      headers: { authorization: `Bearer ${init.token ?? this.scene.token}`, 'content-type': 'application/json' },
    });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  /** Posts a notification. */
  post(body) {
    return this.request('/api/internal/notify', {
      method: 'POST',
      body: JSON.stringify(body),
      token: this.scene.service,
    });
  }

  /** Repeats `probe` until it returns something true. */
  async until(what, probe, limit = PATIENCE) {
    const end = Date.now() + limit;
    for (;;) {
      const found = await probe();
      if (found) return found;
      if (Date.now() > end) throw new Error(`not within ${limit} ms: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async close() {
    await this.#browser.close();
  }
}

/** Opens a browser with one page. `options` are those of a context of Playwright. */
export async function open(scene, options) {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  const context = await browser.newContext({
    viewport: { width: 1280, height: 860 },
    serviceWorkers: 'block',
    ...options,
  });
  return new Console(scene, browser, await context.newPage());
}
