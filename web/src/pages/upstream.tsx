// Lists provider sessions with their state, and reconnects or releases one.

import { useMemo, useState } from 'preact/hooks';
import { api, userPath, withQuery } from '../api.ts';
import { number, plural, short } from '../format.ts';
import { type CommandForms, ShowAs } from '../parts/command.tsx';
import { useQuestion } from '../parts/dialog.tsx';
import { Filters, useFilters } from '../parts/filters.tsx';
import { Freshness } from '../parts/freshness.tsx';
import { Empty, ProblemNote, Said } from '../parts/problem.tsx';
import { type Column, Table } from '../parts/table.tsx';
import { Age, Head, State, UserLink } from '../parts/texts.tsx';
import { usePoll, useSettled } from '../poll.ts';
import type { UpstreamSession } from '../types.ts';

const STATES = ['waiting', 'signing_in', 'connecting', 'live', 'backing_off', 'refused', 'idle', 'released'];
const NAMES = ['user', 'state'] as const;
const LIMIT = 1000;

type Act = (row: UpstreamSession, action: 'reconnect' | 'release') => void;

const COLUMNS: readonly Column<UpstreamSession>[] = [
  { label: 'Provider', width: 10, cell: (row) => row.provider },
  { label: 'User', width: 12, cell: (row) => <UserLink id={row.user_id} /> },
  { label: 'State', width: 11, cell: (row) => <State word={row.state} /> },
  {
    label: 'Owner',
    cell: (row) => (row.owner ? `${short(row.owner)}, term ${row.term}` : '–'),
    title: (row) => row.owner ?? undefined,
  },
  { label: 'Attempts', align: 'right', cell: (row) => number(row.attempts) },
  { label: 'Heard', cell: (row) => <Age time={row.last_message_at} /> },
  { label: 'Next try', cell: (row) => (row.state === 'live' ? '–' : <Age time={row.next_try_at} />) },
  { label: 'Error', width: 12, cell: (row) => row.error ?? '–', title: (row) => row.error ?? undefined },
];

/** The table, also of one user. Rows open to their commands. */
export function UpstreamTable({ sessions, act }: { sessions: readonly UpstreamSession[]; act?: Act }) {
  const [open, setOpen] = useState<string | null>(null);
  const keyOf = (row: UpstreamSession): string => `${row.provider} ${row.user_id}`;
  const chosen = sessions.find((row) => keyOf(row) === open);
  const columns = useMemo(() => {
    const button = (row: UpstreamSession, label: string, run: () => void) => (
      <button type="button" class="quiet" onClick={run} aria-label={`${label}: ${row.provider}, ${row.user_id}`}>
        {label}
      </button>
    );
    const actions: Column<UpstreamSession> = {
      label: 'Action',
      cell: (row) => (
        <>
          {row.commands && row.commands.length > 0
            ? button(row, `${row.commands.length} commands`, () =>
                setOpen((old) => (old === keyOf(row) ? null : keyOf(row))),
              )
            : null}
          {act ? button(row, 'Reconnect', () => act(row, 'reconnect')) : null}
          {act ? button(row, 'Release', () => act(row, 'release')) : null}
        </>
      ),
    };
    return [...COLUMNS, actions];
  }, [act]);
  return (
    <>
      <Table label="Provider sessions" columns={columns} rows={sessions} rowKey={keyOf} />
      {chosen?.commands ? (
        <aside class="detail">
          <h2>
            Commands of {chosen.user_id} to {chosen.provider}
          </h2>
          <Table
            label="Commands"
            rows={chosen.commands}
            rowKey={(row) => row.command_id}
            columns={[
              { label: 'Id', cell: (row) => row.id },
              { label: 'Type', cell: (row) => row.type },
              { label: 'State', cell: (row) => <State word={row.state} /> },
              { label: 'Device', cell: (row) => row.client_id },
              { label: 'Accepted', cell: (row) => <Age time={row.accepted_at} /> },
              { label: 'Settled', cell: (row) => <Age time={row.settled_at} /> },
              { label: 'Detail', cell: (row) => row.detail ?? '–' },
            ]}
          />
        </aside>
      ) : null}
    </>
  );
}

export function Upstream() {
  const texts = useFilters(NAMES);
  const user = useSettled(texts.user.trim(), 300);
  const query = { user, state: texts.state, limit: LIMIT };
  const path = withQuery('/api/admin/upstream', query);
  const polled = usePoll((signal) => api.upstream(query, signal), path);
  const { ask, said, dialog } = useQuestion();
  const { data, problem } = polled;
  const act = useMemo<Act>(
    () => (row, action) => {
      const forms: CommandForms = {
        recado: ['upstream', action, row.user_id],
        method: 'POST',
        path: userPath(`/api/admin/upstream/${encodeURIComponent(row.provider)}`, row.user_id),
        body: { action },
      };
      const isRelease = action === 'release';
      ask({
        title: isRelease ? `Release the session of ${row.user_id}?` : `Reconnect the session of ${row.user_id}?`,
        text: isRelease ? (
          <p>The hub closes its connection to {row.provider} and signs in again only when the user connects again.</p>
        ) : (
          <p>
            The hub closes its connection to {row.provider} and opens a new one. Messages in between may be missing.
          </p>
        ),
        verb: isRelease ? 'Release' : 'Reconnect',
        forms,
        act: async () => {
          await api.upstreamAct(row.provider, row.user_id, action);
          polled.refresh();
          return isRelease ? 'Asked the owner to release it.' : 'Asked the owner to reconnect.';
        },
      });
    },
    [ask, polled.refresh],
  );
  const filtered = texts.user !== '' || texts.state !== '';
  return (
    <>
      <Head title="Upstream">
        <Freshness polled={polled} label="provider sessions" />
      </Head>
      <Filters
        filters={[
          { name: 'user', label: 'User', placeholder: '42' },
          {
            name: 'state',
            label: 'State',
            choices: [['', 'all'], ...STATES.map((one) => [one, one.replace('_', ' ')] as const)],
          },
        ]}
      />
      <ProblemNote problem={problem} />
      <Said text={said} />
      {data ? (
        data.sessions.length === 0 ? (
          filtered ? (
            <Empty title="No provider session matches this filter" />
          ) : (
            <Empty title="No provider session">
              <p>
                Provider sessions exist once a hub has a provider file (<code>RECADO_UPSTREAM_FILE</code>) and a user
                connects.
              </p>
            </Empty>
          )
        ) : (
          <>
            <p class="count">
              {plural(data.sessions.length, 'provider session')}
              {data.sessions.length === LIMIT ? ` · the first ${number(LIMIT)} are shown` : ''}
            </p>
            <UpstreamTable sessions={data.sessions} act={act} />
          </>
        )
      ) : null}
      <ShowAs forms={{ recado: ['upstream', 'ls'], path }} />
      {dialog}
    </>
  );
}
