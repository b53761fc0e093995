// Computes rates, quantiles and worries from samples; touches no page.

import { type Counters, isTold, type Sample, type ToldInstance } from './types.ts';

/** A sample of one instance, with the time of the sample in seconds. */
interface Point {
  readonly at: number;
  readonly of: ToldInstance;
}

/** Instances of these samples, the oldest first. */
export function instancesOf(samples: readonly Sample[]): string[] {
  const found = new Map<string, string>();
  for (const { instances } of samples) for (const one of instances) found.set(one.instance, one.started_at);
  return [...found].sort((a, b) => (a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0)).map(([id]) => id);
}

export const timesOf = (samples: readonly Sample[]): number[] => samples.map(({ at }) => Date.parse(at) / 1000);

function points(samples: readonly Sample[], instance: string): (Point | null)[] {
  return samples.map(({ at, instances }) => {
    const of = instances.find((one) => one.instance === instance);
    return of && isTold(of) ? { at: Date.parse(at) / 1000, of } : null;
  });
}

/** Adds the counters. */
export type Reading = (counters: Counters) => number;
export const given: Reading = (counters) => counters.delivered_live + counters.delivered_replayed;

/** Per second between two samples; null where an instance is absent or has just started. */
export function rates(samples: readonly Sample[], instance: string, reading: Reading): (number | null)[] {
  const all = points(samples, instance);
  return all.map((now, at) => {
    const before = all[at - 1];
    if (!now || !before) return null;
    const delta = reading(now.of.counters) - reading(before.of.counters);
    const seconds = now.at - before.at;
    // A counter that is lower belongs to another process.
    return delta < 0 || seconds <= 0 ? null : delta / seconds;
  });
}

export function gauges(
  samples: readonly Sample[],
  instance: string,
  name: keyof ToldInstance['gauges'],
): (number | null)[] {
  return points(samples, instance).map((point) => point?.of.gauges[name] ?? null);
}

/** Samples that cover the last `seconds`. */
function recent(samples: readonly Sample[], seconds: number): readonly Sample[] {
  const last = samples.at(-1);
  if (!last) return [];
  const from = Date.parse(last.at) - seconds * 1000;
  return samples.filter(({ at }) => Date.parse(at) >= from);
}

/** The rate of all instances over the last `seconds`; null without two samples. */
export function totalRate(samples: readonly Sample[], reading: Reading, seconds = 15): number | null {
  const some = recent(samples, seconds);
  if (some.length < 2) return null;
  let sum = 0;
  for (const instance of instancesOf(some)) {
    const known = rates(some, instance, reading).filter((one): one is number => one !== null);
    if (known.length > 0) sum += known.reduce((a, b) => a + b, 0) / known.length;
  }
  return sum;
}

/** How much a counter of all instances grew in the last `seconds`. */
export function growth(samples: readonly Sample[], reading: Reading, seconds: number): number {
  const some = recent(samples, seconds);
  let sum = 0;
  for (const instance of instancesOf(some)) {
    const known = points(some, instance).filter((one): one is Point => one !== null);
    for (let at = 1; at < known.length; at++) {
      const delta = reading((known[at] as Point).of.counters) - reading((known[at - 1] as Point).of.counters);
      if (delta > 0) sum += delta;
    }
  }
  return sum;
}

/** A quantile of the append times of the last `seconds`, in seconds, as Prometheus computes it. Null: no appends. */
export function appendQuantile(samples: readonly Sample[], quantile: number, seconds = 60): number | null {
  const some = recent(samples, seconds);
  let le: readonly number[] = [];
  let counts: number[] = [];
  let total = 0;
  for (const instance of instancesOf(some)) {
    const known = points(some, instance).filter((one): one is Point => one !== null);
    const [first, last] = [known[0]?.of.append_buckets, known.at(-1)?.of.append_buckets];
    // Fewer than before: another process.
    if (!first || !last || last.count <= first.count) continue;
    if (le.length === 0) {
      le = last.le;
      counts = le.map(() => 0);
    }
    total += last.count - first.count;
    counts = counts.map((sum, at) => sum + Math.max(0, (last.counts[at] ?? 0) - (first.counts[at] ?? 0)));
  }
  if (total === 0) return null;
  const rank = quantile * total;
  let below = 0;
  let from = 0;
  for (const [at, upto] of counts.entries()) {
    const bound = le[at] as number;
    if (upto >= rank) return upto === below ? bound : from + ((bound - from) * (rank - below)) / (upto - below);
    below = upto;
    from = bound;
  }
  // Above the last bound: that is all that is known.
  return from;
}

