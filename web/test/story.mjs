// Runs one story in Chromium against running hubs.
//
//   CONSOLE_SCENE='{"url":…,"token":…}' node test/story.mjs NAME
//
// The suite starts the hubs (tests/suite/console_page.rs). A story fails with the first thing that is not as it says,
// with an error that the page logs, and with a request to another host.
import { open } from './support.mjs';

const name = process.argv[2];
const scene = JSON.parse(process.env.CONSOLE_SCENE ?? '{}');
if (!/^[a-z_]+$/.test(name ?? '') || !scene.url || !scene.token) {
  console.error('usage: CONSOLE_SCENE=\'{"url":"http://…","token":"…"}\' node test/story.mjs NAME');
  process.exit(2);
}
const { story, options } = await import(`./stories/${name}.mjs`);
const console_ = await open(scene, options ?? {});
try {
  await story(console_);
  console_.check();
  console.log(`${name}: good`);
} catch (error) {
  console.error(`${name}: ${error.stack}`);
  console.error(`at ${console_.page.url()}`);
  console.error((await console_.page.locator('body').innerText()).slice(0, 3000));
  if (process.env.CONSOLE_SHOT) await console_.page.screenshot({ path: process.env.CONSOLE_SHOT, fullPage: true });
  process.exitCode = 1;
} finally {
  await console_.close();
}
