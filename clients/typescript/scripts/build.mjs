// Builds the package into dist/: modules and types by tsc, one minified file by esbuild.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { build } from 'esbuild';

rmSync('dist', { recursive: true, force: true });
execFileSync('node_modules/.bin/tsc', ['-p', '.'], { stdio: 'inherit' });
// tsc rewrites the endings of imports in modules, but not in declarations.
for (const name of readdirSync('dist').filter((one) => one.endsWith('.d.ts'))) {
  const text = readFileSync(`dist/${name}`, 'utf8');
  writeFileSync(`dist/${name}`, text.replace(/(from '\.[^']+|import\('\.[^']+)\.tsx?'/g, "$1.js'"));
}
await build({
  entryPoints: ['dist/index.js'],
  outfile: 'dist/recado.js',
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  legalComments: 'none',
});
