// The console without a mouse: keys move between pages, Tab reaches everything, and the focus is visible.
import assert from 'node:assert/strict';

export async function story(c) {
  const { page } = c;
  const { keyboard } = page;
  await page.goto(`${c.scene.url}/admin`);
  // Sign in: the field has the focus.
  await page.getByLabel('Admin key or token').waitFor();
  await c.until('the field has the focus', () => page.evaluate(() => document.activeElement?.tagName === 'INPUT'));
  await keyboard.insertText(c.scene.token);
  await keyboard.press('Enter');
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  // The first Tab offers to skip the navigation.
  await keyboard.press('Tab');
  assert.match(await focused(page), /Skip to the content/);
  await keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'main');
  // Each page has a key.
  for (const [letter, title] of Object.entries({
    s: 'Sessions',
    d: 'Devices',
    w: 'Why',
    t: 'Live tail',
    p: 'Playground',
    r: 'Upstream',
    l: 'Log',
    i: 'Instances',
    c: 'Settings',
    u: 'User',
    o: 'Overview',
  })) {
    await keyboard.press('g');
    await keyboard.press(letter);
    const heading = page.getByRole('heading', { level: 1, name: title, exact: true });
    await heading.waitFor();
    await c.until(`the heading of ${title} has the focus`, () =>
      page.evaluate(() => document.activeElement?.tagName === 'H1'),
    );
  }
  await keyboard.press('?');
  await page.getByRole('dialog', { name: 'Keys' }).waitFor();
  await keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await keyboard.press('g');
  await keyboard.press('s');
  await c.says('of 7 sessions');
  // The first filter, sorting and a dialog.
  await keyboard.press('/');
  assert.equal(await page.evaluate(() => document.activeElement?.closest('label')?.innerText.trim()), 'User');
  await keyboard.insertText('cat-1');
  await c.says('1 of 7 sessions');
  await keyboard.press('Escape');
  await everythingIsReached(c);
  const close = page.getByRole('button', { name: /Close session of cat-1/ });
  await close.focus();
  await keyboard.press('Enter');
  const dialog = page.getByRole('dialog');
  await dialog.waitFor();
  // The focus stays in the dialog, and comes back to the button that opened it.
  for (let n = 0; n < 12; n++) {
    await keyboard.press('Tab');
    assert.ok(
      await page.evaluate(
        () => document.activeElement === document.body || document.activeElement?.closest('dialog') !== null,
      ),
      'the focus left the dialog',
    );
  }
  await keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });
  await c.until('the focus is back', async () => /Close session of cat-1/.test(await focused(page)));
  await keyboard.press('Enter');
  const act = page.getByRole('dialog').getByRole('button', { name: 'Close the session' });
  await act.focus();
  await keyboard.press('Enter');
  await c.says('Closed 1 session of cat-1.');
}

/** What a screen reader would call the focused element, roughly. */
const focused = (page) =>
  page.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent ?? '');

/** Tab reaches each control of the page, and each shows an outline. */
async function everythingIsReached(c) {
  const { page } = c;
  await page.evaluate(() => {
    document.activeElement?.blur();
    window.scrollTo(0, 0);
  });
  const all = await page.evaluate(() => {
    const found = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')];
    const usable = found.filter(
      (one) => !one.disabled && one.checkVisibility({ contentVisibilityAuto: true }) && one.getClientRects().length > 0,
    );
    usable.forEach((one, at) => {
      one.dataset.at = String(at);
    });
    return usable.length;
  });
  const reached = new Set();
  for (let n = 0; n < all + 20 && reached.size < all; n++) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const one = document.activeElement;
      const style = getComputedStyle(one);
      if (one !== document.body && (style.outlineStyle === 'none' || Number.parseFloat(style.outlineWidth) < 1))
        return `no outline: ${one.outerHTML.slice(0, 120)}`;
      return one?.dataset?.at ?? null;
    });
    assert.ok(at === null || /^\d+$/.test(at), at);
    if (at !== null) reached.add(at);
  }
  // A refresh may replace a row while Tab goes round.
  assert.ok(reached.size >= all - 2, `Tab reached ${reached.size} of ${all} controls`);
}
