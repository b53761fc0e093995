// Shows the log as it grows, filtered, with the JSON of a row on request.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { href } from '../address.ts';
import { lines, type Problem, withQuery } from '../api.ts';
import { bytes, clock, number, plural } from '../format.ts';
import { ShowAs } from '../parts/command.tsx';
import { Filters, useFilters } from '../parts/filters.tsx';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Table } from '../parts/table.tsx';
import { Head, Json, UserLink } from '../parts/texts.tsx';
import { asProblem, useSettled, wait } from '../poll.ts';
import type { LogRow, LogSignal } from '../types.ts';

const NAMES = ['type', 'user', 'account', 'source'] as const;
/** Rows that are kept on the page. */
const MOST = 1000;
/** Rows are drawn at most this often. */
const DRAW_MS = 200;
const FIRST = 100;

interface Tail {
  readonly rows: readonly LogRow[];
  readonly skipped: number;
  readonly head: number | null;
  readonly problem: Problem | null;
  readonly at: number | null;
}
const NOTHING: Tail = { rows: [], skipped: 0, head: null, problem: null, at: null };

/** Follows the log. A pause ends the request; going on continues after the last row. */
function useTail(path: (after: number | null) => string, key: string, paused: boolean): Tail {
  const [tail, set] = useState<Tail>(NOTHING);
  const after = useRef<number | null>(null);
  const known = useRef(key);
  // The key stands for the filters in the path.
  useEffect(() => {
    if (known.current !== key) {
      known.current = key;
      after.current = null;
      set(NOTHING);
    }
    if (paused) return;
    const abort = new AbortController();
    const { signal } = abort;
    let waiting: LogRow[] = [];
    let skipped = 0;
    let head: number | null = null;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const draw = (): void => {
      timer = undefined;
      const fresh = waiting;
      waiting = [];
      set((old) => ({
        rows: fresh.length > 0 ? [...fresh.reverse(), ...old.rows].slice(0, MOST) : old.rows,
        skipped: old.skipped + skipped,
        head: head ?? old.head,
        problem: null,
        at: Date.now(),
      }));
      skipped = 0;
    };
    const take = (line: string): void => {
      if (line === '') return;
      const found = JSON.parse(line) as Partial<LogRow> & LogSignal;
      if (found.skipped) {
        skipped += found.skipped.to - found.skipped.from + 1;
        after.current = Math.max(after.current ?? 0, found.skipped.to);
      } else if (found.seq !== undefined) {
        // A stream that was opened again may repeat a row.
        if (after.current !== null && found.seq <= after.current) return;
        after.current = found.seq;
        waiting.push(found as LogRow);
      } else if (found.end === 'reset') {
        // Another log: its numbers mean other rows.
        after.current = null;
        set(NOTHING);
      } else if (found.head !== undefined) head = found.head;
      timer ??= setTimeout(draw, DRAW_MS);
    };
    const run = async (): Promise<void> => {
      while (!signal.aborted) {
        try {
          await lines(path(after.current), 'application/x-ndjson', signal, take);
        } catch (error) {
          if (signal.aborted) return;
          const problem = asProblem(error);
          set((old) => ({ ...old, problem }));
          if (problem.status === 422 || problem.status === 400) return;
        }
        await wait(2000, signal);
      }
    };
    void run();
    return () => {
      abort.abort();
      clearTimeout(timer);
      if (waiting.length > 0) draw();
    };
  }, [key, paused]);
  return tail;
}

/** One of six colours for a type, the same each time. */
export function colourOf(type: string): number {
  let sum = 0;
  for (const letter of type) sum = (sum * 31 + letter.charCodeAt(0)) >>> 0;
  return (sum % 6) + 1;
}

const addressed = (row: LogRow): string =>
  row.broadcast
    ? 'everyone'
    : [row.user_ids?.join(', '), row.account_id ? `account ${row.account_id}` : ''].filter(Boolean).join(' in ') || '–';

