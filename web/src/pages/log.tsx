// Shows what the log keeps: its range, its partitions, and the settings that drop them.

import { href } from '../address.ts';
import { api } from '../api.ts';
import { bytes, clock, duration, number, plural } from '../format.ts';
import { ShowAs } from '../parts/command.tsx';
import { Freshness } from '../parts/freshness.tsx';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Table } from '../parts/table.tsx';
import { Age, Head } from '../parts/texts.tsx';
import { usePoll } from '../poll.ts';
import type { Partition, PartitionsAnswer } from '../types.ts';

const PATH = '/api/admin/log/partitions';

export function Log() {
  const polled = usePoll((signal) => api.partitions(signal), PATH, 15_000);
  const { data, problem } = polled;
  return (
    <>
      <Head title="Log">
        <Freshness polled={polled} label="the log" />
      </Head>
      <ProblemNote problem={problem} />
      {data ? <Content data={data} /> : null}
      <ShowAs forms={{ recado: ['stats'], path: PATH }} />
    </>
  );
}

function Content({ data }: { data: PartitionsAnswer }) {
  const { partitions, settings } = data;
  const rows = partitions.reduce((sum, one) => sum + one.rows, 0);
  const most = Math.max(1, ...partitions.map((one) => one.bytes));
  return (
    <>
      <ul class="tiles">
        <Tile label="Earliest kept" value={number(data.earliest)} />
        <Tile label="Head" value={number(data.head)} to={href('tail')} />
        <Tile label="Floor" value={number(data.floor)} more="the last number that retention dropped" />
        <Tile label="Rows" value={number(rows)} />
        <Tile label="Size" value={bytes(data.bytes)} />
      </ul>
      <p class="hint">
        Log id <code>{data.log_id}</code>
      </p>
      <h2>{plural(partitions.length, 'partition')}</h2>
      {partitions.length === 0 ? (
        <Empty title="No partition">
          <p>A hub that serves makes the first one at once. Check that one runs.</p>
        </Empty>
      ) : (
        <Table
          label="Partitions"
          rows={partitions}
          rowKey={(row) => row.name}
          columns={[
            { label: 'Partition', cell: (row) => row.name },
            {
              label: 'Numbers',
              align: 'right',
              cell: (row) => `${number(row.lo)} to ${number(row.hi - 1)}`,
            },
            { label: 'Rows', align: 'right', cell: (row) => number(row.rows) },
            { label: 'Size', align: 'right', cell: (row) => bytes(row.bytes) },
            { label: 'Share', cell: (row) => <Share part={row.bytes / most} /> },
            { label: 'Oldest', cell: (row) => <Age time={row.from} /> },
            { label: 'Newest', cell: (row) => <Age time={row.to} /> },
            { label: 'Retention drops it', cell: (row) => drops(row) },
          ]}
        />
      )}
      <h2>Settings that rule it</h2>
      <dl class="facts">
        {Object.entries(settings).map(([name, value]) => (
          <>
            <dt>{name.replace(/_(seconds|bytes)$/, '').replaceAll('_', ' ')}</dt>
            <dd>{settingText(name, value)}</dd>
          </>
        ))}
      </dl>
    </>
  );
}

/** Seconds and bytes in units; anything else as it is. */
function settingText(name: string, value: unknown): string {
  if (value === null) return 'keep everything';
  if (typeof value === 'number')
    return name.endsWith('_bytes') ? bytes(value) : name.endsWith('_seconds') ? duration(value * 1000) : number(value);
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

const drops = ({ drops_at: at }: Partition): string => {
  if (at === null) return 'not known';
  return Date.parse(at) < Date.now() ? 'at the next check' : clock(at);
};

/** A bar as an SVG attribute: the Content-Security-Policy refuses a style in markup. */
function Share({ part }: { part: number }) {
  return (
    <svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      <rect width="100" height="8" class="rest" />
      <rect width={Math.max(1, Math.round(part * 100))} height="8" />
    </svg>
  );
}

function Tile({ label, value, to, more }: { label: string; value: string; to?: string; more?: string }) {
  const inner = (
    <>
      <span class="label">{label}</span>
      <span class="value">{value}</span>
      {more ? <span class="hint">{more}</span> : null}
    </>
  );
  return <li>{to ? <a href={to}>{inner}</a> : <div>{inner}</div>}</li>;
}
