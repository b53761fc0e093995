// Reports facts to the torture run, one JSON line each.
import { createHash } from 'node:crypto';
import { writeSync } from 'node:fs';

/** Nothing wakes who waits here: a wait is a pause of the whole thread. */
const pause = new Int32Array(new SharedArrayBuffer(4));

/**
 * Writes a fact. It is in the pipe when the call returns, so the facts of all threads are in the order in which they
 * happened, and a thread that is killed afterwards has reported it. A line has less than 4 KiB: the kernel does not mix
 * such lines of several threads.
 */
export function report(fact) {
  const line = `${JSON.stringify(fact)}\n`;
  for (;;) {
    try {
      writeSync(1, line);
      return;
    } catch (error) {
      // The pipe is full: its reader had no processor for a moment. The kernel took all of the line or nothing.
      if (error.code !== 'EAGAIN') throw error;
      Atomics.wait(pause, 0, 0, 1);
    }
  }
}

/** JSON with sorted keys: two texts of the same values are equal. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value ?? null);
  const members = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${members.join(',')}}`;
}

/** The hash of a notification as an application sees it; `crates/torture/src/witness/parsed.rs` makes the same. */
export function hashOf({ title, message, data }) {
  const hash = createHash('sha256');
  for (const part of [title, message, canonical(data)]) {
    const bytes = Buffer.from(part, 'utf8');
    const length = Buffer.alloc(8);
    length.writeBigUInt64BE(BigInt(bytes.length));
    hash.update(length).update(bytes);
  }
  return hash.digest('hex').slice(0, 16);
}

/** Numbers from 0 up to 1, the same ones for the same seed (mulberry32). */
export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
