// Lists the devices of all users, also those that are away, with the reason why each lags.

import { setQuery, usePlace } from '../address.ts';
import { api, withQuery } from '../api.ts';
import { ago, number, plural } from '../format.ts';
import { ShowAs } from '../parts/command.tsx';
import { Filters, useFilters } from '../parts/filters.tsx';
import { Freshness } from '../parts/freshness.tsx';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Table } from '../parts/table.tsx';
import { Head, State, UserLink } from '../parts/texts.tsx';
import { usePoll, useSettled } from '../poll.ts';

const NAMES = ['user', 'account', 'client', 'state', 'min_lag'] as const;
/** Rows with whole texts: a table with more shows each row in one line. */
const MOST = 60;

export function Devices() {
  const texts = useFilters(NAMES);
  const sort = usePlace().query.get('sort') ?? '-lag';
  const given = NAMES.map((name) => [name, texts[name].trim()] as const).filter(([, text]) => text !== '');
  const path = useSettled(withQuery('/api/admin/devices', { ...Object.fromEntries(given), sort, limit: MOST }), 300);
  // The hub reads the positions of all devices for each answer.
  const polled = usePoll((signal) => api.devices(path, signal), path, 15_000);
  const { data, problem } = polled;
  const now = data ? Date.parse(data.as_of) : 0;
  return (
    <>
      <Head title="Devices">
        <Freshness polled={polled} label="devices" />
      </Head>
      <Filters
        filters={[
          { name: 'user', label: 'User', placeholder: '42' },
          { name: 'account', label: 'Account', placeholder: '7' },
          { name: 'client', label: 'Device', placeholder: 'web-1' },
          {
            name: 'state',
            label: 'State',
            width: 24,
            choices: [
              ['', 'all known'],
              ['connected', 'connected'],
              ['away', 'away'],
              ['forgotten', 'forgotten'],
            ],
          },
          { name: 'min_lag', label: 'Lag at least', placeholder: '0', numeric: true, width: 12 },
        ]}
      />
      <ProblemNote problem={problem} />
      <p class="count">
        {data
          ? `${plural(data.rows.length, 'device')}${data.more ? ', and there are more: filter to see the others' : ''} · head ${number(data.head)}`
          : 'Loading…'}
      </p>
      {data && data.rows.length === 0 ? (
        given.length > 0 ? (
          <Empty title="No device matches this filter">
            <p>A name matches exactly.</p>
          </Empty>
        ) : (
          <Empty title="No device is known">
            <p>A device is stored when it connects for the first time.</p>
          </Empty>
        )
      ) : (
        <Table
          label="Devices"
          rows={data?.rows ?? []}
          rowKey={(row) => `${row.user_id} ${row.client_id}`}
          sort={sort}
          onSort={(next) => setQuery({ sort: next === '-lag' ? null : next })}
          columns={[
            { label: 'User', sort: 'user', cell: (row) => <UserLink id={row.user_id} /> },
            { label: 'Device', cell: (row) => row.client_id ?? '–' },
            { label: 'State', cell: (row) => <State word={row.state} /> },
            { label: 'Lag', sort: 'lag', align: 'right', cell: (row) => number(row.lag) },
            {
              label: 'Unacked',
              align: 'right',
              cell: (row) => `${number(row.unacked)}${row.unacked_more ? '+' : ''}`,
            },
            {
              label: 'Seen',
              sort: 'seen_at',
              cell: (row) => (row.seen_at ? ago(row.seen_at, now) : '–'),
              title: () => SEEN,
            },
            { label: 'Why', align: 'wrap', cell: (row) => row.why },
          ]}
        />
      )}
      <ShowAs
        forms={{
          recado: [
            'devices',
            ...given.flatMap(([name, text]) => [`--${name.replace('_', '-')}`, text]),
            `--sort=${sort}`,
          ],
          path,
        }}
      />
    </>
  );
}

export const SEEN = 'The last acknowledgement, or the last connection, which is kept to within a day';
