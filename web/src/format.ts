// Writes numbers, times and sizes for people.

const grouped = new Intl.NumberFormat('en-US');
export const number = (value: number | null | undefined): string =>
  value === null || value === undefined || Number.isNaN(value) ? '–' : grouped.format(value);

/** A rate with as many digits as it needs. */
export function rate(value: number | null): string {
  if (value === null) return '–';
  if (value >= 100) return grouped.format(Math.round(value));
  return value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return '–';
  if (value < 1024) return `${value} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let size = value / 1024;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${size.toFixed(size < 10 ? 1 : 0)} ${units[unit]}`;
}

/** Seconds as one or two units: `3 s`, `2 min`, `4 h 10 min`, `3 d`. */
export function duration(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return `${min} min`;
  const h = Math.floor(min / 60);
  if (h < 24) return min % 60 === 0 ? `${h} h` : `${h} h ${min % 60} min`;
  const d = Math.floor(h / 24);
  return h % 24 === 0 || d > 6 ? `${d} d` : `${d} d ${h % 24} h`;
}

/** Milliseconds below ten seconds, and longer times in units. */
export const shortDuration = (ms: number): string =>
  ms < 10_000 ? `${grouped.format(Math.round(ms))} ms` : duration(ms);

/** Seconds of a histogram: `1.2 ms`, `0.4 s`. */
export function latency(seconds: number | null): string {
  if (seconds === null) return '–';
  const ms = seconds * 1000;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${ms.toFixed(0)} ms` : `${seconds.toFixed(1)} s`;
}

export const ago = (ms: number, now: number): string => (now - ms < 1500 ? 'now' : `${duration(now - ms)} ago`);

const two = (n: number): string => String(n).padStart(2, '0');

/** `12:05:09` today, and with the date on other days. In the time zone of the browser. */
export function clock(time: number | string, withMs = false): string {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return '–';
  const ms = withMs ? `.${String(at.getMilliseconds()).padStart(3, '0')}` : '';
  const text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}${ms}`;
  const today = new Date();
  if (at.toDateString() === today.toDateString()) return text;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${text}`;
}

/** The first group of a UUID: enough to tell instances apart. */
export const short = (id: string): string => (/^[0-9a-f]{8}-/.test(id) ? id.slice(0, 8) : id);

export const plural = (count: number, one: string, many = `${one}s`): string =>
  `${number(count)} ${count === 1 ? one : many}`;

/** Quotes a word for a shell, if it needs quotes. */
export const shell = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
