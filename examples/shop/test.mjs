// Tests the shop as its users see it: orders, toasts, bell, two tabs, and a hub that is killed.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Example, expectAccessible, expectToasts, picture, toasts, until } from '../support/example.mjs';

let shop;
let ana;
let secondTab;
let ben;

before(async () => {
  shop = await Example.start(fileURLToPath(new URL('start', import.meta.url)), 'SHOP_PORT');
});
after(() => shop?.stop());

const signIn = async (context, name) => {
  const page = await context.newPage();
  await page.goto(shop.url);
  await page.getByRole('button', { name: `Sign in as ${name}` }).press('Enter');
  await page.getByRole('heading', { name: /orders/ }).waitFor();
  await until(`${name} is connected`, async () => (await shop.connections(name.toLowerCase())) === 1);
  return page;
};
const order = (page, item) => page.getByRole('button', { name: `Order ${item}` }).click();
const bell = (page) => page.getByRole('button', { name: 'Notifications' });
const list = (page) => page.getByRole('region', { name: 'Notifications', exact: true });
const notice = (page, text) => page.getByRole('status').getByText(text);

test('two users sign in', async () => {
  ana = await signIn(await shop.profile({ colorScheme: 'light' }), 'Ana');
  ben = await signIn(await shop.profile({ colorScheme: 'dark', viewport: { width: 360, height: 740 } }), 'Ben');
  await expectAccessible(ana);
});

test('an order shows a toast and a count in each tab of the customer, over one connection', async () => {
  secondTab = await ana.context().newPage();
  await secondTab.goto(shop.url);
  await secondTab.getByText('No orders yet.').waitFor();
  await order(ana, 'Lamp');
  for (const page of [ana, secondTab]) {
    await expectToasts(page, ['Order placed: Lamp, order 1']);
    await bell(page).filter({ hasText: '1 unread' }).waitFor();
  }
  assert.equal(await shop.connections('ana'), 1);
  await expectToasts(ben, ['New order: Lamp, order 1']);
  await expectAccessible(ana);
  await picture(ana, 'shop-light');
});

test('the shopkeeper ships, and the customer sees the new state without a reload', async () => {
  await expectAccessible(ben);
  await picture(ben, 'shop-dark-phone');
  await ben.getByRole('button', { name: 'Ship order 1' }).click();
  for (const page of [ana, secondTab]) {
    await expectToasts(page, ['Order placed: Lamp, order 1', 'Order shipped: Lamp, order 1']);
    await page.getByText('Shipped', { exact: true }).waitFor();
  }
});

test('the keyboard opens and closes the list, which resets the count', async () => {
  await bell(ana).press('Enter');
  await list(ana).getByText('Order shipped').waitFor();
  await until('the count is reset', async () => (await bell(ana).textContent()) === 'Notifications');
  await expectAccessible(ana);
  await picture(ana, 'shop-list');
  await ana.keyboard.press('Escape');
  await list(ana).waitFor({ state: 'hidden' });
  assert.equal(await ana.evaluate(() => document.activeElement.className), 'bell');
});

test('after a kill of the hub, each tab shows exactly what it missed, once', async () => {
  const shownBefore = await toasts(ana);
  shop.killHub();
  await notice(ana, 'Connection lost').waitFor();
  await picture(ana, 'shop-lost');
  // The shop posts it when the hub is back; the database takes the other one at once.
  await order(ana, 'Vase');
  await ana.getByText('Vase, order 2').waitFor();
  await shop.sql(`SELECT recado.notify('order_updated', 'Gift added', 'A bulb', '{}'::jsonb, user_id => 'ana')`);
  await shop.startHub();
  for (const page of [ana, secondTab]) {
    await page.waitForFunction((count) => globalThis.shown.length >= count, shownBefore.length + 2);
    await notice(page, 'Connection lost').waitFor({ state: 'detached' });
  }
  // A later one proves that nothing else is on its way.
  await ben.getByRole('button', { name: 'Ship order 2' }).click();
  for (const page of [ana, secondTab]) {
    await page.waitForFunction(() => globalThis.shown.at(-1) === 'Order shipped: Vase, order 2');
    const shown = await toasts(page);
    assert.deepEqual(shown.slice(0, shownBefore.length), shownBefore);
    const missed = shown.slice(shownBefore.length, -1).sort();
    assert.deepEqual(missed, ['Gift added: A bulb', 'Order placed: Vase, order 2']);
  }
  assert.equal(await shop.connections('ana'), 1);
  shop.isHubAway = false;
});

