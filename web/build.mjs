// Builds the console into dist/, which is committed so that `cargo build` needs no Node.
//
//   node build.mjs           writes dist/
//   node build.mjs --check   builds in memory and fails if dist/ differs
//   node build.mjs --watch   writes dist/ after each change
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { gunzipSync, gzipSync } from 'node:zlib';
import { context, build as esbuild } from 'esbuild';
import { minify } from 'terser';

/** Most bytes of admin.js and admin.css together, gzipped. */
const LIMIT = 60 * 1024;
/** Packages whose code is in admin.js; their licences ask to be told. */
const PACKAGES = ['preact', 'uplot'];
const DIST = new URL('dist/', import.meta.url);

const options = {
  absWorkingDir: new URL('.', import.meta.url).pathname,
  entryPoints: { admin: 'src/main.tsx' },
  outdir: 'dist',
  bundle: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  write: false,
};

function notice() {
  const parts = ['The console contains code of these packages.\n'];
  for (const name of PACKAGES) {
    const folder = new URL(`node_modules/${name}/`, import.meta.url);
    const { version } = JSON.parse(readFileSync(new URL('package.json', folder), 'utf8'));
    parts.push(`${name} ${version}\n\n${readFileSync(new URL('LICENSE', folder), 'utf8').trim()}\n`);
  }
  return Buffer.from(parts.join('\n---\n\n'));
}

/** esbuild bundles; terser makes the bundle 5 % smaller than esbuild would. */
async function smaller(code) {
  const compress = { passes: 3, unsafe_arrows: true };
  return Buffer.from((await minify(code, { module: true, ecma: 2022, compress })).code);
}

/** All files of dist/ by name, without their gzipped forms. */
async function filesOf({ outputFiles }) {
  const files = new Map();
  for (const { path, contents, text } of outputFiles) {
    files.set(path.split('/').pop(), path.endsWith('.js') ? await smaller(text) : Buffer.from(contents));
  }
  for (const name of ['index.html', 'icon.svg']) files.set(name, readFileSync(new URL(`src/${name}`, import.meta.url)));
  files.set('NOTICE.txt', notice());
  return files;
}

const zipped = (bytes) => gzipSync(bytes, { level: 9 });

/** Problems of these files: sizes, and code that the page's Content-Security-Policy would refuse. */
function problemsOf(files) {
  const found = [];
  const size = ['admin.js', 'admin.css'].reduce((sum, name) => sum + zipped(files.get(name)).length, 0);
  console.log(`size: admin.js + admin.css ${size} of ${LIMIT} bytes gzipped`);
  if (size > LIMIT) found.push(`admin.js and admin.css have ${size} bytes gzipped; the limit is ${LIMIT}`);
  const html = files.get('index.html').toString();
  if (/<script(?![^>]* src=)|<style| style=| on[a-z]+=/.test(html)) {
    found.push('src/index.html has inline code or styles, which the Content-Security-Policy refuses');
  }
  return found;
}

function write(files) {
  rmSync(DIST, { recursive: true, force: true });
  mkdirSync(DIST);
  for (const [name, bytes] of files) {
    writeFileSync(new URL(name, DIST), bytes);
    writeFileSync(new URL(`${name}.gz`, DIST), zipped(bytes));
  }
}

/** Names of files that differ. A gzipped form counts by its content, because versions of zlib differ. */
function differences(files) {
  const read = (name) => {
    try {
      return readFileSync(new URL(name, DIST));
    } catch {
      return Buffer.alloc(0);
    }
  };
  const same = (a, b) => createHash('sha256').update(a).digest('hex') === createHash('sha256').update(b).digest('hex');
  const unzip = (bytes) => (bytes.length > 0 ? gunzipSync(bytes) : bytes);
  const found = [];
  for (const [name, bytes] of files) {
    if (!same(read(name), bytes)) found.push(name);
    if (!same(unzip(read(`${name}.gz`)), bytes)) found.push(`${name}.gz`);
  }
  const known = new Set([...files.keys()].flatMap((name) => [name, `${name}.gz`]));
  return [...found, ...readdirSync(DIST).filter((name) => !known.has(name))];
}

if (process.argv.includes('--watch')) {
  const onEnd = async (result) => {
    if (result.errors.length === 0) write(await filesOf(result));
  };
  const plugins = [{ name: 'write', setup: (building) => building.onEnd(onEnd) }];
  await (await context({ ...options, plugins, logLevel: 'info' })).watch();
} else {
  const files = await filesOf(await esbuild(options));
  const problems = problemsOf(files);
  if (process.argv.includes('--check')) {
    const names = differences(files);
    if (names.length > 0) problems.push(`dist/ differs in ${names.join(' ')}: run node build.mjs and commit dist/`);
    else console.log(`dist: good, ${files.size} files`);
  } else {
    write(files);
  }
  if (problems.length > 0) {
    console.error(problems.join('\n'));
    process.exit(1);
  }
}
