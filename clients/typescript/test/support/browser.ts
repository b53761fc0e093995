// Starts Chromium and bundles pages for it.

import { build } from 'esbuild';
import { type Browser, chromium } from 'playwright';

/** Chromium: CHROMIUM, or Debian's. */
export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
}

/** Bundles an entry with React 19, or with React 18 in its place. */
export async function bundle(entry: string, major: string, platform: 'browser' | 'node'): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [`test/react/${entry}`],
    bundle: true,
    write: false,
    platform,
    format: platform === 'node' ? 'cjs' : 'esm',
    jsx: 'automatic',
    target: 'es2022',
    define: { 'process.env.NODE_ENV': '"development"' },
    alias: major === '18' ? { react: 'react18', 'react-dom': 'react-dom18' } : {},
  });
  return outputFiles[0]!.text;
}
