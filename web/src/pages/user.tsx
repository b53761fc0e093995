// Shows one user: devices, live sessions, provider sessions, inbox, history with a verdict a device, and access.

import { useState } from 'preact/hooks';
import { go, href, usePlace } from '../address.ts';
import { api, REVOCATIONS, USERS, userPath } from '../api.ts';
import { clock, number, plural } from '../format.ts';
import { type CommandForms, ShowAs } from '../parts/command.tsx';
import { type Question, useQuestion } from '../parts/dialog.tsx';
import { Freshness } from '../parts/freshness.tsx';
import { Empty, ProblemNote, Said } from '../parts/problem.tsx';
import { Table } from '../parts/table.tsx';
import { Age, Head, State } from '../parts/texts.tsx';
import { type Polled, refreshSoon, SOON, usePoll } from '../poll.ts';
import type { Device, UserAnswer, UserSession } from '../types.ts';
import { SEEN } from './devices.tsx';
import { UpstreamTable } from './upstream.tsx';
import { UserHistory } from './user-history.tsx';
import { Inbox } from './user-inbox.tsx';

export function User() {
  const { rest } = usePlace();
  return rest === '' ? <FindUser /> : <OneUser key={rest} user={rest} />;
}

function FindUser() {
  const [user, setUser] = useState('');
  return (
    <>
      <Head title="User" />
      <form
        class="filters"
        onSubmit={(event) => {
          event.preventDefault();
          if (user.trim() !== '') go(href('users', user.trim()));
        }}
      >
        <label class="field">
          <span>User id</span>
          <input
            value={user}
            onInput={(event) => setUser(event.currentTarget.value)}
            data-search=""
            autocomplete="off"
            spellcheck={false}
          />
        </label>
        <button type="submit">Show the user</button>
      </form>
      <Empty title="Which user?">
        <p>
          Type the id that your tokens carry in <code>sub</code>, or follow a link from{' '}
          <a href={href('sessions')}>Sessions</a>.
        </p>
      </Empty>
    </>
  );
}

type Ask = (question: Question) => void;

function OneUser({ user }: { user: string }) {
  const path = userPath(USERS, user);
  const polled = usePoll((signal) => api.user(user, signal), path);
  const { ask, said, dialog } = useQuestion();
  const { data, problem } = polled;
  return (
    <>
      <Head title={`User ${user}`}>
        <Freshness polled={polled} label="this user" />
      </Head>
      <ProblemNote problem={problem} />
      <Said text={said} />
      {data ? (
        <>
          <Access data={data} ask={ask} polled={polled} />
          <h2>Devices</h2>
          <Devices data={data} ask={ask} polled={polled} />
          <h2>Live sessions</h2>
          <LiveSessions data={data} ask={ask} polled={polled} />
          {data.upstream && data.upstream.length > 0 ? (
            <>
              <h2>Provider sessions</h2>
              <OwnUpstream user={user} />
            </>
          ) : null}
          {data.inbox === undefined ? null : (
            <>
              <h2>Inbox</h2>
              <Inbox inbox={data.inbox} />
            </>
          )}
          <h2>Notifications</h2>
          <UserHistory user={user} />
        </>
      ) : null}
      <ShowAs what="this user" forms={{ recado: ['history', user], path }} />
      {dialog}
    </>
  );
}

/** The user's provider sessions with their last commands. */
function OwnUpstream({ user }: { user: string }) {
  const { data, problem } = usePoll((signal) => api.upstream({ user }, signal), user);
  return (
    <>
      <ProblemNote problem={problem} />
      {data ? <UpstreamTable sessions={data.sessions} /> : null}
    </>
  );
}

interface PartProps {
  readonly data: UserAnswer;
  readonly ask: Ask;
  readonly polled: Polled<UserAnswer>;
}

/** Asks, acts, and shows the answer when it is refreshed. */
function act(polled: Polled<unknown>, perform: (note: string) => Promise<string>): Question['act'] {
  return async (note) => {
    const said = await perform(note);
    refreshSoon(polled.refresh);
    return said;
  };
}

