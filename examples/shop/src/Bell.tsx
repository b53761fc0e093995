// Shows how many notifications arrived since the list was last open, and the list.
import type { Gap } from '@recado/client';
import { useNotifications, useOnNotification } from '@recado/client/react';
import { type ToggleEvent, useEffect, useState } from 'react';

const HISTORY = 20;
const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

/** `onGap` is told once what cannot be received any more. */
export function Bell({ onGap }: { onGap: (gap: Gap) => void }) {
  const { items, loading, hasMore, loadMore, gap } = useNotifications({ history: HISTORY, limit: HISTORY });
  const [isOpen, setOpen] = useState(false);
  const [unread, setUnread] = useState(0);
  useOnNotification('*', () => {
    if (!isOpen) setUnread((count) => count + 1);
  });
  useEffect(() => {
    if (!gap) return;
    onGap(gap);
    // The old list is gone with the old log.
    if (gap.status === 'reset') loadMore().catch(() => {});
  }, [gap]);
  const toggle = (event: ToggleEvent) => {
    setOpen(event.newState === 'open');
    setUnread(0);
  };
  return (
    <>
      <button type="button" className="bell" popoverTarget="notifications" aria-expanded={isOpen}>
        <BellIcon />
        <span className="hidden">Notifications</span>
        {unread > 0 && (
          <span className="count">
            {unread > 99 ? '99+' : unread}
            <span className="hidden"> unread</span>
          </span>
        )}
      </button>
      {/* A popover closes by Escape and by a click elsewhere, and gives the focus back. The keyboard scrolls it. */}
      <section
        id="notifications"
        className="panel"
        popover="auto"
        onToggle={toggle}
        aria-label="Notifications"
        tabIndex={0}
      >
        <h2>Notifications</h2>
        {items.length === 0 && <p className="muted">{loading ? 'Loading…' : 'Nothing yet.'}</p>}
        <ol>
          {items.map(({ seq, title, message, created_at }) => (
            <li key={seq} data-seq={seq}>
              <strong>{title}</strong>
              <p>{message}</p>
              <time dateTime={created_at}>{TIME.format(new Date(created_at))}</time>
            </li>
          ))}
        </ol>
        {items.length > 0 && hasMore && (
          <button type="button" disabled={loading} onClick={() => void loadMore().catch(() => {})}>
            Older
          </button>
        )}
      </section>
    </>
  );
}

function BellIcon() {
  return (
    <svg
      viewBox="0 0 24 24"
      width="24"
      height="24"
      fill="none"
      stroke="currentColor"
      strokeWidth="2"
      aria-hidden="true"
    >
      <path d="M6 9a6 6 0 0 1 12 0c0 6 2 7 2 8H4c0-1 2-2 2-8M10 21h4" strokeLinecap="round" strokeLinejoin="round" />
    </svg>
  );
}
