// Checks the package: lint, types, shape, sizes, and the committed public surface in api/.
//
// `npm run check -- --update` writes api/ anew after a change of the surface that is meant.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const REACT = ['RecadoProvider', 'useConnection', 'useNotifications', 'useOnNotification', 'useRecado', 'useUpstream'];
/**
 * What a page imports, and the most bytes of it, gzipped. The client is measured with all that it needs; everything else
 * on top of the client. README.md says why not 8 KiB.
 */
const LIMITS = [
  { name: 'client', imports: { index: ['RecadoClient', 'RecadoError'] }, limit: 10.4 * 1024 },
  { name: 'inbox list', imports: { index: ['RecadoClient', 'RecadoError', 'InboxList'] }, over: 'client', limit: 1760 },
  { name: 'react', imports: { react: REACT }, limit: 1580 },
  { name: 'react inbox', imports: { react: [...REACT, 'useInbox'] }, over: 'react', limit: 2016 },
  { name: 'compat', imports: { compat: ['useWebSocket', 'useProviderWebSocket'] }, limit: 1536 },
];
const problems = [];

function run(name, ...args) {
  try {
    execFileSync(`node_modules/.bin/${name}`, args, { stdio: 'pipe' });
    console.log(`${name}: good`);
  } catch (error) {
    problems.push(`${name} ${args.join(' ')}:\n${error.stdout}${error.stderr}`);
  }
}

/** The declarations that an application can reach: entry points, and what they import types from. */
function surface() {
  const { exports } = JSON.parse(readFileSync('package.json', 'utf8'));
  const found = new Map();
  const look = (path) => {
    if (found.has(path)) return;
    const text = readFileSync(path, 'utf8');
    found.set(path, text);
    for (const [, to] of text.matchAll(/from '(\.[^']+)'/g)) look(join(dirname(path), to.replace(/\.js$/, '.d.ts')));
  };
  for (const entry of Object.values(exports)) if (entry.types) look(entry.types);
  return new Map([...found].map(([path, text]) => [relative('dist', path), text]));
}

function compareSurface(update) {
  const now = surface();
  if (update) {
    rmSync('api', { recursive: true, force: true });
    mkdirSync('api');
    for (const [name, text] of now) writeFileSync(join('api', name), text);
  }
  const read = (name) => {
    try {
      return readFileSync(join('api', name), 'utf8');
    } catch {
      return null;
    }
  };
  const changed = [...now].filter(([name, text]) => read(name) !== text).map(([name]) => name);
  const gone = readdirSync('api').filter((name) => !now.has(name));
  if (changed.length + gone.length > 0) {
    const names = [...changed, ...gone].join(' ');
    problems.push(`the public surface changed in ${names}: if that is meant, run npm run check -- --update`);
  } else {
    console.log(`api: good, ${now.size} files`);
  }
}

/** The size of a bundle that uses these names. An entry other than the client's is measured without the client. */
async function size(imports) {
  const [[entry, names]] = Object.entries(imports);
  const options = { bundle: true, minify: true, format: 'esm', target: 'es2022', write: false, logLevel: 'silent' };
  const contents = `export { ${names.join(', ')} } from './dist/${entry}.js'`;
  const external = ['react', 'react/jsx-runtime', ...(entry === 'index' ? [] : ['./index.js', './client.js'])];
  const { outputFiles } = await build({ ...options, stdin: { contents, resolveDir: '.' }, external });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

async function compareSizes() {
  const sizes = {};
  for (const { name, imports, over, limit } of LIMITS) {
    sizes[name] = await size(imports);
    const bytes = sizes[name] - (sizes[over] ?? 0);
    console.log(`size: ${name} ${bytes} of ${limit} bytes gzipped`);
    if (bytes > limit) problems.push(`${name} has ${bytes} bytes gzipped; the limit is ${limit}`);
  }
}

run('biome', 'check', '.');
run('tsc', '-p', 'test');
execFileSync('node', ['scripts/build.mjs'], { stdio: 'inherit' });
run('publint', '--strict');
compareSurface(process.argv.includes('--update'));
await compareSizes();
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
