// Runs in a page of the compat tests: the old pages, with the hooks of the package in place of their own.

import { StrictMode, useState } from 'react';
import { createRoot, type Root } from 'react-dom/client';
import {
  type UseProviderWebSocket,
  type UseWebSocket,
  type UseWebSocketOptions,
  useProviderWebSocket,
  useWebSocket,
  type WebSocketMessage,
} from '../../src/compat.ts';
import { FakeHub } from '../../src/testing.ts';
import { rest, task, until } from './wait.ts';

const newRoot = (): Root => createRoot(document.body.appendChild(document.createElement('div')));
const options = (hub: FakeHub): Omit<UseWebSocketOptions, 'token'> => {
  const { getToken: _, ...rest } = hub.options();
  return rest;
};

/** What a page of the central hub shows and receives. */
class Seen {
  readonly got: string[] = [];
  readonly statuses: string[] = [];
  renders = 0;
  socket: UseWebSocket | null = null;

  current(): UseWebSocket {
    return this.socket as UseWebSocket;
  }
}

function OldPage({ seen, ...props }: Partial<UseWebSocketOptions> & { seen: Seen }) {
  seen.renders++;
  const [label] = useState('m');
  const onMessage = (m: WebSocketMessage): void =>
    void seen.got.push(`${label} ${m.type} ${m.title ?? m.code ?? m.status}`);
  const socket = useWebSocket({ token: 'fake', onMessage, ...props });
  seen.socket = socket;
  if (seen.statuses.at(-1) !== socket.connectionStatus) seen.statuses.push(socket.connectionStatus);
  return null;
}

async function start(hub: FakeHub, first: Partial<UseWebSocketOptions> = {}) {
  const seen = new Seen();
  const root = newRoot();
  const render = (props: Partial<UseWebSocketOptions> = {}): void =>
    root.render(
      <StrictMode>
        <OldPage seen={seen} {...options(hub)} {...props} />
      </StrictMode>,
    );
  render(first);
  await until(() => seen.socket !== null);
  return Object.assign(seen, { render, root });
}

interface ProviderPageProps {
  seen: { socket: UseProviderWebSocket | null };
  log: unknown[];
  hub: FakeHub;
  more?: Partial<UseWebSocketOptions>;
}

function ProviderPage({ seen, log, hub, more }: ProviderPageProps) {
  seen.socket = useProviderWebSocket({
    ...options(hub),
    ...more,
    token: 'fake',
    onData: (data) => void log.push(['data', data]),
    onStatus: ({ status, message }) => void log.push(['status', status, message]),
    onError: (message, code) => void log.push(['error', message, code]),
    onResult: ({ id, status }) => void log.push(['result', id, status]),
  });
  return null;
}

