// Shows a user's notifications, the newest first, with how far each got with each device.

import { useState } from 'preact/hooks';
import { api } from '../api.ts';
import { number } from '../format.ts';
import { JsonDialog } from '../parts/dialog.tsx';
import { Empty, ProblemNote } from '../parts/problem.tsx';
import { Table } from '../parts/table.tsx';
import { Age, State, WhyLink } from '../parts/texts.tsx';
import { usePoll } from '../poll.ts';
import type { UserNotification } from '../types.ts';

const LIMIT = 50;

export function UserHistory({ user }: { user: string }) {
  const [before, setBefore] = useState<number | undefined>(undefined);
  const [open, setOpen] = useState<UserNotification | null>(null);
  const query = { before, limit: LIMIT };
  const polled = usePoll(
    (signal) => api.userNotifications(user, query, signal),
    `${user} ${before ?? ''}`,
    before === undefined ? 5000 : 0,
  );
  const { data, problem } = polled;
  if (!data) return problem ? <ProblemNote problem={problem} /> : <p class="hint">loading…</p>;
  const rows = data.notifications;
  return (
    <>
      <ProblemNote problem={problem} />
      {rows.length === 0 ? (
        <Empty title="No notification is kept for this user" />
      ) : (
        <Table
          label="Notifications"
          rows={rows}
          rowKey={(row) => row.seq}
          columns={[
            {
              label: 'Number',
              align: 'right',
              cell: (row) => (
                <WhyLink user={user} seq={row.seq}>
                  {number(row.seq)}
                </WhyLink>
              ),
            },
            { label: 'Type', cell: (row) => row.type },
            { label: 'Title', width: 16, cell: (row) => row.title, title: (row) => row.title },
            { label: 'Message', width: 20, cell: (row) => row.message, title: (row) => row.message },
            { label: 'Created', cell: (row) => <Age time={row.created_at} /> },
            {
              label: 'Devices',
              align: 'wrap',
              width: 18,
              cell: (row) =>
                row.devices.map((one) => (
                  <span key={one.client_id} class="pair">
                    {one.client_id} <State word={one.verdict} />
                  </span>
                )),
            },
            {
              label: 'JSON',
              cell: (row) => (
                <button
                  type="button"
                  class="quiet"
                  aria-haspopup="dialog"
                  onClick={() => setOpen(row)}
                  aria-label={`JSON of ${row.seq}`}
                >
                  JSON
                </button>
              ),
            },
          ]}
        />
      )}
      {open ? <JsonDialog value={open} title={`Notification ${open.seq}`} done={() => setOpen(null)} /> : null}
      <div class="buttons">
        <button type="button" disabled={before === undefined} onClick={() => setBefore(undefined)}>
          Newest
        </button>
        <button type="button" disabled={data.next === null} onClick={() => setBefore(data.next ?? undefined)}>
          Older
        </button>
      </div>
    </>
  );
}
