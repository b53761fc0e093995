// Tests that each hook type-checks, renders on a server, and misses nothing on a fake hub in Chromium.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { Example } from '../support/example.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const example = new Example();
let server;
let page;

/** Bundles the page as the frameworks do: with the variables of the environment replaced. */
async function bundle(variables) {
  const { outputFiles } = await build({
    entryPoints: [`${here}page.tsx`],
    bundle: true,
    write: false,
    format: 'esm',
    jsx: 'automatic',
    define: {
      'import.meta.env.VITE_WS_URL': JSON.stringify(variables.url ?? ''),
      'process.env.NEXT_PUBLIC_WS_URL': JSON.stringify(variables.url ?? ''),
      'process.env.NODE_ENV': JSON.stringify(variables.mode),
    },
  });
  return outputFiles[0].text;
}

before(async () => {
  const scripts = {
    '/default.js': await bundle({ mode: 'development' }),
    '/set.js': await bundle({ mode: 'production', url: 'wss://hub.example.com/ws' }),
  };
  server = createServer(({ url }, response) => {
    response.setHeader('content-type', scripts[url] ? 'text/javascript' : 'text/html; charset=utf-8');
    response.end(
      scripts[url] ??
        `<!doctype html><title>hooks</title><link rel="icon" href="data:,"><script type="module" src="${url}.js"></script>`,
    );
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  page = await (await example.profile()).newPage();
});
after(async () => {
  await example.stop();
  server?.close();
});

const open = async (name) => {
  await page.goto(`http://127.0.0.1:${server.address().port}/${name}`);
  await page.waitForFunction(() => typeof globalThis.roulette === 'function');
};

test('the types fit the client', () => {
  execFileSync('node_modules/.bin/tsc', { cwd: here, stdio: 'inherit' });
});

const DEFAULTS = {
  stocktech: 'wss://avadmin.avelarcompany.com.br/ws',
  appportal: 'wss://avadmin.avelarcompany.com.br/ws',
  avadmin: 'ws://127.0.0.1:PORT/ws',
};
for (const [name, address] of Object.entries(DEFAULTS)) {
  test(`${name}: receives each message once, also what it missed, at its own address`, async () => {
    const expected = {
      got: ['order_created 1', 'payment_confirmed 1'],
      last: 'payment_confirmed',
      hasToken: false,
      isSame: true,
    };
    await open('default');
    const byDefault = await page.evaluate((hook) => globalThis.central(hook), name);
    assert.deepEqual(byDefault, { ...expected, address: address.replace('PORT', server.address().port) });
    await open('set');
    const set = await page.evaluate((hook) => globalThis.central(hook), name);
    assert.deepEqual(set, { ...expected, address: 'wss://hub.example.com/ws' });
  });
}

test('hoodx: receives status and game data, sends a bet, and logs as before', async () => {
  await open('default');
  assert.deepEqual(await page.evaluate(() => globalThis.roulette()), {
    log: [
      'info 🔌 Conectando ao serviço WebSocket...',
      'success ✅ Conectado ao serviço WebSocket',
      'success 📡 Conectado ao Pragmatic Play',
      'error ❌ Conexão WebSocket fechada',
    ],
    data: ['<spin/>', '<missed/>'],
    sent: true,
    bet: { type: 'bet', payload: { amount: 5 } },
    address: 'ws://localhost:8080/ws',
  });
  await open('set');
  const { address } = await page.evaluate(() => globalThis.roulette());
  assert.equal(address, 'wss://hoodx-websocket.fly.dev:8443/ws');
});

test('no page logged an error', () => {
  assert.deepEqual(example.errors, []);
});
