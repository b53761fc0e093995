// Draws one receiving device: its connection, what it received, its raw frames, and what can be done to it.

import type { Notification } from '@recado/client';
import { useEffect, useReducer, useState } from 'preact/hooks';
import type { Problem } from '../api.ts';
import { clock, number } from '../format.ts';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Table } from '../parts/table.tsx';
import { State, WhyLink } from '../parts/texts.tsx';
import { asProblem, useNow } from '../poll.ts';
import { type FrameLine, type Identity, Receiver, type Shown } from './receiver.ts';
import { loadClient } from './sdk.ts';

interface PanelProps {
  readonly title: string;
  readonly first: Identity;
  /** Reports steps of the first minute. */
  readonly did: (step: 'connected' | 'cut' | 'back' | 'received') => void;
}

export function Panel({ title, first, did }: PanelProps) {
  const [identity, setIdentity] = useState(first);
  const [receiver, setReceiver] = useState<Receiver | null>(null);
  useEffect(() => () => receiver?.close(), [receiver]);
  const [problem, setProblem] = useState<Problem | null>(null);
  const connect = async (): Promise<void> => {
    try {
      const made = new Receiver(identity, await loadClient());
      made.connect();
      setReceiver(made);
      setProblem(null);
      did('connected');
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  return (
    <section class="panel" aria-label={title}>
      <h2>{title}</h2>
      <Form identity={identity} set={setIdentity} locked={receiver !== null} />
      <div class="buttons">
        {receiver ? (
          <button type="button" onClick={() => setReceiver(null)}>
            Disconnect
          </button>
        ) : (
          <button type="button" class="main" onClick={connect} disabled={identity.user.trim() === ''}>
            Connect
          </button>
        )}
      </div>
      <ProblemNote problem={problem} />
      {receiver ? (
        <Connected receiver={receiver} did={did} />
      ) : (
        <Empty title="Not connected">
          <p>Press Connect: the page gets a token of this user for 15 minutes, and uses the SDK like an application.</p>
        </Empty>
      )}
    </section>
  );
}

function Form({ identity, set, locked }: { identity: Identity; set: (next: Identity) => void; locked: boolean }) {
  const choose = <K extends keyof Identity>(
    name: K,
    label: string,
    choices: readonly (readonly [Identity[K] & string, string])[],
  ) => (
    <label class="field">
      <span>{label}</span>
      <select
        value={String(identity[name])}
        disabled={locked}
        onChange={(event) => set({ ...identity, [name]: event.currentTarget.value })}
      >
        {choices.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
  const text = (value: string, label: string, change: (value: string) => void) => (
    <label class="field">
      <span>{label}</span>
      <input
        value={value}
        disabled={locked}
        onInput={(event) => change(event.currentTarget.value)}
        autocomplete="off"
        spellcheck={false}
      />
    </label>
  );
  return (
    <div class="grid">
      {text(identity.user, 'User', (user) => set({ ...identity, user: user.trim() }))}
      {text(identity.accounts.join(','), 'Accounts', (given) =>
        set({ ...identity, accounts: given.split(/[\s,]+/).filter(Boolean) }),
      )}
      {text(identity.clientId, 'Device', (clientId) => set({ ...identity, clientId: clientId.trim() }))}
      {choose('transport', 'Transport', [
        ['websocket', 'WebSocket'],
        ['sse', 'SSE'],
      ])}
      {choose('signIn', 'Sign in by', [
        ['token', 'token'],
        ['ticket', 'ticket'],
      ])}
      {choose('ack', 'Acknowledge', [
        ['auto', 'when handled'],
        ['manual', 'by hand'],
      ])}
    </div>
  );
}

function Connected({ receiver, did }: { receiver: Receiver; did: PanelProps['did'] }) {
  const [, draw] = useReducer((n: number) => n + 1, 0);
  useEffect(() => receiver.subscribe(() => draw(undefined)), [receiver]);
  const { shown } = receiver;
  const { snapshot, received } = shown;
  const count = received.length;
  useEffect(() => {
    if (count > 0) did('received');
  }, [count]);
  return (
    <>
      <ProblemNote problem={shown.problem} />
      <p class="line" role="status">
        <State word={shown.isOffline ? 'offline' : snapshot.state} />
        {snapshot.transport ? ` over ${snapshot.transport === 'sse' ? 'SSE' : 'WebSocket'}` : ''}
        {snapshot.reason && !shown.isOffline ? ` · ${snapshot.reason}` : ''}
        <Wakes at={shown.wakesAt} />
      </p>
      <Actions receiver={receiver} shown={shown} did={did} />
      <Proof shown={shown} />
      <h3>Received</h3>
      {count === 0 ? (
        <p class="hint">Nothing yet. Post a notification to {receiver.identity.user}.</p>
      ) : (
        <Table
          label="Received notifications"
          rows={received.slice(0, 50)}
          rowKey={(row) => row.seq}
          columns={[
            {
              label: 'Number',
              align: 'right',
              cell: (row) => <WhyLink user={receiver.identity.user} seq={row.seq} />,
            },
            { label: 'Type', cell: (row) => row.type },
            { label: 'Title', cell: (row) => row.title, title: (row) => row.title },
            { label: 'Message', cell: (row) => row.message, title: (row) => row.message },
            { label: 'Came', cell: (row) => (row.replayed ? 'on resume' : 'live') },
            ...(receiver.identity.ack === 'manual'
              ? [
                  {
                    label: 'Acknowledge',
                    cell: (row: Notification) =>
                      row.seq <= (shown.acked ?? 0) ? (
                        'acked'
                      ) : (
                        <button
                          type="button"
                          class="quiet"
                          onClick={() => receiver.ack(row.seq)}
                          aria-label={`Acknowledge up to ${row.seq}`}
                        >
                          up to here
                        </button>
                      ),
                  },
                ]
              : []),
          ]}
        />
      )}
      <h3>Raw frames</h3>
      <Frames lines={shown.frames} />
    </>
  );
}

function Wakes({ at }: { at: number | null }) {
  const now = useNow(500);
  return at === null ? null : <> · comes back in {Math.max(0, Math.ceil((at - now) / 1000))} s</>;
}

/** A log id that no hub has. */
const otherLog = (): string => {
  const hex = [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, '0'))
    .join('');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
};

function Actions({ receiver, shown, did }: { receiver: Receiver; shown: Shown; did: PanelProps['did'] }) {
  const [old, setOld] = useState('');
  const back = (overrides: { since?: string; logId?: string } = {}): void => {
    receiver.comeBack(overrides);
    did('back');
  };
  const place = old.trim() === '' ? Math.max(0, (shown.mine ?? 0) - 5) : Number(old);
  return (
    <div class="actions">
      <div class="buttons">
        <button
          type="button"
          disabled={shown.isOffline}
          onClick={() => {
            receiver.cut();
            did('cut');
          }}
        >
          Cut the connection
        </button>
        <button
          type="button"
          disabled={shown.isOffline}
          onClick={() => {
            receiver.sleep();
            did('cut');
          }}
        >
          Sleep 10 s
        </button>
        <button type="button" class={shown.isOffline ? 'main' : ''} disabled={!shown.isOffline} onClick={() => back()}>
          Come back
        </button>
      </div>
      <div class="buttons">
        <label class="field inline">
          <span>Old place</span>
          <input
            value={old}
            placeholder={String(Math.max(0, (shown.mine ?? 0) - 5))}
            onInput={(event) => setOld(event.currentTarget.value)}
            inputMode="numeric"
          />
        </label>
        <button
          type="button"
          disabled={!Number.isInteger(place) || place < 0}
          onClick={() => back({ since: String(place) })}
        >
          Come back with it
        </button>
        <button type="button" onClick={() => back({ logId: otherLog() })}>
          Come back with another log id
        </button>
      </div>
    </div>
  );
}

/** The proof that nothing is missing, in numbers. */
function Proof({ shown }: { shown: Shown }) {
  const { resumed, mine, missed, compared, repeated, twice, acked, caughtUp } = shown;
  const lost =
    resumed && resumed.lostFrom !== null ? `, lost ${number(resumed.lostFrom)} to ${number(resumed.lostTo)}` : '';
  const cells: readonly (readonly [string, string, string?])[] = [
    [
      'Resume',
      resumed ? `${resumed.status} from ${number(resumed.from)}${lost}` : '–',
      caughtUp > 0 ? `${number(caughtUp)} replayed` : undefined,
    ].filter((one) => one !== undefined) as [string, string, string?],
    ['Place', number(mine), acked === null ? 'nothing acknowledged' : `acknowledged ${number(acked)}`],
    [
      'Missed',
      missed === null ? '–' : number(missed),
      missed === null ? 'not compared yet' : `the history has ${number(compared)}`,
    ],
    [
      'Duplicates',
      number(twice),
      repeated > 0 ? `${number(repeated)} repeats dropped by the SDK` : 'handed to the application',
    ],
  ];
  return (
    <ul class="tiles proof" aria-label="Proof">
      {cells.map(([label, value, more]) => (
        <li key={label}>
          <div>
            <span class="label">{label}</span>
            <span class="value">{value}</span>
            <span class="hint">{more ?? ''}</span>
          </div>
        </li>
      ))}
    </ul>
  );
}

function Frames({ lines }: { lines: readonly FrameLine[] }) {
  return (
    <Table
      label="Raw frames"
      rows={lines}
      rowKey={(row) => row.n}
      rowClass={(row) => (row.kind === 'drop' || row.kind === 'hole' ? row.kind : undefined)}
      columns={[
        { label: 'Time', width: 12, cell: (row) => clock(row.at, true) },
        {
          label: 'Way',
          cell: (row) => (
            <>
              <span aria-hidden="true">{row.dir}</span>
              <span class="hidden">{row.dir === '←' ? 'received' : row.dir === '→' ? 'sent' : 'event'}</span>
            </>
          ),
        },
        { label: 'Check', width: 26, cell: (row) => row.check, title: (row) => row.check },
        { label: 'Frame', width: 40, cell: (row) => <code>{row.text}</code>, title: (row) => row.text },
      ]}
    />
  );
}
