// A bell with the inbox of the user: a count, and a popover with the items. Copy this file, and bell.css if you like it.
import type { InboxItem, RecadoError } from '@recado/client';
import { useInbox } from '@recado/client/react';
import {
  type FocusEvent,
  type KeyboardEvent,
  type MouseEvent,
  type ReactNode,
  useEffect,
  useId,
  useRef,
  useState,
} from 'react';

/** The texts of a bell, to translate or replace. */
export const TEXTS = {
  title: 'Notifications',
  /** `count` is a number, or 999+. */
  unseen: (count: string) => `${count} new`,
  unread: (count: string) => `${count} unread`,
  unreadItem: 'Unread: ',
  markAllRead: 'Mark all as read',
  markRead: 'Mark as read',
  markUnread: 'Mark as unread',
  archive: 'Archive',
  mute: 'Mute',
  unmute: 'Unmute',
  mutedItem: 'Muted',
  typeName: (type: string) => type.replaceAll('_', ' '),
  close: 'Close',
  older: 'Older',
  empty: 'Nothing here.',
  loading: 'Loading…',
  unavailable: 'The list cannot be loaded now. Trying again.',
  failed: (error: RecadoError) =>
    error.retryable ? 'The change was not saved. Try again.' : `The change was not saved: ${error.message}`,
  time: (createdAt: string) =>
    new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' }).format(new Date(createdAt)),
};

export interface BellProps {
  /** Makes each title a button, which marks the item as read and calls this, for example to open a page. */
  onSelect?: (item: InboxItem) => void;
  /** Items of a page of the list, 1 to 200. Default 20. */
  limit?: number;
  texts?: Partial<typeof TEXTS>;
  /** In place of the picture of a bell. */
  children?: ReactNode;
}

/** The hub counts up to 999; 1000 means 1000 or more. */
const textOf = (count: number): string => (count > 999 ? '999+' : String(count));
/** What the user looks at counts as seen after this time. */
const SEEN_AFTER_MS = 300;
/** Wait before it is marked again, in case that failed. */
const REPEAT_MS = 5_000;

