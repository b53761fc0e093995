// Tests the bell as its users meet it: counts, keyboard, two tabs, another device, a refused change, a hub that is killed.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Example, expectAccessible, picture, until } from '../support/example.mjs';

let example;
let desk;
let secondTab;
let phone;

before(async () => {
  example = await Example.start(fileURLToPath(new URL('start', import.meta.url)), 'BELL_PORT');
});
after(() => example?.stop());

const open = async (context) => {
  const page = await context.newPage();
  await page.goto(example.url);
  await bell(page).waitFor();
  return page;
};
const bell = (page) => page.getByRole('button', { name: /^Notifications/ });
const panel = (page) => page.getByRole('dialog', { name: 'Notifications' });
const inPanel = (page, name) => panel(page).getByRole('button', { name, exact: true });
const focused = (page) => page.evaluate(() => document.activeElement.ariaLabel ?? document.activeElement.className);

/** Waits for the label of the bell, which says the counts. */
const untilLabel = (page, label) => page.getByRole('button', { name: label, exact: true }).waitFor();
/** Waits for the titles in the open panel; * is an unread one, and (m) a muted one. */
const untilItems = (page, expected) =>
  page.waitForFunction((wanted) => {
    const items = [...document.querySelectorAll('.bell-item')].map((row) => {
      const mark = row.querySelector('.bell-dot') ? '*' : '';
      const muted = row.querySelector('.bell-muted') ? ' (m)' : '';
      return `${mark}${row.querySelector('.bell-select').textContent}${muted}`;
    });
    return JSON.stringify(items) === JSON.stringify(wanted);
  }, expected);

const post = (title, type = 'order_created') =>
  example.sql(`SELECT recado.notify('${type}', '${title}', 'A message', '{}'::jsonb, user_id => 'ana')`);

test('the label says how many are new and unread, in each tab and on each device, over one connection each', async () => {
  desk = await open(await example.profile({ colorScheme: 'light' }));
  await untilLabel(desk, 'Notifications');
  await until('connected', async () => (await example.connections('ana')) === 1);
  await desk.getByRole('button', { name: 'Post an order' }).click();
  await untilLabel(desk, 'Notifications, 1 new, 1 unread');
  secondTab = await open(desk.context());
  phone = await open(await example.profile({ colorScheme: 'dark', viewport: { width: 360, height: 740 } }));
  await post('Second');
  for (const page of [desk, secondTab, phone]) await untilLabel(page, 'Notifications, 2 new, 2 unread');
  assert.equal(await example.connections('ana'), 2);
  assert.equal(await desk.getByRole('status').textContent(), '2 new');
  assert.equal(await secondTab.title(), '(2) A bell');
  await expectAccessible(desk);
});

test('the keyboard opens the list, which marks what is new as seen everywhere', async () => {
  await bell(desk).press('Enter');
  await untilItems(desk, ['*Second', '*Order placed']);
  assert.equal(await focused(desk), 'bell-panel');
  for (const page of [desk, secondTab, phone]) await untilLabel(page, 'Notifications, 2 unread');
  await expectAccessible(desk);
  await picture(desk, 'bell-light');
  await desk.keyboard.press('Escape');
  await panel(desk).waitFor({ state: 'detached' });
  assert.equal(await focused(desk), 'Notifications, 2 unread');
});

test('a new item comes on top of the open list, and the open list has seen it', async () => {
  await bell(phone).click();
  await untilItems(phone, ['*Second', '*Order placed']);
  await post('Third');
  await untilItems(phone, ['*Third', '*Second', '*Order placed']);
  for (const page of [desk, phone]) await untilLabel(page, 'Notifications, 3 unread');
  const { x, width } = await panel(phone).boundingBox();
  assert.ok(x >= 0 && x + width <= 360, `the list reaches from ${x} to ${x + width} of 360`);
  await expectAccessible(phone);
  await picture(phone, 'bell-dark-phone');
});

