// Runs a test file, and closes with a line that counts its tests: node run-test.mjs NAME FILE
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { setTimeout as sleep } from 'node:timers/promises';

const [name, file] = process.argv.slice(2);
let passed = 0;
let failed = 0;
const events = run({ files: [file], timeout: 600_000 });
// A file is reported as a test, too.
const isTest = ({ name, nesting, details }) => nesting > 0 || (details.type !== 'suite' && name !== file);
events.on('test:pass', (event) => void (isTest(event) && passed++));
events.on('test:fail', () => void failed++);
events.compose(new spec()).pipe(process.stdout);
events.once('end', async () => {
  await sleep(100);
  console.log(`${name}: ${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
});