const stories = {
  /** Connects, receives, breaks, resumes, and is unmounted. */
  async life() {
    const hub = new FakeHub();
    const page = await start(hub);
    await until(() => page.current().isConnected);
    hub.post({ type: 'order_created', title: 'first' });
    await until(() => page.got.length === 1);
    const last = page.current().lastMessage;
    hub.drop();
    hub.post({ type: 'order_updated', title: 'missed' });
    await until(() => page.got.length === 2);
    page.root.unmount();
    await until(() => hub.connections === 0);
    return { got: page.got, statuses: page.statuses, last: [last?.type, last?.title], open: hub.connections };
  },

  /** No token, then one, then another user's, then none. */
  async tokens() {
    const hub = new FakeHub();
    const page = await start(hub, { token: undefined });
    const token = (sub: string, n: number): string => `x.${btoa(JSON.stringify({ sub, n }))}.x`;
    const log: unknown[] = [];
    const note = (): number => log.push([hub.connections, hub.opened, page.current().connectionStatus]);
    await rest(100);
    note();
    page.render({ token: token('1', 1) });
    await until(() => page.current().isConnected);
    note();
    page.render({ token: token('1', 2) });
    await rest(100);
    note();
    page.render({ token: token('2', 1) });
    await until(() => hub.opened === 2 && page.current().isConnected);
    note();
    page.render({ token: token('2', 1), enabled: false });
    await until(() => hub.connections === 0);
    note();
    for (let i = 0; i < 3; i++) hub.refuse(4401, 'token_expired');
    page.render({ token: token('2', 1) });
    await until(() => page.current().connectionStatus === 'error');
    note();
    page.render({ token: token('2', 2) });
    await until(() => page.current().isConnected);
    note();
    return log;
  },

  /** `disconnect` stays closed; `reconnect` resumes, also while connected. */
  async buttons() {
    const hub = new FakeHub();
    const page = await start(hub, { token: async () => 'fake' });
    await until(() => page.current().isConnected);
    page.current().disconnect();
    await until(() => page.current().connectionStatus === 'disconnected');
    const off = [hub.connections, page.current().sendMessage({ type: 'bet' })];
    hub.post({ type: 'order_created', title: 'missed' });
    page.current().reconnect();
    await until(() => page.got.length === 1);
    page.current().reconnect();
    await until(() => hub.opened === 3 && page.current().isConnected);
    hub.post({ type: 'order_created', title: 'next' });
    await until(() => page.got.length === 2);
    return { off, got: page.got, open: hub.connections };
  },

  /** 3,000 messages: each reaches `onMessage`; React renders for few. */
  async flood() {
    const hub = new FakeHub();
    const page = await start(hub);
    await until(() => page.current().isConnected);
    for (let i = 0; i < 3_000; i++) {
      hub.post({ type: 'test', title: String(i) });
      // React renders together what arrives in one task.
      await task();
    }
    await until(() => page.got.length === 3_000 && page.current().lastMessage?.title === '2999');
    return { inOrder: page.got.every((text, i) => text === `m test ${i}`), renders: page.renders };
  },

  /** The page of the service with a provider: status, game data, bets. */
  async provider() {
    const hub = new FakeHub();
    const log: unknown[] = [];
    const seen = { socket: null as UseProviderWebSocket | null };
    const current = (): UseProviderWebSocket => seen.socket as UseProviderWebSocket;
    newRoot().render(<ProviderPage seen={seen} log={log} hub={hub} />);
    await until(() => seen.socket !== null);
    await until(() => current().isConnected);
    const before = current().providerStatus;
    hub.frame({ type: 'status', status: 'connected', message: 'Conectado ao Pragmatic Play' });
    hub.post({ type: 'game-data', title: 'pragmatic', data: '<spin/>' });
    hub.post({ type: 'other' });
    await until(() => current().providerStatus !== null);
    const status = current().providerStatus?.status;
    const sent = [
      current().sendMessage({ type: 'ping' }),
      current().sendMessage({ type: 'bet', payload: { amount: 5 }, id: 'b-1' }),
      current().sendMessage('{"type":"bet","payload":{"amount":6},"id":"b-2"}'),
    ];
    await until(() => log.length === 4);
    hub.frame({ type: 'error', message: 'Erro na conexão: x' });
    await until(() => log.length === 5);
    hub.stop();
    await until(() => !current().isConnected);
    const after = [current().providerStatus, current().sendMessage({ type: 'bet' })];
    return { before, status, sent, after, log, commands: hub.commands };
  },

  /** A second client shares the connection of the first, and is told the status that came before it. */
  async late() {
    const hub = new FakeHub();
    const more = { tabs: 'share', userKey: 'late' } as const;
    const [first, second] = [0, 1].map(() => ({ log: [], seen: { socket: null as UseProviderWebSocket | null } }));
    const status = (one = first): unknown => one?.seen.socket?.providerStatus?.message;
    newRoot().render(<ProviderPage {...first!} hub={hub} more={more} />);
    await until(() => Boolean(first?.seen.socket?.isConnected));
    hub.frame({ type: 'status', status: 'connected', message: 'one' });
    await until(() => status() === 'one');
    newRoot().render(<ProviderPage {...second!} hub={hub} more={more} />);
    await until(() => status(second) === 'one');
    hub.frame({ type: 'status', status: 'disconnected', message: 'two' });
    await until(() => status() === 'two' && status(second) === 'two');
    return [hub.opened, first?.log, second?.log];
  },
};

const at = new URL(location.href).searchParams;
const seen: { a: number[]; b: number[]; status: string[] } = { a: [], b: [], status: [] };

/** A component of a page on a real hub. The page has two, each with the hook. */
function Part({ name }: { name: 'a' | 'b' }) {
  const { connectionStatus } = useWebSocket({
    url: at.get('ws') as string,
    token: at.get('token'),
    onMessage: (m) => void seen[name].push(m.seq as number),
  });
  seen.status[name === 'a' ? 0 : 1] = connectionStatus;
  return connectionStatus;
}

const game: { log: unknown[]; socket: UseProviderWebSocket | null } = { log: [], socket: null };

/** The page of a service with a provider, on a real hub. */
function Game() {
  game.socket = useProviderWebSocket({
    url: at.get('game') as string,
    token: at.get('token'),
    onData: (data) => void game.log.push(['data', data]),
    onStatus: ({ status, message }) => void game.log.push(['status', status, message]),
    onError: (message, code) => void game.log.push(['error', message, code]),
    onResult: ({ id, status }) => void game.log.push(['result', id, status]),
  });
  return null;
}

Object.assign(window, { stories, seen, game });
if (at.has('game')) newRoot().render(<Game />);
if (at.has('ws')) newRoot().render([<Part key="a" name="a" />, <Part key="b" name="b" />]);