export function LiveTail() {
  const texts = useFilters(NAMES);
  const asked = useSettled(NAMES.map((name) => texts[name].trim()).join('\n'), 400);
  const [paused, setPaused] = useState(false);
  const [open, setOpen] = useState<LogRow | null>(null);
  const query = useMemo(
    () => Object.fromEntries(asked.split('\n').map((text, at) => [NAMES[at] as string, text])),
    [asked],
  );
  const path = (after: number | null): string =>
    withQuery('/api/admin/log', { ...query, ...(after === null ? { limit: FIRST } : { after }), follow: 1 });
  const { rows, skipped, problem, at, head } = useTail(path, asked, paused);
  const types = useMemo(() => [...new Set(rows.map(({ type }) => type))], [rows]);
  return (
    <>
      <Head title="Live tail">
        <div class="freshness">
          <span>{paused ? 'paused' : at === null ? 'connecting' : 'live'}</span>
          <button type="button" class="quiet" aria-pressed={paused} onClick={() => setPaused(!paused)}>
            {paused ? 'Resume' : 'Pause'}
          </button>
          <span class="hint">{paused ? 'goes on where it stopped' : 'rows appear as they are committed'}</span>
        </div>
      </Head>
      <Filters
        filters={[
          { name: 'type', label: 'Type', placeholder: 'order_*', offers: types },
          { name: 'user', label: 'User', placeholder: '42' },
          { name: 'account', label: 'Account', placeholder: '7' },
          { name: 'source', label: 'Source', placeholder: 'key name' },
        ]}
      />
      <ProblemNote problem={problem} />
      <p class="count">
        {plural(rows.length, 'row')} on this page
        {head === null ? '' : ` · head ${number(head)}`}
        {skipped > 0 ? ` · ${number(skipped)} skipped, because the log grew faster than this page reads` : ''}
      </p>
      {rows.length === 0 ? (
        <Empty title="No row yet">
          <p>
            Post one in the <a href={href('playground')}>playground</a>, or loosen the filters.
          </p>
        </Empty>
      ) : (
        <Table
          label="Log"
          rows={rows}
          rowKey={(row) => row.seq}
          rowClass={(row) => (open?.seq === row.seq ? 'chosen' : undefined)}
          columns={[
            {
              label: 'Number',
              align: 'right',
              width: 8,
              cell: (row) => (
                <button
                  type="button"
                  class="quiet"
                  aria-expanded={open?.seq === row.seq}
                  onClick={() => setOpen(open?.seq === row.seq ? null : row)}
                  aria-label={`Show ${row.seq} as JSON`}
                >
                  {number(row.seq)}
                </button>
              ),
            },
            {
              label: 'Created',
              width: 13,
              cell: (row) => clock(row.created_at, true),
              title: (row) => row.created_at,
            },
            {
              label: 'Type',
              width: 18,
              cell: (row) => <span class={`kind line-${colourOf(row.type)}`}>{row.type}</span>,
              title: (row) => row.type,
            },
            { label: 'Title', width: 14, cell: (row) => row.title, title: (row) => row.title },
            { label: 'Message', width: 18, cell: (row) => row.message, title: (row) => row.message },
            { label: 'To', width: 14, cell: addressed, title: addressed },
            { label: 'Source', width: 10, cell: (row) => row.source ?? '–' },
            { label: 'Size', align: 'right', width: 7, cell: (row) => bytes(row.bytes) },
          ]}
        />
      )}
      {open ? <RowDetail row={open} close={() => setOpen(null)} /> : null}
      <ShowAs forms={{ path: path(null) }} />
    </>
  );
}

function RowDetail({ row, close }: { row: LogRow; close: () => void }) {
  return (
    <aside class="detail" aria-label={`Notification ${row.seq}`}>
      <div class="head">
        <h2>Notification {number(row.seq)}</h2>
        <button type="button" onClick={close}>
          Close
        </button>
      </div>
      {row.user_ids && row.user_ids.length > 0 ? (
        <ul class="links">
          {row.user_ids.slice(0, 20).map((user) => (
            <li key={user}>
              <UserLink id={user} /> ·{' '}
              <a href={href('why', '', { user, seq: row.seq })}>why did {user} get it, or not?</a>
            </li>
          ))}
        </ul>
      ) : (
        <p>
          <a href={href('why', '', { seq: row.seq })}>Ask why for a user</a>
        </p>
      )}
      <Json value={row} label={`Notification ${row.seq} as JSON`} />
    </aside>
  );
}
