// Each page shows what the hubs have, and its actions reach them.
import assert from 'node:assert/strict';

export async function story(c) {
  const { page } = c;
  await c.signIn();
  await overview(c);
  await sessions(c);
  await devices(c);
  await user(c);
  await why(c);
  await tail(c);
  await upstream(c);
  await log(c);
  await settings(c);
  await instances(c);
  assert.equal(await page.evaluate(() => document.cookie), '');
}

async function overview(c) {
  const { page } = c;
  const tile = (label) => page.locator('.tiles').getByRole('link', { name: new RegExp(`^${label}`) });
  await c.until('both instances are shown', async () => /Instances\s*2/.test(await tile('Instances').innerText()));
  await c.until('seven clients are shown', async () => /Connections\s*7/.test(await tile('Connections').innerText()));
  await c.until('four charts', async () => (await page.locator('figure canvas').count()) === 4);
  for (const title of ['Appended', 'Delivered', 'Connections', 'Worst lag']) {
    await page
      .getByRole('list', { name: `${title}, last values` })
      .getByRole('listitem')
      .nth(1)
      .waitFor();
  }
  await page.getByRole('button', { name: '30 minutes' }).click();
  assert.match(page.url(), /window=30m/);
}

async function sessions(c) {
  const { page } = c;
  await c.go('#/sessions', 'Sessions');
  await c.says('7 of 7 sessions');
  const first = c.table('Sessions').locator('tbody tr').first();
  const lag = await first.locator('td').nth(3).innerText();
  assert.ok(Number(lag) > 0, `the first row lags most: ${lag}`);
  // The filter stands in the address, and the address alone restores it.
  await page.getByLabel('Account', { exact: true }).fill('9');
  await c.says('3 of 7 sessions');
  assert.match(page.url(), /account=9/);
  await page.reload();
  await c.says('3 of 7 sessions');
  await page.getByLabel('Account', { exact: true }).fill('');
  await page.getByLabel('User', { exact: true }).fill('cat-*');
  await c.says('3 of 7 sessions');
  assert.ok(await page.getByRole('button', { name: 'Close all that match' }).isDisabled(), 'a pattern closes nothing');
  await page.getByRole('button', { name: 'Clear filters' }).click();
  await c.says('7 of 7 sessions');
  await page.getByLabel('Account', { exact: true }).fill('9');
  await page.getByLabel('Lag at least').fill('abc');
  await c.says('Lag must be a whole number.');
  assert.ok(await page.getByRole('button', { name: 'Close all that match' }).isDisabled(), 'a wrong filter');
  await page.getByRole('button', { name: 'Clear filters' }).click();
  await c.says('7 of 7 sessions');
  // Sort by a click on the header.
  const header = c.table('Sessions').getByRole('columnheader', { name: 'User' });
  await header.getByRole('button').click();
  await header.getByRole('button').click();
  await c.until('sorted by user', async () => (await header.getAttribute('aria-sort')) === 'ascending');
  await c.until('ann is first', async () =>
    /^ann/.test(await c.table('Sessions').locator('tbody tr').first().innerText()),
  );
  // Close one, then all of an account, by typing their number.
  await c
    .row('Sessions', 'bob')
    .getByRole('button', { name: /Close session/ })
    .click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('Show this action as a command').click();
  assert.match(await dialog.innerText(), /recado close --session [0-9a-f-]{36}/);
  assert.match(await dialog.innerText(), /curl -sS/);
  await c.confirm('Close the session');
  await c.says('Closed 1 session of bob.');
  await page.getByLabel('Account', { exact: true }).fill('9');
  await c.says(/3 of [67] sessions/);
  await page.getByRole('button', { name: 'Close all that match' }).click();
  await c.confirm('Close all', '3');
  await c.says('Closed 3 sessions; those of other hubs go within five seconds.');
  await c.says('No session matches this filter');
}

