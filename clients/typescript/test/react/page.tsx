// Runs in a page of the React tests: small applications on a fake hub, under StrictMode.

import { StrictMode, version } from 'react';
import { createRoot, type Root } from 'react-dom/client';
import { RecadoClient } from '../../src/index.ts';
import {
  type InboxView,
  type NotificationList,
  RecadoProvider,
  useConnection,
  useInbox,
  useNotifications,
  useOnNotification,
  useUpstream,
} from '../../src/react.tsx';
import { FakeHub } from '../../src/testing.ts';
import { rest, task, until } from './wait.ts';

function start(more: object = {}): { hub: FakeHub; client: RecadoClient; root: Root; text: () => string } {
  const hub = new FakeHub();
  const client = new RecadoClient({ ...hub.options(), ...more });
  const element = document.body.appendChild(document.createElement('div'));
  return { hub, client, root: createRoot(element), text: () => element.textContent ?? '' };
}

const stories = {
  version: async () => version,

  /** 10,000 notifications: how often a list renders, and what a listener sees. */
  async flood() {
    const { hub, client, root, text } = start();
    let renders = 0;
    const handled: number[] = [];
    function List() {
      renders++;
      const { items } = useNotifications({ limit: 50 });
      const { state } = useConnection();
      useOnNotification('*', (n) => void handled.push(n.seq));
      return `${state} ${items.length} ${items[0]?.seq}`;
    }
    root.render(
      <StrictMode>
        <RecadoProvider client={client}>
          <List />
        </RecadoProvider>
      </StrictMode>,
    );
    await until(() => text().startsWith('live'));
    for (let i = 0; i < 10_000; i++) {
      hub.post({ type: 'test' });
      // A task of its own for each, as a browser gives to each WebSocket message: React renders between them.
      await task();
    }
    await until(() => text() === 'live 50 10000');
    return { text: text(), renders, handled: handled.length, inOrder: handled.every((seq, at) => seq === at + 1) };
  },

  /** 10,000 items of the inbox: how often the list and the counts render. */
  async inboxFlood() {
    const { hub, client, root, text } = start({ inbox: true });
    let renders = 0;
    function Counts() {
      renders++;
      return `${useConnection().unread}`;
    }
    function List() {
      renders++;
      const { items, unread, unseen } = useInbox();
      return `${items.length} ${items[0]?.seq} ${unread} ${unseen} `;
    }
    root.render(
      <StrictMode>
        <RecadoProvider client={client}>
          <List />
          <Counts />
        </RecadoProvider>
      </StrictMode>,
    );
    await until(() => text() === '0 undefined 0 0 0');
    for (let i = 0; i < 10_000; i++) {
      hub.post({ type: 'test' });
      await task();
    }
    await until(() => text() === '1000 10000 1000 1000 1000');
    return { text: text(), renders };
  },

  /** The inbox: what the hook shows after each step, and whether its functions stay the same. */
  async inbox() {
    const { hub, client, root } = start({ inbox: true });
    for (let i = 0; i < 3; i++) hub.post({ type: 'test' });
    let view = null as InboxView | null;
    const functions = new Set<unknown>();
    function List({ filter }: { filter: 'all' | 'unread' }) {
      view = useInbox({ filter, limit: 2 });
      functions.add(view.markRead).add(view.mute);
      return null;
    }
    const app = (filter: 'all' | 'unread') => (
      <StrictMode>
        <RecadoProvider client={client}>
          <List filter={filter} />
        </RecadoProvider>
      </StrictMode>
    );
    const log: string[] = [];
    const step = async (expected: string) => {
      const text = () =>
        `${view?.items.map((n) => `${n.seq}${n.read ? 'r' : ''}`)} ${view?.unread}/${view?.unseen} ${view?.status} ${view?.hasMore}`;
      await until(() => text() === expected);
      log.push(text());
    };
    root.render(app('all'));
    await step('3,2 3/3 ready true');
    await view?.loadMore();
    await step('3,2,1 3/3 ready false');
    await view?.markRead([3]);
    await step('3r,2,1 2/3 ready false');
    await view?.markSeen();
    await step('3r,2,1 2/0 ready false');
    hub.refuseRequest(409, 'inbox_full');
    const failed = await view?.archive({ upTo: 3 }).catch((error) => error.code);
    await step('3r,2,1 2/0 ready false');
    await view?.archive([2]);
    hub.post({ type: 'test' });
    await step('7,3r,1 2/1 ready false');
    root.render(app('unread'));
    await step('7,1 2/1 ready false');
    hub.reset();
    hub.post({ type: 'test' });
    await step('1 1/1 ready false');
    root.render(null);
    return { log, failed, functions: functions.size };
  },

  /** StrictMode mounts twice; a provider that is mounted again keeps the connection; the last one closes it. */
  async mounts() {
    const { hub, client, root } = start();
    const app = (
      <StrictMode>
        <RecadoProvider client={client} />
      </StrictMode>
    );
    root.render(app);
    await client.ready();
    const first = [hub.connections, hub.opened];
    root.render(null);
    await rest(300);
    root.render(app);
    await rest(1_200);
    const again = [hub.connections, hub.opened];
    root.render(null);
    await until(() => hub.connections === 0);
    return { first, again, last: [hub.connections, client.snapshot().state] };
  },

  /** `enabled` decides whether the client connects. */
  async enabled() {
    const { hub, client, root } = start();
    const app = (enabled: boolean) => <RecadoProvider client={client} enabled={enabled} />;
    root.render(app(false));
    await rest(100);
    const before = client.snapshot().state;
    root.render(app(true));
    await client.ready();
    root.render(app(false));
    await until(() => hub.connections === 0);
    return [before, client.snapshot().state];
  },

  /** A listener that changes with each render: every notification reaches the latest, once. */
  async latest() {
    const { hub, client, root, text } = start();
    const got: string[] = [];
    function Listener({ name }: { name: string }) {
      useOnNotification('test', (n) => void got.push(`${name}${n.seq}`));
      return name;
    }
    const app = (name: string) => (
      <StrictMode>
        <RecadoProvider client={client}>
          <Listener name={name} />
        </RecadoProvider>
      </StrictMode>
    );
    root.render(app('a'));
    await client.ready();
    hub.post({ type: 'test' });
    hub.post({ type: 'other' });
    await until(() => got.length === 1);
    root.render(app('b'));
    await until(() => text() === 'b');
    hub.post({ type: 'test' });
    await until(() => got.length === 2);
    return got;
  },

  /** History and live notifications in one list; pages backwards; a gap and a reset. */
  async list() {
    const { hub, client, root } = start();
    for (let i = 0; i < 7; i++) hub.post({ type: 'test' });
    const log: string[] = [];
    let list = null as NotificationList | null;
    function List() {
      list = useNotifications({ type: 'test', limit: 3, history: 2 });
      return null;
    }
    const note = () => log.push(`${list?.items.map((n) => n.seq)} ${list?.hasMore}`);
    root.render(
      <StrictMode>
        <RecadoProvider client={client}>
          <List />
        </RecadoProvider>
      </StrictMode>,
    );
    await client.ready();
    await until(() => list?.items.length === 2 && !list.loading);
    note();
    hub.post({ type: 'test' });
    hub.post({ type: 'other' });
    await until(() => list?.items[0]?.seq === 8);
    note();
    // After `clear` the history begins with the newest, not where the page before ended.
    list?.clear();
    await until(() => list?.items.length === 0);
    await list?.loadMore();
    await until(() => list?.items.length === 3);
    note();
    await list?.loadMore();
    await until(() => list?.items.length === 6);
    note();
    await list?.loadMore();
    await until(() => list?.items.length === 8);
    note();
    list?.clear();
    await until(() => list?.items.length === 0);
    hub.post({ type: 'test' });
    await until(() => list?.items.length === 1);
    note();
    hub.reset();
    await until(() => list?.gap !== null);
    note();
    return { log, gap: list?.gap };
  },

  /** Rows that the limit drops, and a reset while a page is on its way. */
  async pages() {
    const hub = new FakeHub();
    let gate = Promise.resolve();
    const given = hub.options();
    const fetch: typeof globalThis.fetch = async (input, init) => {
      const answer = await given.fetch!(input, init);
      await gate;
      return answer;
    };
    const client = new RecadoClient({ ...given, fetch, backoff: { minMs: 5 } });
    const root = createRoot(document.body.appendChild(document.createElement('div')));
    for (let i = 0; i < 2; i++) hub.post({ type: 'test' });
    const log: string[] = [];
    let list = null as NotificationList | null;
    function List() {
      list = useNotifications({ limit: 3, history: 3 });
      return null;
    }
    const note = (more = '') => log.push(`${list?.items.map((n) => n.seq)} ${list?.hasMore}${more}`);
    root.render(
      <StrictMode>
        <RecadoProvider client={client}>
          <List />
        </RecadoProvider>
      </StrictMode>,
    );
    await client.ready();
    await until(() => list?.items.length === 2 && !list.loading);
    note();
    for (let i = 0; i < 3; i++) hub.post({ type: 'test' });
    await until(() => list?.items[0]?.seq === 5);
    note();
    await list?.loadMore();
    await until(() => list?.items.length === 5);
    note();
    let release = () => {};
    const hold = () => {
      gate = new Promise((resolve) => {
        release = resolve;
      });
    };
    hold();
    const early = list?.loadMore();
    list?.clear();
    release();
    await early;
    await rest(50);
    note(` ${list?.loading}`);
    hold();
    const late = list?.loadMore();
    hub.reset();
    await until(() => list?.gap !== null);
    release();
    await late;
    await rest(50);
    note(` ${list?.loading}`);
    hub.post({ type: 'test' });
    await until(() => list?.items.length === 1);
    note();
    root.render(null);
    return log;
  },

  /** The provider session: a component that mounts later knows the status, too. */
  async upstream() {
    const { hub, client, root, text } = start();
    let send: ReturnType<typeof useUpstream>['send'] | null = null;
    function Status() {
      const upstream = useUpstream();
      send = upstream.send;
      return `${upstream.status} ${upstream.message}`;
    }
    const app = (isThere: boolean) => <RecadoProvider client={client}>{isThere ? <Status /> : null}</RecadoProvider>;
    root.render(app(false));
    await client.ready();
    hub.frame({ type: 'status', status: 'connected', message: 'hello' });
    await rest(20);
    root.render(app(true));
    await until(() => text() !== '');
    const first = text();
    hub.frame({ type: 'status', status: 'disconnected', message: 'bye' });
    await until(() => text() !== first);
    const result = await (send as unknown as RecadoClient['send'])({ type: 'bet' });
    return [first, text(), result.status];
  },
};

Object.assign(window, { stories });