export function Bell({ onSelect, limit = 20, texts, children }: BellProps) {
  const inbox = useInbox({ limit });
  const { items, status, unread, unseen, asOf, hasMore } = inbox;
  const say = { ...TEXTS, ...texts };
  const [isOpen, setOpen] = useState(false);
  const [failure, setFailure] = useState('');
  const [isBusy, setBusy] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const panel = useRef<HTMLDivElement>(null);
  const id = useId();

  /** The items show the change at once. If it fails they are again what they were, and the user is told. */
  const attempt = (change: Promise<unknown>) =>
    change.then(
      () => setFailure(''),
      (error: RecadoError) => setFailure(say.failed(error)),
    );
  const close = () => {
    setOpen(false);
    setFailure('');
  };

  useEffect(() => {
    if (!isOpen) return;
    panel.current?.focus();
    const leave = (event: PointerEvent) => {
      if (!root.current?.contains(event.target as Node)) close();
    };
    document.addEventListener('pointerdown', leave);
    return () => document.removeEventListener('pointerdown', leave);
  }, [isOpen]);

  const isNew = (unseen ?? 0) > 0;
  useEffect(() => {
    if (!isOpen || !isNew) return;
    const mark = () => {
      // Ends when the counts say so. A failure needs no word: what is not marked stays new.
      timer = setTimeout(mark, REPEAT_MS);
      inbox.markSeen().catch(() => {});
    };
    let timer = setTimeout(mark, SEEN_AFTER_MS);
    return () => clearTimeout(timer);
  }, [isOpen, isNew]);

  const counts = [unseen ? say.unseen(textOf(unseen)) : '', unread ? say.unread(textOf(unread)) : ''].filter(Boolean);
  const escape = (event: KeyboardEvent) => {
    if (event.key !== 'Escape' || !isOpen) return;
    event.stopPropagation();
    close();
    button.current?.focus();
  };
  const blur = (event: FocusEvent) => {
    // Null: the window lost the focus, or the button that had it is gone.
    if (event.relatedTarget !== null && !root.current?.contains(event.relatedTarget)) close();
  };
  const older = () => {
    setBusy(true);
    void attempt(inbox.loadMore()).then(() => setBusy(false));
  };
  /** The row of this button goes. The keyboard continues at the row after it, or at the list. */
  const leaveRow = (event: MouseEvent<HTMLElement>) => {
    const row = event.currentTarget.closest('li');
    const next = row?.nextElementSibling ?? row?.previousElementSibling;
    (next?.querySelector('button') ?? panel.current)?.focus();
  };

  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: it closes what is open inside of it.
    <div className="bell" ref={root} onKeyDown={escape} onBlur={blur}>
      <button
        type="button"
        className="bell-button"
        ref={button}
        aria-label={[say.title, ...counts].join(', ')}
        aria-haspopup="dialog"
        aria-expanded={isOpen}
        aria-controls={isOpen ? id : undefined}
        onClick={() => (isOpen ? close() : setOpen(true))}
      >
        {children ?? <Picture />}
        {isNew && (
          <span className="bell-count" aria-hidden="true">
            {textOf(unseen ?? 0)}
          </span>
        )}
      </button>
      {/* Screen readers do not read a label that changes. They read a region that was there before. */}
      <span className="bell-hidden" role="status">
        {isNew && !isOpen ? say.unseen(textOf(unseen ?? 0)) : ''}
      </span>
      {isOpen && (
        <div className="bell-panel" id={id} ref={panel} role="dialog" aria-labelledby={`${id}-title`} tabIndex={-1}>
          <div className="bell-head">
            <h2 id={`${id}-title`}>{say.title}</h2>
            <button
              type="button"
              disabled={!unread || asOf === null}
              onClick={() => void attempt(inbox.markRead({ upTo: asOf as number }))}
            >
              {say.markAllRead}
            </button>
            <button
              type="button"
              onClick={() => {
                close();
                button.current?.focus();
              }}
            >
              {say.close}
            </button>
          </div>
          <p className="bell-failure" role="alert">
            {failure}
          </p>
          {status !== 'ready' && <p>{status === 'loading' ? say.loading : say.unavailable}</p>}
          {status === 'ready' && items.length === 0 && <p>{say.empty}</p>}
          <ul className="bell-list">
            {items.map((item) => (
              <li key={item.seq} className={item.read ? 'bell-item' : 'bell-item bell-unread'}>
                <p className="bell-title">
                  {!item.read && (
                    <span className="bell-dot">
                      <span className="bell-hidden">{say.unreadItem}</span>
                    </span>
                  )}
                  {onSelect ? (
                    <button
                      type="button"
                      className="bell-select"
                      onClick={() => {
                        if (!item.read) void attempt(inbox.markRead([item.seq]));
                        onSelect(item);
                      }}
                    >
                      {item.title}
                    </button>
                  ) : (
                    <strong>{item.title}</strong>
                  )}
                </p>
                <p className="bell-message">{item.message}</p>
                <p className="bell-about">
                  <time dateTime={item.created_at}>{say.time(item.created_at)}</time>
                  {item.muted && <span className="bell-muted">{say.mutedItem}</span>}
                </p>
                <p className="bell-actions">
                  <button
                    type="button"
                    aria-label={`${item.read ? say.markUnread : say.markRead}: ${item.title}`}
                    onClick={() => void attempt(item.read ? inbox.markUnread([item.seq]) : inbox.markRead([item.seq]))}
                  >
                    {item.read ? say.markUnread : say.markRead}
                  </button>
                  <button
                    type="button"
                    aria-label={`${say.archive}: ${item.title}`}
                    onClick={(event) => {
                      leaveRow(event);
                      void attempt(inbox.archive([item.seq]));
                    }}
                  >
                    {say.archive}
                  </button>
                  <button
                    type="button"
                    aria-label={`${item.muted ? say.unmute : say.mute}: ${say.typeName(item.type)}`}
                    onClick={() => void attempt(item.muted ? inbox.unmute([item.type]) : inbox.mute([item.type]))}
                  >
                    {item.muted ? say.unmute : say.mute}
                  </button>
                </p>
              </li>
            ))}
          </ul>
          {hasMore && (
            <button type="button" disabled={isBusy} onClick={older}>
              {say.older}
            </button>
          )}
        </div>
      )}
    </div>
  );
}

function Picture() {
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
