// Tests the parts of the console that touch no page: rates, filters, the rule of `prev`, addresses, forms.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { build } from 'esbuild';

globalThis.location = { hash: '', pathname: '/hub/admin', origin: 'https://h.example' };

/** Modules as Node can load them. */
async function load(...names) {
  const contents = names.map((name) => `export * as ${name.split('/').pop()} from './src/${name}.ts';`).join('\n');
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: new URL('..', import.meta.url).pathname, loader: 'ts' },
    bundle: true,
    write: false,
    format: 'esm',
  });
  return import(`data:text/javascript,${encodeURIComponent(outputFiles[0].text)}`);
}

const { rates, sessions, format, place, forms, session, paths } = await load(
  'rates',
  'sessions',
  'format',
  'playground/place',
  'playground/forms',
  'session',
  'paths',
);
let count = 0;
function test(name, run) {
  try {
    run();
    count++;
  } catch (error) {
    console.error(`failed: ${name}\n${error.stack}`);
    process.exitCode = 1;
  }
}

const BASE = Date.parse('2026-01-01T00:00:00Z');
/** A sample of one instance at so many seconds. */
function sample(seconds, change = {}) {
  const counters = {
    appended: 0,
    delivered_live: 0,
    delivered_replayed: 0,
    acked: 0,
    connected: 0,
    disconnected: 0,
    slow: 0,
    refused: 0,
  };
  const at = new Date(BASE + seconds * 1000).toISOString();
  const one = {
    instance: 'aaaaaaaa-0000',
    address: '10.0.0.1:1',
    version: '1',
    started_at: '2026-01-01T00:00:00Z',
    seen_at: at,
    ready: true,
    reasons: [],
    draining: false,
    gauges: { connections: 1, max_lag: 0, head: 5, floor: 0, rss_bytes: null },
    append_buckets: { le: [0.001, 0.01, 0.1], counts: [0, 0, 0], count: 0, sum: 0 },
    upstream: {},
    listen_reconnects: 0,
    ...change,
    counters: { ...counters, ...change.counters },
  };
  return { at, instances: [one] };
}

test('a rate is per second, and a restart leaves a hole', () => {
  const all = [0, 50, 150, 20].map((appended, n) => sample(n * 5, { counters: { appended } }));
  assert.deepEqual(
    rates.rates(all, 'aaaaaaaa-0000', (c) => c.appended),
    [null, 10, 20, null],
  );
  assert.equal(
    rates.totalRate(all.slice(0, 3), (c) => c.appended),
    15,
  );
});

test('an instance of an earlier version reports nothing, and harms nothing', () => {
  const silent = {
    at: sample(0).at,
    instances: [
      {
        ...sample(0).instances[0],
        counters: null,
        gauges: null,
        ready: null,
        reasons: null,
        append_buckets: null,
        upstream: null,
      },
    ],
  };
  assert.deepEqual(
    rates.rates([silent, silent], 'aaaaaaaa-0000', (c) => c.appended),
    [null, null],
  );
  assert.deepEqual(rates.worries([silent]), []);
});

test('a quantile is interpolated as Prometheus does', () => {
  const buckets = (counts, total) => ({ append_buckets: { le: [0.001, 0.01, 0.1], counts, count: total, sum: 0 } });
  const all = [sample(0, buckets([0, 0, 0], 0)), sample(5, buckets([50, 100, 100], 100))];
  assert.equal(rates.appendQuantile(all, 0.5), 0.001);
  assert.ok(Math.abs(rates.appendQuantile(all, 0.75) - 0.0055) < 1e-9);
  assert.equal(rates.appendQuantile([sample(0), sample(5, buckets([0, 0, 0], 10))], 0.5), 0.1, 'above the last bound');
  assert.equal(rates.appendQuantile([sample(0), sample(5)], 0.5), null);
});

