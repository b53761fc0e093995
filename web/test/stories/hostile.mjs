// Hostile texts in every field stay texts, and the token stays in the page.
import assert from 'node:assert/strict';

const PAGES = {
  '#/overview': 'Overview',
  '#/sessions': 'Sessions',
  '#/users/ann': /^User/,
  '#/why?user=ann&seq=3': 'Why',
  '#/tail': 'Live tail',
  '#/playground': 'Playground',
  '#/upstream?user=ann': 'Upstream',
  '#/log': 'Log',
  '#/instances': 'Instances',
  '#/settings': 'Settings',
  '#/settings/keys': 'Service keys',
  '#/settings/analysts': 'Analysts',
  '#/settings/audit': 'Audit',
};

export async function story(c) {
  await realTexts(c);
  await everyField(c);
  await links(c);
  await refused(c);
  await frame(c);
}

const hacked = (page) =>
  page.evaluate(() => [window.hacked, document.querySelectorAll('main img, main script, dialog img').length]);

/** Texts that the hub really stores. */
async function realTexts(c) {
  const { page, scene } = c;
  await c.signIn();
  for (const [hash, table] of [
    ['#/tail', 'Log'],
    ['#/users/ann', 'Notifications'],
  ]) {
    await c.go(hash, /./);
    await c.table(table).getByText('<img src=x onerror=hacked=1>').first().waitFor();
    const row = c.row(table, '<img');
    await row.getByRole('button').first().click();
    await page.locator('pre.json').getByText('<script>hacked=2</script>').first().waitFor();
    assert.deepEqual(await hacked(page), [undefined, 0], hash);
  }
  await c.go('#/tail?type=game-data', 'Live tail');
  await c.row('Log', 'Fake').waitFor();
  // The address is text, too.
  for (const hash of [
    `#/users/${encodeURIComponent(scene.hostile)}`,
    `#/sessions?user=${encodeURIComponent(scene.hostile)}`,
    `#/${encodeURIComponent(scene.hostile)}`,
  ]) {
    c.expect(/status of 4(22|00|04)/);
    await page.evaluate((to) => {
      location.hash = to;
    }, hash);
    await page.waitForTimeout(800);
    assert.deepEqual(await hacked(page), [undefined, 0], hash);
  }
}

/** Every text of every answer is replaced by a hostile one, also those that the hub would refuse to store. */
async function everyField(c) {
  const { page, scene } = c;
  const poison = (value, name = '') => {
    if (typeof value === 'string')
      return /(_at|^at|^from|^to|before)$/.test(name) && /^\d{4}-/.test(value) ? value : scene.hostile + value;
    if (Array.isArray(value)) return name === 'columns' ? value : value.map((one) => poison(one, name));
    if (value && typeof value === 'object')
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, poison(one, key)]));
    return value;
  };
  await page.route(/\/api\/admin\/(?!log\?|live)/, async (route) => {
    const answer = await route.fetch();
    const text = await answer.text();
    await route.fulfill({ response: answer, body: JSON.stringify(poison(JSON.parse(text))) });
  });
  await page.route(/\/api\/admin\/log\?/, async (route) => {
    const row = {
      seq: 1,
      id: 'i',
      type: 't',
      title: 't',
      message: 'm',
      data: { a: 'b' },
      created_at: new Date().toISOString(),
      user_ids: ['u'],
      account_id: 'a',
      broadcast: false,
      source: 's',
      expires_at: null,
      replay: true,
      bytes: 3,
    };
    await route.fulfill({ contentType: 'application/x-ndjson', body: `${JSON.stringify(poison(row))}\n` });
  });
  for (const [hash, title] of Object.entries(PAGES)) {
    await c.go(hash, title);
    await page.waitForTimeout(900);
    if (!/overview|playground|log|analysts/.test(hash))
      await page.getByText('<img src=x onerror=hacked=1>').locator('visible=true').first().waitFor();
    for (const button of await page.locator('td button').all()) {
      if (/JSON|commands|Show/.test(`${await button.innerText()} ${await button.getAttribute('aria-label')}`)) {
        await button.click();
        break;
      }
    }
    assert.deepEqual(await hacked(page), [undefined, 0], hash);
  }
  await page.unroute(/\/api\/admin\/(?!log\?|live)/);
  await page.unroute(/\/api\/admin\/log\?/);
}

/** A link is good once. Neither it nor the token is in an address, history entry or referrer. */
async function links(c) {
  const { page, scene } = c;
  c.expect(/status of 401/);
  const refused = async (link, why) => {
    // As in a new tab.
    await page.evaluate(() => sessionStorage.clear());
    await page.goto('about:blank');
    await c.open(link);
    await page.getByRole('alert').filter({ hasText: why }).waitFor();
    await c.says('Run recado admin for a new link');
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  };
  await refused(scene.expired, 'this link has expired');
  // A token, as links of an earlier version had it.
  await refused(scene.token, 'this is no link to the console of this hub');

  await page.goto('about:blank');
  await c.open(scene.link);
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  const token = await page.evaluate(() => sessionStorage.getItem('recado.console.key'));
  assert.match(token, /^eyJ/);
  const look = async () => {
    const found = await page.evaluate(() =>
      [
        location.href,
        document.referrer,
        document.cookie,
        JSON.stringify(history.state),
        JSON.stringify(performance.getEntries().map(({ name }) => name)),
        document.documentElement.outerHTML,
      ].join('\n'),
    );
    assert.ok(!found.includes(token), 'the token is in the page or its address');
    const shown = await page.evaluate(() => location.href + document.documentElement.outerHTML);
    assert.ok(!shown.includes('rcl_'), 'the link stays in the page or its address');
  };
  await look();
  await page.reload();
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  await look();
  await c.go('#/sessions', 'Sessions');
  await page.goBack();
  await look();
  const stored = await page.evaluate(() => [Object.keys(localStorage), Object.keys(sessionStorage)]);
  assert.deepEqual(stored, [[], ['recado.console.key']]);

  // From the history, in the same tab: the session stays. In another tab: the link was used.
  await c.open(scene.link);
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.getItem('recado.console.key')), token);
  await refused(scene.link, 'this link was used before');
}

/** A refused token leads back to the form, with the hub's words. */
async function refused(c) {
  const { page, scene } = c;
  c.expect(/status of 40[13]/);
  await page.goto(`${scene.url}/admin`);
  await page.evaluate(() => sessionStorage.setItem('recado.console.key', 'rck_wrong'));
  await page.reload();
  await page.getByLabel('Admin key or token').waitFor();
  await page.getByRole('alert').waitFor();
  // A service may not enter.
  await page.getByLabel('Admin key or token').fill(scene.service);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.getItem('recado.console.key')), null);
  await page.getByLabel('Admin key or token').fill(scene.token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Admin key or token').waitFor();
}

/** No other page may show the console in a frame. */
async function frame(c) {
  const { page, scene } = c;
  c.expect(/frame-ancestors|ERR_BLOCKED_BY_RESPONSE|Refused to (frame|display)|Framing/);
  await page.goto('about:blank');
  await page.setContent(`<iframe src="${scene.url}/admin" width="800" height="600"></iframe>`);
  await page.waitForTimeout(1000);
  const [, inner] = page.frames();
  assert.ok(!inner || !(await inner.content()).includes('admin.js'), 'the console is shown in a frame');
}
