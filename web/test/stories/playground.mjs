// The first minute: a newcomer cuts the connection, posts more, and sees that exactly the missed ones arrive.
import assert from 'node:assert/strict';

/** The numbers under "Proof", by their labels. */
async function proof(device) {
  const cells = await device.getByRole('list', { name: 'Proof' }).getByRole('listitem').allInnerTexts();
  return Object.fromEntries(
    cells.map((text) => text.split('\n').map((line) => line.trim())).map(([label, ...rest]) => [label, rest.join(' ')]),
  );
}

export async function story(c) {
  const { page } = c;
  await c.signIn();
  await c.go('#/playground', 'Playground');
  const devices = [page.getByRole('region', { name: 'Device 1' }), page.getByRole('region', { name: 'Device 2' })];
  const received = (device) => device.getByRole('table', { name: 'Received notifications' }).locator('tbody tr');
  // Device 1 by a ticket over WebSocket, device 2 by a token over SSE.
  await devices[0].getByLabel('Sign in by').selectOption('ticket');
  for (const device of devices) {
    await device.getByRole('button', { name: 'Connect', exact: true }).click();
    await device.getByText('live', { exact: true }).waitFor();
  }
  await page.getByRole('button', { name: 'Post', exact: true }).click();
  for (const device of devices) await c.until('one arrives', async () => (await received(device).count()) === 1);
  for (const device of devices) {
    await device.getByRole('button', { name: 'Cut the connection' }).click();
    await device.getByText('offline', { exact: true }).waitFor();
  }
  await page.getByRole('button', { name: 'Post 5' }).click();
  await c.says(/Posted 5 notifications/);
  for (const device of devices) assert.equal(await received(device).count(), 1, 'nothing arrives while it is away');
  for (const device of devices) {
    await device.getByRole('button', { name: 'Come back', exact: true }).click();
    await c.until('the missed ones arrive', async () => (await received(device).count()) === 6);
    assert.equal(await device.getByText('on resume', { exact: true }).count(), 5, 'exactly the missed ones');
    const numbers = await c.until('the history is compared', async () => {
      const found = await proof(device);
      return found.Missed.startsWith('0 the history has 6') && found;
    });
    assert.match(numbers.Resume, /^ok from \d+ 5 replayed/);
    assert.match(numbers.Duplicates, /^0 /);
  }
  assert.equal(await page.locator('.steps [data-done=true]').count(), 5, 'every step is done');
  await oldPlace(c, devices);
  await otherLog(c, devices[0], received);
  await asleep(c, devices[0]);
  await byHand(c, devices[1], received);
  await forms(c);
  const text = await page.locator('body').innerText();
  assert.ok(!/eyJ[\w-]{20,}/.test(text), 'no token in the frames');
}

/** An old place: the hub repeats, the SDK drops. */
async function oldPlace(c, devices) {
  for (const device of devices) {
    await device.getByRole('button', { name: 'Come back with it' }).click();
    await c.until('repeats are dropped', async () => /5 repeats dropped/.test((await proof(device)).Duplicates));
    assert.match((await proof(device)).Duplicates, /^0 /, 'none is handed over twice');
    await device.locator('tr.drop').first().waitFor();
  }
}

/** Another log id: the hub says reset, and everything comes anew. */
async function otherLog(c, device, received) {
  await device.getByRole('button', { name: 'Come back with another log id' }).click();
  await c.until('reset', async () => /^reset from 0/.test((await proof(device)).Resume));
  await c.until('all come anew', async () => (await received(device).count()) === 6);
}

async function asleep(c, device) {
  await device.getByRole('button', { name: 'Sleep 10 s' }).click();
  await device.getByText(/comes back in \d+ s/).waitFor();
  await c.page.getByRole('button', { name: 'Post', exact: true }).click();
  await c.until('it wakes by itself', async () => /1 replayed/.test((await proof(device)).Resume));
}

async function byHand(c, device, received) {
  await device.getByRole('button', { name: 'Disconnect' }).click();
  await device.getByLabel('Acknowledge').selectOption('manual');
  await device.getByLabel('Transport').selectOption('websocket');
  await device.getByRole('button', { name: 'Connect', exact: true }).click();
  await device.getByText('live', { exact: true }).waitFor();
  await c.page.getByRole('button', { name: 'Post', exact: true }).click();
  await c.until('it arrives', async () => (await received(device).count()) >= 1);
  assert.match((await proof(device)).Place, /nothing acknowledged/);
  await device
    .getByRole('button', { name: /Acknowledge up to/ })
    .first()
    .click();
  await c.until('acknowledged', async () => /acknowledged \d/.test((await proof(device)).Place));
  await device.getByText('{"type":"ack"').first().waitFor();
}

async function forms(c) {
  const { page } = c;
  const shown = page.getByRole('region', { name: 'Post a notification' }).locator('pre');
  const names = {
    curl: /^curl -sS/,
    TypeScript: /NotificationClient/,
    SQL: /SELECT recado\.notify\('order_created'/,
    'Command line': /^recado notify --type/,
  };
  for (const [name, pattern] of Object.entries(names)) {
    await page.getByRole('button', { name, exact: true }).click();
    assert.match(await shown.innerText(), pattern);
  }
  await page.getByLabel(/^Data/).fill('{');
  await c.says(/data is not JSON/);
  assert.ok(await page.getByRole('button', { name: 'Post', exact: true }).isDisabled());
}
