// Shows the effective settings, the service keys, the analysts, and the audit, a tab each.

import { useMemo, useState } from 'preact/hooks';
import { href, setQuery, usePlace } from '../address.ts';
import { api, withQuery } from '../api.ts';
import { number, plural } from '../format.ts';
import { ShowAs } from '../parts/command.tsx';
import { JsonDialog } from '../parts/dialog.tsx';
import { Filters, useFilters } from '../parts/filters.tsx';
import { Freshness } from '../parts/freshness.tsx';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Table } from '../parts/table.tsx';
import { Age, Head, State, UserLink } from '../parts/texts.tsx';
import { usePoll, useSettled } from '../poll.ts';
import type { Act, Setting } from '../types.ts';

const TABS = [
  ['settings', 'Settings'],
  ['keys', 'Keys'],
  ['analysts', 'Analysts'],
  ['audit', 'Audit'],
] as const;

export function SettingsPage() {
  const { rest } = usePlace();
  const tab = TABS.find(([name]) => name === rest)?.[0] ?? 'settings';
  return (
    <>
      <nav class="tabs" aria-label="Settings, keys, analysts, audit">
        {TABS.map(([name, label]) => (
          <a key={name} href={href('settings', name)} aria-current={name === tab ? 'page' : undefined}>
            {label}
          </a>
        ))}
      </nav>
      {tab === 'settings' ? <Effective /> : tab === 'keys' ? <Keys /> : tab === 'analysts' ? <Analysts /> : <Audit />}
    </>
  );
}

const shownValue = ({ value, secret }: Setting): string => {
  if (value === null || value === undefined || value === '') return 'not set';
  if (secret) return 'set';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
};