/** Three users of account 9 were closed: their devices are away, and the list has them with the reason. */
async function devices(c) {
  const { page } = c;
  await c.go('#/devices', 'Devices');
  const rows = c.table('Devices').locator('tbody tr');
  await c.until('seven devices', async () => (await rows.count()) === 7);
  assert.match(await rows.first().innerText(), /^ann\s+web-1\s+connected/, 'the first row lags most');
  await c.row('Devices', 'web-1').getByText('has not acknowledged for').waitFor();
  await page.getByRole('combobox', { name: 'State', exact: true }).selectOption('away');
  await c.until('four are away', async () => (await rows.count()) === 4);
  assert.match(page.url(), /state=away/);
  await c.row('Devices', 'cat-1').getByText('closed_by_admin').waitFor();
  await page.reload();
  await c.until('the address keeps the filter', async () => (await rows.count()) === 4);
  await page.getByText('Show this table as a command').click();
  await c.says('recado devices --state away --sort=-lag');
  await page.getByLabel('User', { exact: true }).fill('nobody');
  await c.says('No device matches this filter');
  await page.getByRole('button', { name: 'Clear filters' }).click();
  await c.table('Devices').getByRole('columnheader', { name: 'User' }).getByRole('button').click();
  await c.until('sorted by user, descending', async () => /^eve/.test(await rows.first().innerText()));
}

async function user(c) {
  const { page } = c;
  await c.go('#/users/ann', 'User ann');
  await c.row('Devices', 'web-1').waitFor();
  await c.row('Devices', 'phone').waitFor();
  // The phone opened the inbox before anything was posted.
  await c.says('15, neither read nor archived');
  await c.says('0 seen, 0 read, 0 archived');
  await c.says('7 above 0');
  const history = c.table('Notifications');
  await history.getByText('order 12').first().waitFor();
  await history.getByText('to everyone').first().waitFor();
  assert.ok((await history.locator('tbody .state').count()) > 0, 'a verdict for each device');
  await history
    .getByRole('button', { name: /^JSON of/ })
    .first()
    .click();
  await c.until('the focus is on the JSON', () => page.evaluate(() => document.activeElement.matches('dialog .json')));
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await page.getByRole('button', { name: 'Set web-1 forward' }).click();
  await c.confirm('Set forward', 'web-1');
  await c.says(/web-1 is now at/);
  await c.until('the lag is gone', async () =>
    /web-1\s+\S+\s+[\d,]+\s+0\s/.test(await c.row('Devices', 'web-1').innerText()),
  );
  await page.getByRole('button', { name: 'Revoke access' }).click();
  await page.getByLabel('Reason, for the audit').fill('left the company');
  await c.confirm('Revoke');
  await c.says(/tokens from before .* are refused/i);
  await c.says('Not connected at the moment');
  await c.says('(left the company)');
  await page.getByRole('button', { name: 'Lift the revocation' }).click();
  await c.confirm('Lift the revocation');
  await c.says('The revocation is lifted.');
  await c.go('#/users/nina', 'User nina');
  await c.says('This user has no device');
  await c.says('This user has never opened an inbox');
  // Browsers remove such an id from a path.
  await c.go('#/users/..', 'User ..');
  await c.says('This user has no device');
}

async function why(c) {
  const { page } = c;
  const { notifications } = await c.request('/api/admin/users/ann/notifications?limit=100');
  const seq = notifications.find(({ title }) => title === 'order 7').seq;
  await c.go('#/why', 'Why');
  await c.says('Type a user and a number');
  await page.getByLabel('User id').fill('ann');
  await page.getByLabel('Number (seq)').fill(String(seq));
  await page.getByRole('button', { name: 'Ask' }).click();
  const { text } = await c.request(`/api/admin/why?user=ann&seq=${seq}`);
  const verdict = page.locator('.verdict');
  await verdict.waitFor();
  assert.ok((await verdict.innerText()).includes(text.split('\n')[0]), 'the words of the hub');
  await page.getByText(`Show this question as a command`).click();
  await c.says(`recado why ann ${seq}`);
  await c.go(`#/why?user=bob&seq=${seq}`, 'Why');
  await c.until('the verdict for bob', async () => /not addressed/.test(await page.locator('.verdict').innerText()));
  assert.equal(await page.getByRole('heading', { name: 'Devices' }).count(), 0, 'the answer lists no devices');
  await page.getByRole('link', { name: 'Devices and sessions of bob' }).waitFor();
}

