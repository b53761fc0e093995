// Tests the Next.js page: rendered on the server, a toast per order, two tabs, and a hub that is killed.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Example, expectAccessible, picture, toasts, until } from '../support/example.mjs';

let shop;
let ana;
let secondTab;

before(async () => {
  shop = await Example.start(fileURLToPath(new URL('start', import.meta.url)), 'SHOP_PORT');
});
after(() => shop?.stop());

const order = (page, item) => page.getByRole('button', { name: `Order a ${item}` }).click();
const listed = (page) =>
  page.getByRole('region', { name: 'Notifications', exact: true }).getByRole('listitem').allTextContents();
/** Items in toasts, in order, without the numbers of the orders. */
const shown = async (page) => (await toasts(page)).map((text) => text.replace(/, order .*/, ''));

async function expectShown(page, expected) {
  await page.waitForFunction((count) => globalThis.shown.length >= count, expected.length);
  assert.deepEqual(await shown(page), expected);
}

test('a user signs in, and the server renders the page of the user without a connection', async () => {
  ana = await (await shop.profile({ colorScheme: 'dark', viewport: { width: 360, height: 740 } })).newPage();
  await ana.goto(shop.url);
  await ana.getByRole('button', { name: 'Sign in as Ana' }).press('Enter');
  await ana.getByText('Signed in as ana.').waitFor();
  await until('ana is connected', async () => (await shop.connections('ana')) === 1);
  const cookies = (await ana.context().cookies()).map(({ name, value }) => `${name}=${value}`).join('; ');
  const html = await (await fetch(shop.url, { headers: { cookie: cookies } })).text();
  assert.match(html, /Order a lamp.*Nothing yet\./s);
  assert.equal((await fetch(`${shop.url}/api/token`)).status, 401);
  const forged = cookies.replace('ana.', 'ben.');
  assert.equal((await fetch(`${shop.url}/api/token`, { headers: { cookie: forged } })).status, 401);
});

test('an order shows a toast in each tab, over one connection', async () => {
  secondTab = await ana.context().newPage();
  await secondTab.goto(shop.url);
  await secondTab.getByText('Nothing yet.').waitFor();
  await order(ana, 'lamp');
  for (const page of [ana, secondTab]) await expectShown(page, ['Order placed: Lamp']);
  assert.equal(await shop.connections('ana'), 1);
  await expectAccessible(ana);
  await picture(ana, 'nextjs-dark-phone');
});

test('after a kill of the hub, each tab shows exactly what it missed, once', async () => {
  shop.killHub();
  await ana.getByText('Connection lost.').waitFor();
  // The action posts it as soon as the hub is back; the database takes the other one at once.
  await order(ana, 'vase');
  await shop.sql(`SELECT recado.notify('order_updated', 'Gift added', 'A bulb', '{}'::jsonb, user_id => 'ana')`);
  await shop.startHub();
  for (const page of [ana, secondTab]) {
    await page.waitForFunction(() => globalThis.shown.length >= 3);
    await page.getByText('Connection lost.').waitFor({ state: 'detached' });
  }
  shop.isHubAway = false;
  // A later one proves that nothing else is on its way.
  await order(ana, 'lamp');
  for (const page of [ana, secondTab]) {
    await page.waitForFunction(() => globalThis.shown.length >= 4);
    const [first, ...others] = await shown(page);
    assert.deepEqual(
      [first, ...others.slice(0, 2).sort(), others[2]],
      ['Order placed: Lamp', 'Gift added: A bulb', 'Order placed: Vase', 'Order placed: Lamp'],
    );
    assert.equal(others.length, 3);
  }
  assert.equal(await shop.connections('ana'), 1);
});

test('a reload shows nothing again, and the list has everything', async () => {
  await secondTab.close();
  await ana.emulateMedia({ colorScheme: 'light' });
  // What is not acknowledged yet comes again after a reload.
  await until('everything is acknowledged', () => shop.hasAcked('ana'));
  await ana.reload();
  await until('the page is connected', async () => (await shop.connections('ana')) === 1);
  await until('the list is loaded', async () => (await listed(ana)).length === 4);
  await order(ana, 'vase');
  await expectShown(ana, ['Order placed: Vase']);
  assert.equal((await listed(ana)).length, 5);
  await expectAccessible(ana);
  await picture(ana, 'nextjs-light-phone');
});

test('signing out ends the connection', async () => {
  await ana.getByRole('button', { name: 'Sign out' }).click();
  await ana.getByRole('button', { name: 'Sign in as Ana' }).waitFor();
  await until('no connection', async () => (await shop.connections('ana')) === 0);
});

test('no page logged an error', () => {
  assert.deepEqual(shop.errors, []);
});