function Access({ data, ask, polled }: PartProps) {
  const { user_id: user, revoked_before: revoked, members_of: members = [] } = data;
  const tokens = [...new Set(data.sessions.flatMap((one) => one.account_ids))].filter((one) => !members.includes(one));
  const closeForms: CommandForms = {
    recado: ['close', '--user', user],
    method: 'POST',
    path: '/api/admin/sessions/close',
    body: { user_id: user },
  };
  const reasonOf = (note: string): string => note.trim() || 'revoked in the console';
  return (
    <div class="facts">
      <dl>
        <dt>Accounts by membership</dt>
        <dd>{members.length === 0 ? 'none' : <Accounts ids={members} />}</dd>
        {tokens.length > 0 ? (
          <>
            <dt>Accounts from tokens</dt>
            <dd>
              <Accounts ids={tokens} /> <span class="hint">of live sessions</span>
            </dd>
          </>
        ) : null}
        <dt>Access</dt>
        <dd>
          {revoked ? (
            <>
              <State word="refused" /> tokens from before {clock(revoked)} are refused
              {data.revoked_reason ? ` (${data.revoked_reason})` : ''}
            </>
          ) : (
            'not revoked'
          )}
        </dd>
        <Forgotten value={data.forgotten} />
      </dl>
      <div class="buttons">
        <button
          type="button"
          disabled={data.sessions.length === 0}
          onClick={() =>
            ask({
              title: `Close all sessions of ${user}?`,
              text: <p>The clients are told 4505 and do not come back by themselves.</p>,
              verb: 'Close all sessions',
              forms: closeForms,
              act: act(
                polled,
                async () => `Closed ${plural((await api.closeSessions({ user_id: user })).sessions, 'session')}${SOON}`,
              ),
            })
          }
        >
          Close all sessions
        </button>
        {revoked ? (
          <button
            type="button"
            onClick={() =>
              ask({
                title: `Accept older tokens of ${user} again?`,
                text: <p>Tokens that were issued before the revocation are accepted until they expire.</p>,
                verb: 'Lift the revocation',
                forms: {
                  recado: ['revocation', 'lift', user],
                  method: 'DELETE',
                  path: userPath(REVOCATIONS, user),
                },
                act: act(polled, async () =>
                  (await api.lift(user)).lifted ? 'The revocation is lifted.' : 'There was none.',
                ),
              })
            }
          >
            Lift the revocation
          </button>
        ) : (
          <button
            type="button"
            class="danger"
            onClick={() =>
              ask({
                title: `Revoke the tokens of ${user}?`,
                text: (
                  <p>
                    Every token that the user has now is refused, and the sessions are closed. A newer token is
                    accepted.
                  </p>
                ),
                verb: 'Revoke',
                noteLabel: 'Reason, for the audit',
                forms: (note) => ({
                  recado: ['revoke', user, '--reason', reasonOf(note)],
                  method: 'POST',
                  path: REVOCATIONS,
                  body: { user_id: user, reason: reasonOf(note) },
                }),
                act: act(
                  polled,
                  async (note) =>
                    `Tokens from before ${clock((await api.revoke(user, reasonOf(note))).not_before)} are refused.`,
                ),
              })
            }
          >
            Revoke access
          </button>
        )}
      </div>
    </div>
  );
}

const Accounts = ({ ids }: { ids: readonly string[] }) =>
  ids.map((one) => (
    <a key={one} href={href('sessions', '', { account: one })}>
      {one}
    </a>
  ));

/** What is left of devices that were not seen for too long. */
function Forgotten({ value }: { value: UserAnswer['forgotten'] }) {
  if (!value) return null;
  const count = value.devices === null ? 'many devices' : plural(value.devices, 'device');
  return (
    <>
      <dt>Forgotten</dt>
      <dd>
        {count}, not seen for too long: one that returns is told a gap after {number(value.from_seq)}
      </dd>
    </>
  );
}

