// Lists the sessions of all instances, filters and sorts them, and closes one or all that match.

import { useEffect, useMemo, useState } from 'preact/hooks';
import { href, setQuery, usePlace } from '../address.ts';
import { api, withQuery } from '../api.ts';
import { ago, number, plural, short } from '../format.ts';
import { ShowAs } from '../parts/command.tsx';
import { useQuestion } from '../parts/dialog.tsx';
import { Filters, useFilters } from '../parts/filters.tsx';
import { Freshness } from '../parts/freshness.tsx';
import { Empty, ProblemNote, Said } from '../parts/problem.tsx';
import { type Column, Table } from '../parts/table.tsx';
import { Head, UserLink } from '../parts/texts.tsx';
import { refreshSoon, SOON, usePoll, useSettled } from '../poll.ts';
import {
  accountPart,
  filterOf,
  filterRows,
  hubPart,
  lagOf,
  newPart,
  offers,
  readRows,
  type SessionRow,
  sortOf,
  sortRows,
} from '../sessions.ts';

const NAMES = ['user', 'account', 'client', 'instance', 'transport', 'min_lag'] as const;
/** The most that the hub gives in one answer. */
const MOST = 10_000;
/** Names of the filter as the page calls them. */
const LABELS: { readonly [name: string]: string } = { client: 'device', min_lag: 'lag at least' };
const CLOSE = '/api/admin/sessions/close';

/** The device, marked if the token is of the playground. */
const deviceOf = ({ client, playground }: SessionRow) => (playground ? `${client} (playground)` : client);

/** `now`: the time of the answer. A line of text for each age costs less than a component that follows the clock. */
function columnsOf(close: (row: SessionRow) => void, now: number): readonly Column<SessionRow>[] {
  return [
    {
      label: 'User',
      sort: 'user',
      width: 12,
      cell: (row) => <UserLink id={row.user} />,
      title: (row) => row.user,
    },
    {
      label: 'Accounts',
      width: 9,
      cell: ({ accounts }) => accounts.join(', ') || '–',
      title: (row) => row.accounts.join(', '),
    },
    { label: 'Device', width: 14, cell: deviceOf, title: (row) => row.client },
    {
      label: 'Lag',
      sort: 'lag',
      align: 'right',
      width: 7,
      cell: (row) => <b class={row.lag > 1000 ? 'worse' : ''}>{number(row.lag)}</b>,
    },
    { label: 'Sent', sort: 'sent', align: 'right', width: 8, cell: (row) => number(row.sent) },
    { label: 'Acked', sort: 'acked', align: 'right', width: 8, cell: (row) => number(row.acked) },
    {
      label: 'Types',
      width: 8,
      cell: (row) => row.types || 'all',
      title: (row) => row.types,
    },
    { label: 'Transport', width: 10, cell: (row) => row.transport },
    { label: 'Instance', width: 10, cell: (row) => short(row.instance), title: (row) => row.instance },
    {
      label: 'Connected',
      sort: 'connected_at',
      width: 12,
      cell: (row) => ago(row.connectedAt, now),
    },
    { label: 'Active', sort: 'last_activity_at', width: 12, cell: (row) => ago(row.activeAt, now) },
    {
      label: 'Action',
      width: 8,
      cell: (row) => (
        <button
          type="button"
          class="quiet"
          onClick={() => close(row)}
          aria-label={`Close session of ${row.user}, device ${row.client}`}
        >
          Close
        </button>
      ),
    },
  ];
}

