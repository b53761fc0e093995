// Runs in the test's browser: old pages with each hook, on a fake hub.
import type { UseWebSocket, UseWebSocketOptions, WebSocketMessage } from '@recado/client/compat';
import { FakeHub } from '@recado/client/testing';
import { StrictMode } from 'react';
import { createRoot, type Root } from 'react-dom/client';
import appportal, { useWebSocket as appportalNamed } from './appportal/useWebSocket.tsx';
import avadmin, { useWebSocket as avadminNamed } from './avadmin/useWebSocket.tsx';
import hoodx, { type UseMegaRouletteWebSocket } from './hoodx/useMegaRouletteWebSocket.ts';
import stocktech, { useWebSocket as stocktechNamed } from './stocktech/useWebSocket.ts';

const HOOKS: Record<string, readonly ((options: UseWebSocketOptions) => UseWebSocket)[]> = {
  stocktech: [stocktech, stocktechNamed],
  appportal: [appportal, appportalNamed],
  avadmin: [avadmin, avadminNamed],
};

/** Options that lead to the fake hub, whatever the address, and note the addresses. */
function fakeOptions(hub: FakeHub, addresses: string[]) {
  const { url: _, getToken: __, ...options } = hub.options();
  class Noted extends (options.WebSocket as typeof WebSocket) {
    constructor(address: string | URL, protocols?: string | string[]) {
      addresses.push(String(address));
      super(address, protocols);
    }
  }
  return { ...options, WebSocket: Noted };
}

const until = async (what: string, holds: () => boolean): Promise<void> => {
  for (let i = 0; i < 2_000; i++) {
    if (holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`not within 10 s: ${what}`);
};

const mount = (page: React.ReactNode): Root => {
  const root = createRoot(document.body.appendChild(document.createElement('div')));
  root.render(<StrictMode>{page}</StrictMode>);
  return root;
};

/** A page of the central hub: connects, receives, loses the connection, resumes, is unmounted. */
async function central(name: string) {
  const [useDefault, useNamed] = HOOKS[name]!;
  const [hub, addresses, got]: [FakeHub, string[], string[]] = [new FakeHub(), [], []];
  const options = fakeOptions(hub, addresses);
  let socket: UseWebSocket | undefined;
  const onMessage = (message: WebSocketMessage) => void got.push(`${message.type} ${message.data.order_id}`);
  function Page() {
    socket = useDefault!({ ...options, token: 'fake', onMessage });
    return null;
  }
  const root = mount(<Page />);
  await until('connected', () => Boolean(socket?.isConnected));
  hub.post({ type: 'order_created', title: 'New order', data: { order_id: '1' } });
  await until('the first', () => got.length === 1);
  hub.drop();
  hub.post({ type: 'payment_confirmed', title: 'Paid', data: { order_id: '1' } });
  await until('the missed one', () => got.length === 2);
  root.unmount();
  await until('closed', () => hub.connections === 0);
  const address = new URL(addresses[0]!);
  return {
    got,
    last: socket?.lastMessage?.type,
    address: address.origin + address.pathname,
    hasToken: address.search.includes('fake'),
    isSame: useDefault === useNamed,
  };
}

/** The roulette page: status, game data, a bet, and the texts of its log. */
async function roulette() {
  const [hub, addresses, log, data]: [FakeHub, string[], string[], string[]] = [new FakeHub(), [], [], []];
  const options = fakeOptions(hub, addresses);
  let socket: UseMegaRouletteWebSocket | undefined;
  function Page() {
    const addLog = (text: string, kind: string) => void log.push(`${kind} ${text}`);
    socket = hoodx({
      ...options,
      userId: '42',
      token: 'fake',
      addLog,
      processGameData: (text) => void data.push(text),
    });
    return null;
  }
  const root = mount(<Page />);
  await until('connected', () => log.some((line) => line.includes('✅')));
  hub.frame({ type: 'status', status: 'connected', message: 'Conectado ao Pragmatic Play' });
  hub.post({ type: 'game-data', title: 'game-data', data: '<spin/>' });
  await until('game data', () => data.length === 1);
  const sent = socket?.sendBet({ amount: 5 });
  await until('the bet', () => hub.commands.length === 1);
  hub.drop();
  hub.post({ type: 'game-data', title: 'game-data', data: '<missed/>' });
  await until('the missed data', () => data.length === 2);
  root.unmount();
  const address = new URL(addresses[0]!);
  const [bet] = hub.commands;
  return {
    log: [...new Set(log)],
    data,
    sent,
    bet: { type: bet?.type, payload: bet?.payload },
    address: address.origin + address.pathname,
  };
}

Object.assign(window, { central, roulette });