test('what is not well is said in words, the worst first', () => {
  assert.deepEqual(rates.worries([sample(0), sample(5)]), []);
  const bad = sample(60, {
    ready: false,
    reasons: ['database'],
    counters: { slow: 2, closed_no_pong: 3, closed_slow: 1 },
    gauges: { connections: 1, max_lag: 5000, head: 5, floor: 0, rss_bytes: 1 },
    upstream: { backing_off: 1 },
  });
  const found = rates.worries([sample(55), bad]).map(({ text }) => text);
  assert.match(found[0], /not ready: database/);
  assert.ok(found.some((text) => /lags 5,000 behind/.test(text)));
  assert.ok(found.some((text) => /2 clients fell behind/.test(text)));
  assert.ok(found.some((text) => /3 clients closed for no_pong in the last 5 minutes/.test(text)));
  assert.ok(found.some((text) => /1 client closed for slow_consumer/.test(text)));
  assert.ok(found.some((text) => /1 provider session backing off/.test(text)));
  const behind = (max_lag) => sample(5, { gauges: { connections: 1, max_lag, head: 5, floor: 0, rss_bytes: null } });
  assert.deepEqual(rates.worries([behind(rates.LAG)]), []);
  const [{ page, instance }] = rates.worries([behind(rates.LAG + 1)]);
  assert.deepEqual([page, instance], ['sessions', 'aaaaaaaa-0000']);
  const lost = sample(60, { seen_at: sample(0).at });
  assert.match(rates.worries([lost])[0].text, /not been seen for 60 s/);
});

const ANSWER = {
  head: 10,
  columns: [
    'user_id',
    'session_id',
    'account_ids',
    'client_id',
    'instance',
    'transport',
    'connected_at',
    'last_activity_at',
    'sent',
    'acked',
    'new',
    'types',
  ],
  instances: ['i-1', 'i-2'],
  rows: [
    ['ann', 's1', ['7'], 'web-1', 0, 'websocket', 1, 2, 9, 8, 0, null],
    ['bob', 's2', [], 'phone', 1, 'sse', 3, 4, 9, 3, 0, 'order_*'],
  ],
};

test('rows are read by the names of the columns', () => {
  const [ann, bob] = sessions.readRows(ANSWER);
  assert.deepEqual(
    [ann.user, ann.id, ann.lag, ann.instance, bob.lag, bob.instance, bob.types],
    ['ann', 's1', 2, 'i-1', 7, 'i-2', 'order_*'],
  );
});

test('a filter matches whole names, or beginnings with a star', () => {
  const rows = sessions.readRows(ANSWER);
  const users = (texts) => {
    const all = { user: '', account: '', client: '', instance: '', transport: '', min_lag: '', ...texts };
    return sessions.filterRows(rows, sessions.filterOf(all)).map(({ user }) => user);
  };
  assert.deepEqual(users({}), ['ann', 'bob']);
  assert.deepEqual(users({ user: 'an' }), []);
  assert.deepEqual(users({ user: 'an*' }), ['ann']);
  assert.deepEqual(users({ account: '7' }), ['ann']);
  assert.deepEqual(users({ min_lag: '3' }), ['bob']);
  assert.deepEqual(users({ min_lag: 'x', user: '*' }), ['ann', 'bob']);
  assert.deepEqual(sessions.hubPart({ user: 'a*', client: 'web-1', min_lag: 3 }), { client: 'web-1', min_lag: 3 });
  assert.deepEqual(sessions.newPart({ user: 'a', min_lag: 3 }, { min_lag: 3 }), { user: 'a' });
  assert.deepEqual(sessions.offers(rows, 'user', 'b'), ['bob']);
});

test('rows are sorted by a name, and an unknown one is the lag', () => {
  const rows = sessions.readRows(ANSWER);
  assert.deepEqual(
    sessions.sortRows(rows, '-lag').map(({ user }) => user),
    ['bob', 'ann'],
  );
  assert.deepEqual(
    sessions.sortRows(rows, 'user').map(({ user }) => user),
    ['ann', 'bob'],
  );
  assert.equal(sessions.sortOf('__proto__'), '-lag');
});

test('the rule of prev: apply, drop, reconnect', () => {
  const device = new place.Place();
  const hello = (resume) => device.take({ type: 'connection_established', resume });
  hello({ status: 'ok', from: 5 });
  const note = (seq, prev) => device.take({ type: 't', title: 't', seq, prev }).kind;
  assert.deepEqual([note(6, 5), note(9, 6), note(9, 6), note(12, 10)], ['apply', 'apply', 'drop', 'hole']);
  assert.deepEqual([device.mine, device.repeated], [9, 1]);
  hello({ status: 'ok', from: 7 });
  assert.equal(device.mine, 9, 'an older place repeats, and loses nothing');
  hello({ status: 'reset', from: 0 });
  assert.deepEqual([device.mine, note(6, 0)], [0, 'apply']);
});