test('an item that is read or opened on one device is read on the others', async () => {
  await inPanel(phone, 'Mark as read: Second').click();
  await inPanel(phone, 'Third').click();
  await phone.getByText('You opened: Third').waitFor();
  await bell(desk).click();
  await untilItems(desk, ['Third', 'Second', '*Order placed']);
  await untilLabel(secondTab, 'Notifications, 1 unread');
  await inPanel(desk, 'Mark as unread: Third').click();
  await untilItems(phone, ['*Third', 'Second', '*Order placed']);
  await inPanel(desk, 'Mark all as read').click();
  await untilItems(phone, ['Third', 'Second', 'Order placed']);
  for (const page of [desk, secondTab, phone]) await untilLabel(page, 'Notifications');
  assert.ok(await inPanel(desk, 'Mark all as read').isDisabled());
});

test('an archived item goes, and the focus continues at the next one', async () => {
  await inPanel(desk, 'Archive: Second').press('Enter');
  await untilItems(phone, ['Third', 'Order placed']);
  await untilItems(desk, ['Third', 'Order placed']);
  assert.ok(await panel(desk).evaluate((element) => element.contains(document.activeElement)));
  assert.equal(await desk.evaluate(() => document.activeElement.textContent), 'Order placed');
});

test('a muted type is listed and not counted', async () => {
  await post('Stock is low', 'stock_alert');
  await untilLabel(phone, 'Notifications, 1 unread');
  await inPanel(phone, 'Mute: stock alert').click();
  await untilItems(desk, ['*Stock is low (m)', 'Third', 'Order placed']);
  await untilLabel(desk, 'Notifications');
  await post('Stock is high', 'stock_alert');
  await untilItems(desk, ['*Stock is high (m)', '*Stock is low (m)', 'Third', 'Order placed']);
  await expectAccessible(desk);
  await panel(desk).getByRole('button', { name: 'Unmute: stock alert' }).first().click();
  await untilLabel(phone, 'Notifications, 2 unread');
  await untilItems(phone, ['*Stock is high', '*Stock is low', 'Third', 'Order placed']);
});

test('a click elsewhere and the way out with the keyboard close the list', async () => {
  await phone.getByRole('heading', { name: 'A bell' }).click();
  await panel(phone).waitFor({ state: 'detached' });
  await bell(phone).press('Enter');
  await inPanel(phone, 'Unmute: stock alert').waitFor({ state: 'detached' });
  await phone.getByRole('button', { name: 'Post an order' }).focus();
  await panel(phone).waitFor({ state: 'detached' });
});

test('while the hub is away a change is taken back and the user is told; after it the counts are those of the hub', async () => {
  example.killHub();
  await until('the hub is gone', () =>
    example.hub('stats').then(
      () => false,
      () => true,
    ),
  );
  await inPanel(desk, 'Mark as read: Stock is low').click();
  await panel(desk).getByRole('alert').getByText('The change was not saved. Try again.').waitFor();
  await untilItems(desk, ['*Stock is high', '*Stock is low', 'Third', 'Order placed']);
  await untilLabel(desk, 'Notifications, 2 unread');
  await picture(desk, 'bell-failed');
  await post('Missed');
  await example.startHub();
  await untilItems(desk, ['*Missed', '*Stock is high', '*Stock is low', 'Third', 'Order placed']);
  // The list is open on the desk, so the missed one is seen.
  for (const page of [desk, phone]) await untilLabel(page, 'Notifications, 3 unread');
  example.isHubAway = false;
});

test('a reload keeps everything, because the hub has it', async () => {
  await desk.reload();
  await untilLabel(desk, 'Notifications, 3 unread');
  await bell(desk).click();
  await untilItems(desk, ['*Missed', '*Stock is high', '*Stock is low', 'Third', 'Order placed']);
});

test('no page logged an error', () => {
  assert.deepEqual(example.errors, []);
});