/** One thing that is not well, with the page that shows more. */
export interface Worry {
  readonly text: string;
  /** Empty: no page shows more. */
  readonly page: string;
  readonly severe: boolean;
  /** Restricts the page to this instance. */
  readonly instance?: string;
}

/** Seconds without a sign of life after which an instance is a worry: they come every five. */
const SILENT_S = 20;
/** The overview names an instance with a device that lags more than this. */
export const LAG = 100;

const count = (n: number, one: string): string => `${n.toLocaleString('en-US')} ${one}${n === 1 ? '' : 's'}`;

/** What is not well, in words. Empty if all is. */
export function worries(samples: readonly Sample[]): Worry[] {
  const last = samples.at(-1);
  if (!last) return [];
  const found: Worry[] = [];
  const add = (severe: boolean, page: string, text: string, instance?: string): void =>
    void found.push({ severe, page, text, ...(instance ? { instance } : {}) });
  for (const one of last.instances) {
    const name = `Instance ${one.instance.slice(0, 8)}`;
    const silent = (Date.parse(last.at) - Date.parse(one.seen_at)) / 1000;
    if (silent > SILENT_S) add(true, 'instances', `${name} has not been seen for ${Math.round(silent)} s.`);
    if (!isTold(one)) continue;
    if (one.draining) add(false, 'instances', `${name} is draining.`);
    else if (!one.ready && silent <= SILENT_S) {
      add(true, 'instances', `${name} is not ready: ${one.reasons.join(', ') || 'no reason given'}.`);
    }
    if (one.gauges.max_lag > LAG) {
      add(
        false,
        'sessions',
        `A device on ${name.toLowerCase()} lags ${one.gauges.max_lag.toLocaleString('en-US')} behind.`,
        one.instance,
      );
    }
  }
  if (new Set(last.instances.map(({ version }) => version)).size > 1) {
    add(false, 'instances', 'The instances run different versions.');
  }
  const slow = growth(samples, (c) => c.slow, 300);
  if (slow > 0) add(false, 'sessions', `${count(slow, 'client')} fell behind live delivery in the last 5 minutes.`);
  for (const [name, word] of [
    ['closed_no_pong', 'no_pong'],
    ['closed_slow', 'slow_consumer'],
  ] as const) {
    const closed = growth(samples, (c) => c[name] ?? 0, 300);
    if (closed > 0) add(false, 'devices', `${count(closed, 'client')} closed for ${word} in the last 5 minutes.`);
  }
  const refused = growth(samples, (c) => c.refused, 300);
  // The audit has no filter by outcome, and has refusals of admin routes only.
  if (refused > 0) add(false, '', `${count(refused, 'request')} refused in the last 5 minutes.`);
  const broken = ['backing_off', 'refused'];
  for (const state of broken) {
    const sum = last.instances.filter(isTold).reduce((n, one) => n + (one.upstream[state] ?? 0), 0);
    if (sum > 0) add(state === 'refused', 'upstream', `${count(sum, 'provider session')} ${state.replace('_', ' ')}.`);
  }
  const p99 = appendQuantile(samples, 0.99, 60);
  if (p99 !== null && p99 > 1)
    add(true, 'instances', `Appends take ${p99.toFixed(1)} s (99th percentile): the database is slow.`);
  return found.sort((a, b) => Number(b.severe) - Number(a.severe));
}