function Devices({ data, ask, polled }: PartProps) {
  const { devices, head, user_id: user } = data;
  if (devices.length === 0) {
    return (
      <Empty title="This user has no device">
        <p>
          A device is stored when it connects for the first time. Connect as this user in the{' '}
          <a href={href('playground', '', { user })}>playground</a>.
        </p>
      </Empty>
    );
  }
  const askForward = (device: Device): void => {
    const body = { client_id: device.client_id, seq: head };
    ask({
      title: `Set ${device.client_id} forward to ${number(head)}?`,
      text: (
        <p>
          The device counts as having acknowledged everything up to the head. It does not receive{' '}
          {plural(device.unacked, 'notification')}
          {device.unacked_more ? ' or more' : ''} when it resumes. The position never moves back.
        </p>
      ),
      typed: device.client_id,
      typedLabel: 'Type the device:',
      verb: 'Set forward',
      forms: { method: 'POST', path: userPath(USERS, user, '/ack'), body },
      act: act(polled, async () => `${device.client_id} is now at ${number((await api.ackDevice(user, body)).acked)}.`),
    });
  };
  return (
    <Table
      label="Devices"
      rows={devices}
      rowKey={(row) => row.client_id}
      columns={[
        { label: 'Device', width: 16, cell: (row) => row.client_id, title: (row) => row.client_id },
        {
          label: 'State',
          cell: (row) => (row.connected ? <State word="connected" /> : <span class="hint">away</span>),
        },
        { label: 'Acked', align: 'right', cell: (row) => number(row.acked) },
        { label: 'Lag', align: 'right', cell: (row) => number(row.lag) },
        {
          label: 'Unacked',
          align: 'right',
          cell: (row) => `${number(row.unacked)}${row.unacked_more ? '+' : ''}`,
        },
        {
          label: 'Last ack or connect (± 1 day)',
          cell: (row) => <Age time={row.seen_at} />,
          title: () => SEEN,
        },
        { label: 'Why', align: 'wrap', cell: (row) => row.why },
        {
          label: 'Action',
          cell: (row) => (
            <button
              type="button"
              class="quiet"
              disabled={row.lag === 0}
              onClick={() => askForward(row)}
              aria-label={`Set ${row.client_id} forward`}
            >
              Set forward
            </button>
          ),
        },
      ]}
    />
  );
}

function LiveSessions({ data, ask, polled }: PartProps) {
  const { sessions, head, user_id: user } = data;
  if (sessions.length === 0) return <Empty title="Not connected at the moment" />;
  const askClose = (row: UserSession): void => {
    const body = { session_id: row.session_id };
    ask({
      title: 'Close this session?',
      text: <p>Device {row.client_id} is told 4505 and does not come back by itself.</p>,
      verb: 'Close the session',
      forms: {
        recado: ['close', '--session', row.session_id],
        method: 'POST',
        path: '/api/admin/sessions/close',
        body,
      },
      act: act(polled, async () => `Closed ${plural((await api.closeSessions(body)).sessions, 'session')} of ${user}.`),
    });
  };
  return (
    <Table
      label="Live sessions"
      rows={sessions}
      rowKey={(row) => row.session_id}
      columns={[
        {
          label: 'Device',
          width: 16,
          cell: (row) => (row.playground ? `${row.client_id} (playground)` : row.client_id),
        },
        { label: 'Transport', cell: (row) => row.transport },
        { label: 'Accounts', cell: (row) => row.account_ids.join(', ') || '–' },
        { label: 'Instance', cell: (row) => row.instance.slice(0, 8), title: (row) => row.instance },
        { label: 'Connected', cell: (row) => <Age time={row.connected_at} /> },
        { label: 'Active', cell: (row) => <Age time={row.last_activity_at} /> },
        { label: 'Sent', align: 'right', cell: (row) => number(row.sent) },
        { label: 'Acked', align: 'right', cell: (row) => number(row.acked) },
        { label: 'Lag', align: 'right', cell: (row) => number(Math.max(0, head - row.acked)) },
        {
          label: 'Action',
          cell: (row) => (
            <button
              type="button"
              class="quiet"
              onClick={() => askClose(row)}
              aria-label={`Close session on ${row.client_id}`}
            >
              Close
            </button>
          ),
        },
      ]}
    />
  );
}