async function tail(c) {
  const { page } = c;
  await c.go('#/tail', 'Live tail');
  await c.row('Log', 'order 12').waitFor();
  await c.post({ type: 'tail_test', title: 'fresh row', message: 'm', data: { deep: [1] }, user_id: 'ann' });
  const row = c.row('Log', 'fresh row');
  await row.waitFor();
  await row.getByRole('button').click();
  const json = page.getByRole('region', { name: /as JSON/ });
  assert.match(await json.innerText(), /"deep"/);
  assert.match(
    await page.getByRole('link', { name: /why did ann get it/ }).getAttribute('href'),
    /^#\/why\?user=ann&seq=\d+$/,
  );
  await page.getByRole('button', { name: 'Pause' }).click();
  await c.post({ type: 'tail_test', title: 'during the pause', message: 'm', user_id: 'ann' });
  await page.getByLabel('Type', { exact: true }).fill('tail_*');
  await page.getByRole('button', { name: 'Resume' }).click();
  await c.row('Log', 'during the pause').waitFor();
  await c.until('only the type', async () => (await c.table('Log').locator('tbody tr').count()) === 2);
  await page.getByLabel('Type', { exact: true }).fill('none_such');
  await c.says('No row yet');
}

async function upstream(c) {
  const { page } = c;
  await c.go('#/upstream', 'Upstream');
  await c.row('Provider sessions', 'eve').getByText('refused', { exact: true }).waitFor();
  await page.getByLabel('User', { exact: true }).fill('ann');
  await c.until('one row', async () => (await c.table('Provider sessions').locator('tbody tr').count()) === 1);
  await page.getByRole('button', { name: /^Release: fake, ann/ }).click();
  await c.confirm('Release');
  await c.says('Asked the owner to release it.');
}

async function log(c) {
  await c.go('#/log', 'Log');
  await c.says(/1 partition|partitions/);
  await c.says('90 d');
  await c.until('a partition', async () => (await c.table('Partitions').locator('tbody tr').count()) >= 1);
}

async function settings(c) {
  const { page } = c;
  await c.go('#/settings', 'Settings');
  await page.getByLabel('Find').fill('jwt_secret');
  const secret = c.row('Settings', 'RECADO_JWT_SECRET');
  await c.until('the secret is not told', async () =>
    /RECADO_JWT_SECRET\s+set\s+environment/.test(await secret.innerText()),
  );
  await c.go('#/settings/keys', 'Service keys');
  await c.until('two keys', async () => (await c.table('Service keys').locator('tbody tr').count()) >= 2);
  await c.go('#/settings/analysts', 'Analysts');
  await c.says(/No analyst|Login/);
  await c.go('#/settings/audit', 'Audit');
  await c.row('Audit', 'session.close').waitFor();
  await c.row('Audit', '3 sessions').waitFor();
  await c.row('Audit', 'left the company').waitFor();
  await page.getByLabel('Act', { exact: true }).fill('user.*');
  await c.until('only users', async () => !/session\.close/.test(await page.locator('main').innerText()));
}

async function instances(c) {
  const { scene } = c;
  await c.go('#/instances', 'Instances');
  const rows = c.table('Instances').locator('tbody tr');
  await c.until('two instances', async () => (await rows.count()) === 2);
  const other = new URL(scene.other).port;
  const row = c.row('Instances', `:${other}`);
  const name = (await row.locator('td').first().innerText()).trim();
  await row.getByRole('button', { name: /Drain/ }).click();
  await c.confirm('Drain', name);
  await c.says(/Draining \d+ connections? within 30 s/);
  await c.until('the instance says so', async () => /draining|not ready/.test(await row.innerText()));
}