test('texts of a post are quoted for each language', () => {
  const { body } = forms.bodyOf({
    to: 'user',
    id: "o'hara",
    type: 't',
    title: "it's",
    message: '$x',
    data: '{"a":"b\'c"}',
  });
  assert.match(forms.asSql(body), /'it''s'/);
  assert.match(forms.asSql(body), /user_id => 'o''hara'/);
  assert.match(forms.asRecado(body), /'it'\\''s'/);
  assert.match(forms.asCurl(body), /https:\/\/h\.example\/hub\/api\/internal\/notify/);
  assert.equal(forms.bodyOf({ to: 'user', id: 'a', type: 't', title: '', message: '', data: '{' }).body, null);
});

test('numbers and times are short', () => {
  assert.deepEqual([900, 59_000, 61_000, 3_600_000, 5_400_000, 90_000_000].map(format.duration), [
    '1 s',
    '59 s',
    '1 min',
    '1 h',
    '1 h 30 min',
    '1 d 1 h',
  ]);
  assert.deepEqual([0, 1023, 1024, 10 * 1024, 5e9].map(format.bytes), [
    '0 B',
    '1023 B',
    '1.0 KiB',
    '10 KiB',
    '4.7 GiB',
  ]);
  assert.deepEqual([null, 0.0004, 0.25, 2].map(format.latency), ['–', '0.4 ms', '250 ms', '2.0 s']);
  assert.equal(format.shell("a'b c"), "'a'\\''b c'");
});

test('a hub under a path is found', () => {
  assert.equal(paths.at('/api/admin/settings'), '/hub/api/admin/settings');
  assert.equal(paths.hubUrl(), 'https://h.example/hub');
});

test('without storage the key is still kept', () => {
  session.signIn(' rck_x ');
  assert.equal(session.credential(), 'rck_x');
  session.signOut('gone');
  assert.deepEqual([session.credential(), session.lastRefusal()], [null, 'gone']);
});

/** Contrast of two colours `#rrggbb`, as WCAG defines it. */
function contrast(a, b) {
  const light = (hex) => {
    const [r, g, bl] = [1, 3, 5]
      .map((at) => Number.parseInt(hex.slice(at, at + 2), 16) / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * bl;
  };
  const [x, y] = [light(a), light(b)].sort((one, other) => other - one);
  return (x + 0.05) / (y + 0.05);
}

test('texts have the contrast of WCAG AA in both schemes, and borders of controls theirs', () => {
  const css = readFileSync(new URL('../src/styles/base.css', import.meta.url), 'utf8');
  const [light, dark] = css
    .split('prefers-color-scheme: dark')
    .map((part) =>
      Object.fromEntries([...part.matchAll(/--([\w-]+): (#[0-9a-f]{6});/g)].map(([, name, value]) => [name, value])),
    );
  const texts = [
    'ink',
    'muted',
    'accent',
    'good',
    'bad',
    'fair',
    'line-1',
    'line-2',
    'line-3',
    'line-4',
    'line-5',
    'line-6',
  ].flatMap((text) => ['paper', 'sheet'].map((on) => [text, on]));
  const more = [
    ['ink', 'sunk'],
    ['muted', 'sunk'],
    ['accent', 'sunk'],
    ['accent', 'accent-soft'],
    ['accent-ink', 'accent'],
    ['good', 'good-soft'],
    ['fair', 'fair-soft'],
    ['bad', 'bad-soft'],
    ['ink', 'good-soft'],
    ['ink', 'fair-soft'],
    ['ink', 'bad-soft'],
  ];
  for (const [scheme, colours] of Object.entries({ light, dark })) {
    for (const [text, on] of [...texts, ...more]) {
      const found = contrast(colours[text], colours[on]);
      assert.ok(found >= 4.5, `${scheme}: ${text} on ${on} has ${found.toFixed(2)}`);
    }
    assert.ok(contrast(colours.edge, colours.sheet) >= 3, `${scheme}: borders`);
  }
});

console.log(`unit: ${count} passed${process.exitCode ? ', some failed' : ''}`);
