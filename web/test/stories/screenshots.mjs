// Takes a picture of each page, light and dark, for docs/images/console. It is no test, and is started by hand.
import { mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';

export const options = { viewport: { width: 1280, height: 800 } };

const FOLDER = new URL('../../../docs/images/console/', import.meta.url);
/** Most bytes of all pictures. */
const LIMIT = 1.5 * 1024 * 1024;
const QUALITY = 72;
const TYPES = ['order_created', 'payment_confirmed', 'stock_alert', 'cart_updated'];

export async function story(c) {
  const { page } = c;
  mkdirSync(FOLDER, { recursive: true });
  await c.signIn();
  const { seq } = await c.post({ type: 'order_created', title: 'New order', message: 'Order #1000', user_id: 'ann' });
  const stop = traffic(c);
  await playground(c);
  const pages = {
    sessions: ['#/sessions', 'Sessions'],
    devices: ['#/devices', 'Devices'],
    user: ['#/users/ann', 'User ann'],
    why: [`#/why?user=ann&seq=${seq}`, 'Why'],
    tail: ['#/tail', 'Live tail'],
    upstream: ['#/upstream', 'Upstream'],
    log: ['#/log', 'Log'],
    instances: ['#/instances', 'Instances'],
    settings: ['#/settings', 'Settings'],
    keys: ['#/settings/keys', 'Service keys'],
    audit: ['#/settings/audit', 'Audit'],
  };
  for (const [name, [hash, title]] of Object.entries(pages)) {
    await c.go(hash, title);
    await page.waitForTimeout(2000);
    await both(page, name);
  }
  await c.go('#/sessions?account=9', 'Sessions');
  await c.says(/3 of \d+ sessions/);
  await page.getByRole('button', { name: 'Close all that match' }).click();
  await both(page, 'close');
  await page.keyboard.press('Escape');
  // The charts need a while.
  await page.waitForTimeout(Number(process.env.CHART_MS ?? 90_000));
  await page.setViewportSize({ width: 1280, height: 1060 });
  await c.go('#/overview', 'Overview');
  await page.waitForTimeout(4000);
  await both(page, 'overview');
  await stop();
  const names = readdirSync(FOLDER);
  const bytes = names.reduce((sum, name) => sum + statSync(new URL(name, FOLDER)).size, 0);
  console.log(`${names.length} pictures, ${Math.round(bytes / 1024)} of ${LIMIT / 1024} KiB`);
  if (bytes > LIMIT) throw new Error('the pictures are too large');
}

/** The page as it is, in both schemes. */
async function both(page, name) {
  await page.mouse.move(2, 2);
  const devtools = await page.context().newCDPSession(page);
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(400);
    const { data } = await devtools.send('Page.captureScreenshot', { format: 'webp', quality: QUALITY });
    writeFileSync(new URL(`${name}-${colorScheme}.webp`, FOLDER), Buffer.from(data, 'base64'));
  }
  await page.emulateMedia({ colorScheme: 'light' });
}

async function playground(c) {
  const { page } = c;
  await c.go('#/playground?user=pia', 'Playground');
  const device = page.getByRole('region', { name: 'Device 1' });
  await device.getByRole('button', { name: 'Connect', exact: true }).click();
  await device.getByText('live', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Post', exact: true }).click();
  await page.waitForTimeout(1000);
  await device.getByRole('button', { name: 'Cut the connection' }).click();
  await page.getByRole('button', { name: 'Post 5' }).click();
  await c.says(/Posted 5/);
  await device.getByRole('button', { name: 'Come back', exact: true }).click();
  await device.getByText('the history has 6').waitFor();
  await page.setViewportSize({ width: 1280, height: 1440 });
  await both(page, 'playground');
  await page.setViewportSize(options.viewport);
}

/** Posts as a shop would, now more and now less. Returns what ends it. */
function traffic(c) {
  let going = true;
  const run = async () => {
    for (let n = 1; going; n++) {
      const count = Math.round(3 + 2.5 * Math.sin(n / 12));
      for (let m = 0; m < count; m++) {
        const at = n * 7 + m;
        const to = at % 5 === 0 ? { account_id: '7' } : { user_id: at % 3 === 0 ? 'ann' : `user-${(at % 40) + 1}` };
        const data = { order_id: String(1000 + at) };
        await c.post({
          type: TYPES[at % 4],
          title: ['New order', 'Payment confirmed', 'Low stock', 'Cart updated'][at % 4],
          message: `Order #${1000 + at}`,
          data,
          ...to,
        });
      }
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
  };
  const done = run();
  return () => {
    going = false;
    return done;
  };
}