export function Sessions() {
  const texts = useFilters(NAMES);
  const { query } = usePlace();
  const sort = sortOf(query.get('sort') ?? '');
  const filter = useMemo(() => filterOf(texts), [NAMES.map((name) => texts[name]).join('\n')]);
  const settled = useSettled(filter, 300);
  // All sessions fit into one answer: the page filters, at once. More: the hub does.
  const [crowded, setCrowded] = useState(false);
  const asked = useMemo(() => (crowded ? hubPart(settled) : accountPart(settled)), [settled, crowded]);
  const path = withQuery('/api/admin/sessions', { ...hubPart(filter), sort, limit: MOST });
  // The page sorts what it has; the hub's order only decides which rows it gives when there are more.
  const wanted = { ...asked, sort: crowded ? sort : undefined, limit: MOST };
  const load = async (signal: AbortSignal) => ({
    applied: asked,
    ...(await api.sessions(wanted, signal)),
  });
  const polled = usePoll(load, JSON.stringify(wanted));
  const { data, problem } = polled;
  useEffect(() => setCrowded((data?.total ?? 0) > MOST), [data?.total]);
  const { ask, said, dialog } = useQuestion();
  const all = useMemo(() => (data ? readRows(data) : []), [data]);
  const rows = useMemo(
    () => sortRows(filterRows(all, newPart(filter, data?.applied ?? {})), sort),
    [all, filter, sort, data?.applied],
  );
  const filtered = Object.keys(filter).length > 0;
  const patterned = Object.keys(hubPart(filter)).length < Object.keys(filter).length;
  const open = data === null ? {} : newPart(filter, data.applied);
  // The page counts what it filtered itself, unless the hub has more than it gave.
  const whole = data !== null && data.rows.length === data.matching;
  const matching = data && Object.keys(open).length === 0 ? data.matching : rows.length;
  const wrong = texts.min_lag.trim() !== '' && lagOf(texts.min_lag) === undefined;
  const closable = !wrong && filtered && !patterned && matching > 0 && (whole || Object.keys(open).length === 0);

  const columns = useMemo(() => {
    const close = (row: SessionRow): void => {
      const body = { session_id: row.id };
      ask({
        title: 'Close this session?',
        text: (
          <p>
            The hub closes the connection of <b>{row.user}</b> on device <b>{row.client}</b> with 4505. The client does
            not come back by itself. To keep the user out, revoke the user.
          </p>
        ),
        verb: 'Close the session',
        forms: { recado: ['close', '--session', row.id], method: 'POST', path: CLOSE, body },
        act: async () => {
          const { sessions } = await api.closeSessions(body);
          refreshSoon(polled.refresh);
          return `Closed ${plural(sessions, 'session')} of ${row.user}.`;
        },
      });
    };
    return columnsOf(close, data ? Date.parse(data.as_of) : Date.now());
  }, [ask, polled.refresh, data?.as_of]);

  const closeAll = (): void => {
    const body = { filter, expect: matching };
    ask({
      title: `Close ${plural(matching, 'session')}?`,
      text: (
        <>
          <p>The hub closes every session that matches this filter, on all instances:</p>
          <ul>
            {Object.entries(filter).map(([name, value]) => (
              <li key={name}>
                {LABELS[name] ?? name} <code>{String(value)}</code>
              </li>
            ))}
          </ul>
          <p>If another number matches by then, nothing is closed.</p>
        </>
      ),
      typed: String(matching),
      typedLabel: 'Type the number of sessions:',
      verb: 'Close all',
      forms: { method: 'POST', path: CLOSE, body },
      act: async () => {
        const { sessions } = await api.closeSessions(body);
        refreshSoon(polled.refresh);
        return `Closed ${plural(sessions, 'session')}${SOON}`;
      },
    });
  };

  const instances = data?.instances ?? [];
  return (
    <>
      <Head title="Sessions">
        <Freshness polled={polled} label="sessions" />
      </Head>
      <Filters
        filters={[
          { name: 'user', label: 'User', placeholder: '42 or shop-*', offers: offers(all, 'user', texts.user) },
          { name: 'account', label: 'Account', placeholder: '7', offers: offers(all, 'account', texts.account) },
          { name: 'client', label: 'Device', placeholder: 'web-*', offers: offers(all, 'client', texts.client) },
          {
            name: 'instance',
            label: 'Instance',
            choices: [['', 'all'], ...instances.map((one) => [one, short(one)] as const)],
          },
          {
            name: 'transport',
            label: 'Transport',
            choices: [
              ['', 'all'],
              ['websocket', 'websocket'],
              ['sse', 'sse'],
              ['ndjson', 'ndjson'],
            ],
          },
          { name: 'min_lag', label: 'Lag at least', placeholder: '0', numeric: true, width: 12 },
        ]}
      >
        <button
          type="button"
          class="danger"
          disabled={!closable}
          onClick={closeAll}
          title={wrong ? 'The filter is not valid' : patterned ? 'Only for whole names: remove the * first' : undefined}
        >
          Close all that match
        </button>
      </Filters>
      {wrong ? <p class="note fair">Lag must be a whole number.</p> : null}
      <ProblemNote problem={problem} />
      <p class="count">
        {data ? `${number(matching)} of ${plural(data.total, 'session')} · head ${number(data.head)}` : 'Loading…'}
        {data && data.rows.length < data.matching
          ? ` · the first ${number(data.rows.length)} are shown: filter to see the others`
          : ''}{' '}
        · <a href={href('devices', '', { state: 'away' })}>devices that are away</a>
      </p>
      <Said text={said} />
      {data && rows.length === 0 ? (
        filtered ? (
          <Empty title="No session matches this filter">
            <p>
              A name matches exactly. Put <code>*</code> at the end to match a beginning: <code>web-*</code>.
            </p>
          </Empty>
        ) : (
          <Empty title="No client is connected">
            <p>
              Connect one in the <a href="#/playground">playground</a>, or run <code>recado listen --user 42</code>.
            </p>
          </Empty>
        )
      ) : (
        <Table
          label="Sessions"
          columns={columns}
          rows={rows}
          rowKey={(row) => row.id}
          sort={sort}
          onSort={(next) => setQuery({ sort: next === '-lag' ? null : next })}
        />
      )}
      <ShowAs forms={{ recado: ['stats'], path }} />
      {dialog}
    </>
  );
}
