// Tests the provider and the hooks with React 18 and 19, in Chromium and on a server.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bundle, launch } from '../support/browser.ts';

declare const stories: Record<string, () => Promise<unknown>>;

let browser: Browser;

beforeAll(async () => {
  browser = await launch();
});

afterAll(() => browser?.close());

describe.each(['18', '19'])('React %s', (major) => {
  let page: Page;
  const errors: string[] = [];

  beforeAll(async () => {
    page = await browser.newPage();
    page.setDefaultTimeout(20_000);
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    page.on('pageerror', (error) => errors.push(String(error)));
    await page.addScriptTag({ content: await bundle('page.tsx', major, 'browser'), type: 'module' });
    await page.waitForFunction(() => typeof stories === 'object');
  });

  afterAll(async () => {
    await page?.close();
  });

  const tell = <T>(name: string): Promise<T> => page.evaluate((story) => stories[story]!(), name) as Promise<T>;

  test('is the version that is meant', async () => {
    expect(await tell('version')).toMatch(new RegExp(`^${major}\\.`));
  });

  test('10,000 notifications cost at most 1,000 renders, and a listener sees each once, in order', async () => {
    const flood = await tell<{ renders: number }>('flood');
    expect(flood).toMatchObject({ text: 'live 50 10000', handled: 10_000, inOrder: true });
    expect(flood.renders).toBeLessThanOrEqual(1_000);
  });

  test('10,000 items of the inbox cost at most 1,000 renders of the list, and of the counts', async () => {
    const flood = await tell<{ renders: number }>('inboxFlood');
    expect(flood).toMatchObject({ text: '1000 10000 1000 1000 1000' });
    expect(flood.renders).toBeLessThanOrEqual(2_000);
  });

  test('the inbox shows changes at once, takes refused ones back, and loads again after a reset', async () => {
    expect(await tell('inbox')).toEqual({
      log: [
        '3,2 3/3 ready true',
        '3,2,1 3/3 ready false',
        '3r,2,1 2/3 ready false',
        '3r,2,1 2/0 ready false',
        '3r,2,1 2/0 ready false',
        '7,3r,1 2/1 ready false',
        '7,1 2/1 ready false',
        '1 1/1 ready false',
      ],
      failed: 'inbox_full',
      functions: 2,
    });
  });

  test('StrictMode and a remount keep one connection; the last unmount closes it', async () => {
    expect(await tell('mounts')).toEqual({ first: [1, 1], again: [1, 1], last: [0, 'closed'] });
  });

  test('enabled decides whether the client connects', async () => {
    expect(await tell('enabled')).toEqual(['idle', 'closed']);
  });

  test('a listener that changes receives each notification once', async () => {
    expect(await tell('latest')).toEqual(['a1', 'b3']);
  });

  test('a list merges history and live, goes back page by page, and tells a reset', async () => {
    expect(await tell('list')).toEqual({
      log: ['7,6 true', '8,7,6 true', '8,7,6 true', '8,7,6,5,4,3 true', '8,7,6,5,4,3,2,1 false', '10 true', ' true'],
      gap: { status: 'reset' },
    });
  });

  test('rows that the limit drops can be loaded again, and a reset or clear() ends a load', async () => {
    expect(await tell('pages')).toEqual([
      '2,1 false',
      '5,4,3 true',
      '5,4,3,2,1 false',
      ' true false',
      ' true false',
      '1 true',
    ]);
  });

  test('a provider session is known to components that mount later', async () => {
    expect(await tell('upstream')).toEqual(['connected hello', 'disconnected bye', 'sent']);
  });

  test('nothing was written to the console as an error', () => {
    expect(errors).toEqual([]);
  });

  test('renderToString opens nothing, and hooks without a provider say so', async () => {
    const folder = mkdtempSync(join('node_modules', '.recado-server-'));
    try {
      const file = join(process.cwd(), folder, 'server.cjs');
      writeFileSync(file, await bundle('server.tsx', major, 'node'));
      const server = createRequire(import.meta.url)(file) as typeof import('./server.tsx');
      expect(await server.render()).toEqual({
        html: 'idle 0 false true null loading 0 null false',
        opened: 0,
        asked: 0,
      });
      expect(await server.renderOldPage()).toEqual({ html: 'disconnected null false null', asked: 0 });
      expect(server.failures()).toEqual([
        'Error: useRecado needs a RecadoProvider above it',
        'Error: RecadoProvider needs client or options',
      ]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
