// Shows each notification for some seconds.
import type { Notification } from '@recado/client';
import { useOnNotification } from '@recado/client/react';
import { type MouseEvent, useEffect, useState } from 'react';

const SHOWN_MS = 8_000;
const MOST_SHOWN = 4;

interface ToastsProps {
  /** The work of the page. The notification is acknowledged when its promise has resolved. */
  onNotification?: (notification: Notification) => Promise<void>;
}

export function Toasts({ onNotification }: ToastsProps) {
  const [shown, setShown] = useState<readonly Notification[]>([]);
  useOnNotification('*', (notification) => {
    setShown((before) => [...before, notification].slice(-MOST_SHOWN));
    return onNotification?.(notification);
  });
  const close = (seq: number) => setShown((before) => before.filter((one) => one.seq !== seq));
  // The region is there from the start: screen readers announce changes of a region that they know.
  return (
    <section className="toasts" aria-label="New notifications" aria-live="polite" tabIndex={-1}>
      {shown.map((one) => (
        <Toast key={one.seq} notification={one} onClose={close} />
      ))}
    </section>
  );
}

function Toast({ notification, onClose }: { notification: Notification; onClose: (seq: number) => void }) {
  const { seq, title, message } = notification;
  // A reader who points at a toast, or has the focus in it, keeps it.
  const [isHeld, hold] = useState(false);
  useEffect(() => {
    if (isHeld) return;
    const timer = setTimeout(() => onClose(seq), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [isHeld, seq]);
  const close = (event: MouseEvent<HTMLElement>) => {
    // The button goes. The keyboard continues at the other toasts, and not at the top of the page.
    event.currentTarget.closest('section')?.focus();
    onClose(seq);
  };
  const events = {
    onPointerEnter: () => hold(true),
    onPointerLeave: () => hold(false),
    onFocus: () => hold(true),
    onBlur: () => hold(false),
  };
  return (
    <article className="toast" data-seq={seq} {...events}>
      <div>
        <strong>{title}</strong>
        <p>{message}</p>
      </div>
      <button type="button" className="quiet" aria-label={`Close: ${title}`} onClick={close}>
        ×
      </button>
    </article>
  );
}
