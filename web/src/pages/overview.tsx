// Shows the state of all instances: what is not well, numbers, and four charts.

import { useMemo } from 'preact/hooks';
import { href, setQuery, usePlace } from '../address.ts';
import { bytes, latency, number, plural, rate, short } from '../format.ts';
import { useLive } from '../live.ts';
import { Chart, type Line } from '../parts/chart.tsx';
import { ShowAs } from '../parts/command.tsx';
import { AsOf } from '../parts/freshness.tsx';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Head } from '../parts/texts.tsx';
import {
  appendQuantile,
  gauges,
  given,
  instancesOf,
  LAG,
  rates,
  timesOf,
  totalRate,
  type Worry,
  worries,
} from '../rates.ts';
import { isTold, type Sample, type ToldInstance } from '../types.ts';

const WINDOWS = ['15m', '30m', '60m'];

export function Overview() {
  const { query } = usePlace();
  const asked = query.get('window') ?? '15m';
  const window = WINDOWS.includes(asked) ? asked : '15m';
  const { samples, problem, at } = useLive(window);
  return (
    <>
      <Head title="Overview">
        <Fresh at={at} />
      </Head>
      <ProblemNote problem={problem} />
      {samples.length === 0 ? (
        problem ? null : (
          <Empty title="Waiting for the first sample">
            <p>Each instance reports every 5 seconds.</p>
          </Empty>
        )
      ) : (
        <>
          <Well found={worries(samples)} last={samples.at(-1) as Sample} />
          <Tiles samples={samples} />
          <fieldset class="choices">
            <legend>Charts of the last</legend>
            {WINDOWS.map((one) => (
              <button key={one} type="button" aria-pressed={one === window} onClick={() => setQuery({ window: one })}>
                {one.replace('m', ' minutes')}
              </button>
            ))}
          </fieldset>
          <Charts samples={samples} />
        </>
      )}
      <ShowAs what="this page" forms={{ recado: ['top'], path: `/api/admin/live?window=${window}` }} />
    </>
  );
}

function Fresh({ at }: { at: number | null }) {
  return (
    <div class="freshness">
      <AsOf at={at} every={5000} what="sample" none="connecting" />
      <span class="hint">a sample every 5 s, pauses while this tab is hidden</span>
    </div>
  );
}

function Well({ found, last: { instances } }: { found: readonly Worry[]; last: Sample }) {
  if (found.length === 0) {
    const told = instances.filter(isTold).length;
    return (
      <div class="note good">
        <p>
          <strong>{told === instances.length ? 'All is well.' : 'No instance reports a problem.'}</strong>{' '}
          {told === instances.length
            ? `Every instance is ready, and no client is more than ${LAG} notifications behind.`
            : `${plural(instances.length - told, 'instance')} of ${instances.length} report nothing.`}
        </p>
      </div>
    );
  }
  return (
    <section class={`note ${found[0]?.severe ? 'bad' : 'fair'}`} aria-label="What is not well">
      <ul>
        {found.map(({ text, page, severe, instance }) => {
          const words = severe ? <strong>{text}</strong> : text;
          return (
            <li key={text}>
              {page ? (
                <a href={href(page, '', page === 'sessions' ? { sort: '-lag', instance } : {})}>{words}</a>
              ) : (
                words
              )}
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function Tiles({ samples }: { samples: readonly Sample[] }) {
  const last = samples.at(-1) as Sample;
  const told = last.instances.filter(isTold);
  const sum = (of: (one: ToldInstance) => number): number => told.reduce((n, one) => n + of(one), 0);
  const most = (of: (one: ToldInstance) => number): number => Math.max(0, ...told.map(of));
  const states = new Map<string, number>();
  for (const { upstream } of told) {
    for (const [state, n] of Object.entries(upstream)) states.set(state, (states.get(state) ?? 0) + n);
  }
  const upstream = [...states].filter(([, n]) => n > 0);
  const floor = most((one) => one.gauges.floor);
  const tiles: readonly (readonly [string, string, string, string?])[] = [
    ['Connections', number(sum((one) => one.gauges.connections)), href('sessions')],
    ['Appended', `${rate(totalRate(samples, (c) => c.appended))}/s`, href('tail')],
    ['Delivered', `${rate(totalRate(samples, given))}/s`, href('sessions')],
    ['Append p50', latency(appendQuantile(samples, 0.5)), href('instances')],
    ['Append p99', latency(appendQuantile(samples, 0.99)), href('instances')],
    ['Worst lag', number(most((one) => one.gauges.max_lag)), href('sessions', '', { sort: '-lag' })],
    ['Head', number(most((one) => one.gauges.head)), href('tail')],
    ['Earliest', number(floor + 1), href('log')],
    ['Instances', number(last.instances.length), href('instances')],
    [
      'Provider sessions',
      upstream.length === 0 ? 'none' : number(upstream.reduce((n, [, m]) => n + m, 0)),
      href('upstream'),
      upstream.map(([state, n]) => `${n} ${state.replaceAll('_', ' ')}`).join(', '),
    ],
  ];
  return (
    <ul class="tiles">
      {tiles.map(([label, value, to, more]) => (
        <li key={label}>
          <a href={to}>
            <span class="label">{label}</span>
            <span class="value">{value}</span>
            {more ? <span class="hint">{more}</span> : null}
          </a>
        </li>
      ))}
    </ul>
  );
}

function Charts({ samples }: { samples: readonly Sample[] }) {
  const charts = useMemo(() => {
    const ids = instancesOf(samples);
    const each = (points: (id: string) => (number | null)[]): Line[] =>
      ids.map((id) => ({ label: short(id), points: points(id) }));
    return {
      times: timesOf(samples),
      appended: each((id) => rates(samples, id, (c) => c.appended)),
      delivered: each((id) => rates(samples, id, given)),
      connections: each((id) => gauges(samples, id, 'connections')),
      lag: each((id) => gauges(samples, id, 'max_lag')),
      memory: each((id) => gauges(samples, id, 'rss_bytes')),
    };
  }, [samples]);
  const { times } = charts;
  return (
    <div class="charts">
      <Chart title="Appended" unit="notifications a second" times={times} lines={charts.appended} format={rate} />
      <Chart title="Delivered" unit="notifications a second" times={times} lines={charts.delivered} format={rate} />
      <Chart title="Connections" unit="open now" times={times} lines={charts.connections} format={number} />
      <Chart title="Worst lag" unit="notifications behind the head" times={times} lines={charts.lag} format={number} />
      {charts.memory.some(({ points }) => points.some((one) => one !== null)) ? (
        <p class="hint">
          Memory now: {charts.memory.map(({ label, points }) => `${label} ${bytes(points.at(-1) ?? null)}`).join(' · ')}
        </p>
      ) : null}
    </div>
  );
}