test('a reload shows nothing again, and the list has everything', async () => {
  await secondTab.close();
  // What is not acknowledged yet comes again after a reload.
  await until('everything is acknowledged', () => shop.hasAcked('ana'));
  await ana.reload();
  await until('the page is connected', async () => (await shop.connections('ana')) === 1);
  await order(ana, 'Lamp');
  await expectToasts(ana, ['Order placed: Lamp, order 3']);
  await bell(ana).click();
  const titles = await list(ana).locator('li strong').allTextContents();
  assert.deepEqual(titles.toSorted(), [
    'Gift added',
    'Order placed',
    'Order placed',
    'Order placed',
    'Order shipped',
    'Order shipped',
  ]);
  assert.deepEqual(titles.at(0), 'Order placed');
});

test('a notification is acknowledged after the work of the page, not before', async () => {
  await ana.keyboard.press('Escape');
  const seen = await toasts(ana);
  await until('everything is acknowledged', () => shop.hasAcked('ana'));
  // The page loads its orders after each notification. This time it does not get to the end.
  await ana.route('**/api/orders', () => {});
  await shop.sql(`SELECT recado.notify('order_updated', 'Delivered', 'Lamp, order 1', '{}'::jsonb, user_id => 'ana')`);
  await expectToasts(ana, [...seen, 'Delivered: Lamp, order 1']);
  await ana.reload();
  await expectToasts(ana, ['Delivered: Lamp, order 1']);
  await ana.unroute('**/api/orders');
  await ana.getByRole('main').getByText('Lamp, order 3').waitFor();
  await ana.getByRole('button', { name: 'Close: Delivered' }).press('Enter');
  assert.equal(await ana.evaluate(() => document.activeElement.className), 'toasts');
});

/** Opens a tab of the same user in another profile, whose first frame has another `resume`. */
async function resumedWith(resume) {
  const context = await shop.profile();
  await context.addCookies(await ana.context().cookies());
  const page = await context.newPage();
  await page.routeWebSocket(/\/ws\?/, (socket) => {
    socket.connectToServer().onMessage((message) => {
      const lines = String(message)
        .split('\n')
        .map((line) => {
          const frame = line === '' ? {} : JSON.parse(line);
          return frame.type === 'connection_established'
            ? JSON.stringify({ ...frame, resume: { ...frame.resume, ...resume } })
            : line;
        });
      socket.send(lines.join('\n'));
    });
  });
  await page.goto(shop.url);
  return page;
}

test('a gap and a reset are told to the user, and the list is loaded again', async () => {
  const gap = await resumedWith({ status: 'gap', lost_from: 1, lost_to: 2 });
  await notice(gap, 'Some notifications are no longer kept.').waitFor();
  await picture(gap, 'shop-gap');
  await gap.context().close();
  const reset = await resumedWith({ status: 'reset' });
  await notice(reset, 'The hub started a new history.').waitFor();
  await bell(reset).click();
  await list(reset).getByText('Gift added').waitFor();
  await expectAccessible(reset);
  await reset.context().close();
});

test('signing out ends the connection', async () => {
  await ana.getByRole('button', { name: 'Sign out' }).click();
  await ana.getByRole('button', { name: 'Sign in as Ana' }).waitFor();
  await until('no connection', async () => (await shop.connections('ana')) === 0);
});

test('no page logged an error', () => {
  assert.deepEqual(shop.errors, []);
});