function Effective() {
  const path = '/api/admin/settings';
  const polled = usePoll((signal) => api.settings(signal), path, 0);
  const { find } = useFilters(['find']);
  const { data, problem } = polled;
  const rows = useMemo(() => {
    const words = find.toLowerCase().split(/\s+/).filter(Boolean);
    return (data?.settings ?? []).filter((one) => {
      const text = `${one.name} ${shownValue(one)} ${one.source}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }, [data, find]);
  return (
    <>
      <Head title="Settings">
        <Freshness polled={polled} label="settings" once />
      </Head>
      <Filters filters={[{ name: 'find', label: 'Find', placeholder: 'retention' }]} />
      <ProblemNote problem={problem} />
      {data ? (
        rows.length === 0 ? (
          <Empty title="No setting matches" />
        ) : (
          <Table
            label="Settings"
            rows={rows}
            rowKey={(row) => row.name}
            rowClass={(row) => (row.source === 'default' ? 'dim' : undefined)}
            columns={[
              { label: 'Setting', width: 30, cell: (row) => <code>{row.name}</code> },
              { label: 'Value', width: 20, cell: shownValue, title: shownValue },
              { label: 'Comes from', cell: (row) => row.source },
            ]}
          />
        )
      ) : null}
      <ShowAs forms={{ recado: ['config'], path }} />
    </>
  );
}

function Keys() {
  const path = '/api/admin/keys';
  const polled = usePoll((signal) => api.keys(signal), path, 15_000);
  const { data, problem } = polled;
  return (
    <>
      <Head title="Service keys">
        <Freshness polled={polled} label="keys" />
      </Head>
      <ProblemNote problem={problem} />
      {data ? (
        data.keys.length === 0 ? (
          <Empty title="No service key">
            <p>
              Create one on a machine of the hub: <code>recado key create shop</code>.
            </p>
          </Empty>
        ) : (
          <Table
            label="Service keys"
            rows={data.keys}
            rowKey={(row) => `${row.name} ${row.created_at}`}
            rowClass={(row) => (row.revoked_at ? 'dim' : undefined)}
            columns={[
              { label: 'Name', cell: (row) => row.name },
              { label: 'Role', cell: (row) => row.role },
              { label: 'State', cell: (row) => (row.revoked_at ? 'revoked' : 'valid') },
              {
                label: 'Scopes',
                width: 24,
                cell: (row) => scopes(row.scopes),
                title: (row) => scopes(row.scopes),
              },
              { label: 'Created', cell: (row) => <Age time={row.created_at} /> },
              { label: 'Last used', cell: (row) => <Age time={row.last_used_at} /> },
              { label: 'Revoked', cell: (row) => <Age time={row.revoked_at} /> },
            ]}
          />
        )
      ) : null}
      <ShowAs forms={{ recado: ['key', 'list'], path }} />
    </>
  );
}

/** What limits a key: lists, and what it may not do. A later hub may have further names. */
function scopes(value: unknown): string {
  if (typeof value !== 'object' || value === null) return 'all';
  const parts = Object.entries(value).flatMap(([name, one]) => {
    if (one === null || one === true) return [];
    if (one === false) return [`no ${name}`];
    return [`${name.replaceAll('_', ' ')} ${Array.isArray(one) ? one.join(' ') : String(one)}`];
  });
  return parts.length === 0 ? 'all' : parts.join(' · ');
}

function Analysts() {
  const path = '/api/admin/analysts';
  const polled = usePoll((signal) => api.analysts(signal), path, 15_000);
  const { data, problem } = polled;
  return (
    <>
      <Head title="Analysts">
        <Freshness polled={polled} label="analysts" />
      </Head>
      <ProblemNote problem={problem} />
      {data ? (
        data.analysts.length === 0 ? (
          <Empty title="No analyst">
            <p>
              Create a login that may read the views: <code>recado analyst create NAME</code>.
            </p>
          </Empty>
        ) : (
          <Table
            label="Analysts"
            rows={data.analysts}
            rowKey={(row) => row.name}
            columns={[
              { label: 'Login', cell: (row) => row.name },
              {
                label: 'Sees',
                cell: (row) =>
                  (row.accounts?.length ?? 0) === 0 ? 'everything' : `accounts ${row.accounts?.join(', ')}`,
              },
              { label: 'Connections', align: 'right', cell: (row) => number(row.connections) },
              { label: 'Made by', cell: (row) => (row.made_here ? 'this hub' : 'hand, in SQL') },
            ]}
          />
        )
      ) : null}
      <ShowAs forms={{ recado: ['analyst', 'ls'], path }} />
    </>
  );
}

/** How many sessions an act closed, and by which filter. */
function closed({ what, details }: Act): string {
  if (what !== 'session.close' || !details) return '';
  const { sessions, filter } = details as { readonly sessions?: number; readonly filter?: object };
  const parts = Object.entries(filter ?? {}).map(([name, value]) => `${name.replace('_', ' ')} ${value}`);
  return [plural(Number(sessions), 'session'), ...parts].join(' · ');
}

/** As the hub reads a start: `7d`, or a time of RFC 3339. */
const isSince = (text: string): boolean =>
  /^\d+[smhd]$/.test(text) ||
  (/^\d{4}-\d\d-\d\d[T ][\d:.]+(Z|[+-]\d\d:\d\d)$/i.test(text) && !Number.isNaN(Date.parse(text)));

const AUDIT = ['who', 'what', 'since'] as const;

function Audit() {
  const texts = useFilters(AUDIT);
  const [open, setOpen] = useState<Act | null>(null);
  const { query } = usePlace();
  const before = query.get('before') ?? '';
  const asked = useSettled(AUDIT.map((name) => texts[name].trim()).join('\n'), 400);
  const [who, what, since] = asked.split('\n') as [string, string, string];
  const parameters = { who, what, since: isSince(since) ? since : '', before, limit: 100 };
  const typed = texts.since.trim();
  const path = withQuery('/api/admin/audit', parameters);
  const polled = usePoll((signal) => api.audit(parameters, signal), path, 15_000);
  const { data, problem } = polled;
  return (
    <>
      <Head title="Audit">
        <Freshness polled={polled} label="the audit" />
      </Head>
      <Filters
        filters={[
          { name: 'who', label: 'Who', placeholder: 'key:ann' },
          { name: 'what', label: 'Act', placeholder: 'session.*' },
          { name: 'since', label: 'Since', placeholder: '7d' },
        ]}
      />
      {typed !== '' && !isSince(typed) ? (
        <p class="note fair">Since must be a duration such as 7d, or a time such as 2026-01-31T00:00:00Z.</p>
      ) : null}
      <ProblemNote problem={problem} />
      {data ? (
        data.acts.length === 0 ? (
          <Empty title="No act matches" />
        ) : (
          <Table
            label="Audit"
            rows={data.acts}
            rowKey={(row) => row.audit_id}
            columns={[
              { label: 'When', cell: (row) => <Age time={row.at} /> },
              { label: 'Who', cell: (row) => row.who },
              { label: 'Act', cell: (row) => row.what },
              { label: 'Outcome', cell: (row) => <State word={row.outcome} /> },
              {
                label: 'Object',
                width: 12,
                cell: (row) => row.object ?? '–',
                title: (row) => row.object ?? undefined,
              },
              { label: 'User', cell: (row) => (row.user_id ? <UserLink id={row.user_id} /> : '–') },
              { label: 'Count', align: 'right', cell: (row) => number(row.count) },
              {
                label: 'Reason',
                width: 8,
                cell: (row) => row.reason ?? '–',
                title: (row) => row.reason ?? undefined,
              },
              {
                label: 'From',
                cell: (row) => [row.via, row.address].filter(Boolean).join(' '),
                title: (row) => [row.via, row.address].filter(Boolean).join(' '),
              },
              {
                label: 'Details',
                width: 26,
                cell: (row) => (
                  <>
                    <button
                      type="button"
                      class="quiet"
                      aria-haspopup="dialog"
                      onClick={() => setOpen(row)}
                      aria-label={`Details of act ${row.audit_id}`}
                    >
                      JSON
                    </button>{' '}
                    {closed(row)}
                  </>
                ),
                title: closed,
              },
            ]}
          />
        )
      ) : null}
      {open ? <JsonDialog value={open} title={`Act ${open.audit_id}`} done={() => setOpen(null)} /> : null}
      <div class="buttons">
        <button type="button" disabled={before === ''} onClick={() => setQuery({ before: null })}>
          Newest
        </button>
        <button type="button" disabled={!data || data.next === null} onClick={() => setQuery({ before: data?.next })}>
          Older
        </button>
      </div>
      <ShowAs forms={{ recado: ['audit'], path }} />
    </>
  );
}
