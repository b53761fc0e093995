// Checks the console: lint, types, unit tests, and that dist/ is what src/ builds.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** Most lines of a source file. */
const MOST_LINES = 400;
const problems = [];

function run(program, ...args) {
  try {
    const said = execFileSync(program, args, { stdio: 'pipe', encoding: 'utf8' });
    console.log(`${[program.split('/').pop(), ...args].join(' ')}: good`);
    for (const line of said.split('\n').filter((one) => /^(size|dist): /.test(one))) console.log(line);
  } catch (error) {
    problems.push(`${program} ${args.join(' ')}:\n${error.stdout}${error.stderr}`);
  }
}

/** Ways to turn text into markup, or to set a style from a string, that the page never uses. */
const REFUSED = [
  /dangerouslySetInnerHTML/,
  /\.innerHTML\b/,
  /insertAdjacentHTML/,
  /document\.write/,
  /style="/,
  /cssText/,
];

for (const name of readdirSync('src', { recursive: true }).filter((one) => /\.(tsx?|css)$/.test(one))) {
  const text = readFileSync(`src/${name}`, 'utf8');
  const lines = text.split('\n').length;
  if (lines > MOST_LINES) problems.push(`src/${name} has ${lines} lines; the limit is ${MOST_LINES}`);
  for (const pattern of REFUSED) if (pattern.test(text)) problems.push(`src/${name} uses ${pattern}`);
}
run('node_modules/.bin/biome', 'check', '.');
run('node_modules/.bin/tsc', '-p', '.');
run('node', 'test/unit.mjs');
run('node', 'build.mjs', '--check');
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
