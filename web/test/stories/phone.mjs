// A phone: no page scrolls sideways, the menu opens, and targets are large enough to touch.
import assert from 'node:assert/strict';

export const options = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

const PAGES = {
  '#/sessions': 'Sessions',
  '#/users/ann': 'User ann',
  '#/users': 'User',
  '#/why?user=ann&seq=3': 'Why',
  '#/tail': 'Live tail',
  '#/playground': 'Playground',
  '#/upstream': 'Upstream',
  '#/log': 'Log',
  '#/instances': 'Instances',
  '#/settings': 'Settings',
  '#/settings/keys': 'Service keys',
  '#/settings/audit': 'Audit',
  '#/overview': 'Overview',
};

export async function story(c) {
  const { page } = c;
  await c.signIn();
  await page
    .getByText('All is well.')
    .or(page.getByRole('region', { name: 'What is not well' }))
    .first()
    .waitFor();
  assert.ok((await c.overflow()) <= 0, 'the overview scrolls sideways');
  await page.getByRole('button', { name: 'Overview' }).tap();
  await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Sessions' }).tap();
  await c.says(/\d of \d sessions/);
  assert.equal(await page.getByRole('navigation', { name: 'Pages' }).isVisible(), false, 'the menu closes');
  for (const [hash, title] of Object.entries(PAGES)) {
    await c.go(hash, title);
    await page.waitForTimeout(700);
    assert.ok((await c.overflow()) <= 0, `${title} scrolls sideways by ${await c.overflow()} px`);
    const small = await page.evaluate(() =>
      [...document.querySelectorAll('button, select, input')]
        .filter((one) => one.getClientRects().length > 0 && one.getBoundingClientRect().height < 24)
        .map((one) => one.outerHTML.slice(0, 100)),
    );
    assert.deepEqual(small, [], `${title}: targets that are too small`);
  }
  // A table scrolls inside its own frame.
  await c.go('#/sessions', 'Sessions');
  const region = page.getByRole('region', { name: 'Sessions, scrollable' });
  await region.waitFor();
  const [inner, outer] = await region.evaluate((one) => [one.scrollWidth, one.clientWidth]);
  assert.ok(inner > outer, 'the table is wider than a phone');
}
