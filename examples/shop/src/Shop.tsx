// Shows the items and the orders, and loads the orders again when a notification tells of a change.
import type { Gap } from '@recado/client';
import { useCallback, useEffect, useState } from 'react';
import { getOrders, type Order, placeOrder, shipOrder, signOut, type User } from './api.ts';
import { Bell } from './Bell.tsx';
import { ConnectionNotice } from './ConnectionNotice.tsx';
import { Toasts } from './Toasts.tsx';

interface ShopProps {
  user: User;
  items: string[];
  onSignedOut: () => void;
}

export function Shop({ user, items, onSignedOut }: ShopProps) {
  const [orders, setOrders] = useState<readonly Order[] | null>(null);
  const [problem, setProblem] = useState('');
  const [gap, setGap] = useState<Gap | null>(null);
  const load = useCallback(async () => setOrders(await getOrders()), []);
  const attempt = (work: Promise<unknown>) =>
    work.then(
      () => setProblem(''),
      (error: Error) => setProblem(error.message),
    );
  /** Notifications were lost, or belong to a log that is gone: the page loads its state anew, and says so. */
  const recover = (lost: Gap) => {
    setGap(lost);
    void attempt(load());
  };
  useEffect(() => void attempt(load()), []);
  const order = (item: string) => attempt(placeOrder(item).then(load));
  const ship = (id: number) => attempt(shipOrder(id).then(load));
  return (
    <>
      <header>
        <h1>Little shop</h1>
        <Bell onGap={recover} />
        <span className="user">{user.name}</span>
        <button type="button" className="quiet" onClick={() => attempt(signOut().then(onSignedOut))}>
          Sign out
        </button>
      </header>
      <main>
        <ConnectionNotice />
        <div role="status">
          {gap && (
            <p className="notice">
              {gap.status === 'gap'
                ? 'Some notifications are no longer kept. Your orders were loaded again.'
                : 'The hub started a new history. Your orders and the list were loaded again.'}
              <button type="button" className="quiet" onClick={() => setGap(null)}>
                Close
              </button>
            </p>
          )}
        </div>
        {problem && (
          <p className="notice" role="alert">
            {problem}
          </p>
        )}
        <section aria-labelledby="items">
          <h2 id="items">Items</h2>
          <ul className="items">
            {items.map((item) => (
              <li key={item}>
                <span>{item}</span>
                <button type="button" className="primary" aria-label={`Order ${item}`} onClick={() => order(item)}>
                  Order
                </button>
              </li>
            ))}
          </ul>
        </section>
        <section aria-labelledby="orders">
          <h2 id="orders">{user.isShopkeeper ? 'All orders' : 'Your orders'}</h2>
          {orders?.length === 0 && <p className="muted">No orders yet.</p>}
          <ul className="orders">
            {orders?.toReversed().map(({ id, item, customer, shipped }) => (
              <li key={id}>
                <span>
                  {item}, order {id}
                  {user.isShopkeeper && <span className="muted"> for {customer}</span>}
                </span>
                {shipped || !user.isShopkeeper ? (
                  <span className="muted">{shipped ? 'Shipped' : 'Placed'}</span>
                ) : (
                  <button type="button" aria-label={`Ship order ${id}`} onClick={() => ship(id)}>
                    Ship
                  </button>
                )}
              </li>
            ))}
          </ul>
        </section>
      </main>
      <Toasts onNotification={() => attempt(load())} />
    </>
  );
}
