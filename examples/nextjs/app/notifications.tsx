// Connects the page to the hub, and shows toasts and the list. Rendered on the server, where it opens nothing.
'use client';

import { RecadoClient } from '@recado/client';
import { RecadoProvider, useConnection, useNotifications, useOnNotification } from '@recado/client/react';
import { type ReactNode, useEffect, useState } from 'react';

async function getToken(): Promise<string | null> {
  const answer = await fetch('/api/token');
  if (answer.status === 401) return null;
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return (await answer.json()).token;
}

export function Notifications({ hub, children }: { hub: string; children: ReactNode }) {
  const [client] = useState(() => new RecadoClient({ url: hub, getToken }));
  return (
    <RecadoProvider client={client}>
      {children}
      <List />
      <Toasts />
    </RecadoProvider>
  );
}

function List() {
  const { items, gap, loadMore } = useNotifications({ history: 20 });
  const { state } = useConnection();
  // The old list is gone with the old log.
  useEffect(() => {
    if (gap?.status === 'reset') loadMore().catch(() => {});
  }, [gap]);
  return (
    <section className="list" aria-labelledby="notifications">
      <h2 id="notifications">Notifications</h2>
      <div role="status">
        {state === 'waiting' && <p className="notice">Connection lost. Trying again; nothing is missed.</p>}
        {gap?.status === 'gap' && <p className="notice">Some notifications are no longer kept.</p>}
        {gap?.status === 'reset' && <p className="notice">The hub started a new history. The list was loaded again.</p>}
      </div>
      {items.length === 0 && <p className="muted">Nothing yet.</p>}
      <ol>
        {items.map(({ seq, title, message }) => (
          <li key={seq}>
            <strong>{title}</strong>
            <p className="muted">{message}</p>
          </li>
        ))}
      </ol>
    </section>
  );
}

const SHOWN_MS = 8_000;

function Toasts() {
  const [shown, setShown] = useState<readonly { seq: number; title: string; message: string }[]>([]);
  const close = (seq: number) => setShown((before) => before.filter((one) => one.seq !== seq));
  useOnNotification('*', (notification) => {
    setShown((before) => [...before, notification]);
    setTimeout(() => close(notification.seq), SHOWN_MS);
  });
  return (
    <section className="toasts" aria-label="New notifications" aria-live="polite">
      {shown.map(({ seq, title, message }) => (
        <article className="toast" key={seq}>
          <div>
            <strong>{title}</strong>
            <p>{message}</p>
          </div>
          <button type="button" aria-label={`Close: ${title}`} onClick={() => close(seq)}>
            ×
          </button>
        </article>
      ))}
    </section>
  );
}
