// Renders an application to a string, as a server does, and reports what was opened.

import { renderToString } from 'react-dom/server';
import { useProviderWebSocket, useWebSocket } from '../../src/compat.ts';
import {
  RecadoProvider,
  useConnection,
  useInbox,
  useNotifications,
  useOnNotification,
  useUpstream,
} from '../../src/react.tsx';
import { FakeHub } from '../../src/testing.ts';

function App() {
  useOnNotification('*', () => {});
  const { items, loading, hasMore } = useNotifications({ history: 10 });
  const inbox = useInbox();
  const texts = [useConnection().state, items.length, loading, hasMore, useUpstream().status];
  return [...texts, inbox.status, inbox.items.length, inbox.unread, inbox.hasMore].map(String).join(' ');
}

/** The HTML, the connections that were opened, and the tokens that were asked for. */
export async function render(): Promise<{ html: string; opened: number; asked: number }> {
  const hub = new FakeHub();
  let asked = 0;
  const getToken = (): string => {
    asked++;
    return 'token';
  };
  const html = renderToString(
    <RecadoProvider options={{ ...hub.options(), getToken, inbox: true }}>
      <App />
    </RecadoProvider>,
  );
  await new Promise((resolve) => setTimeout(resolve, 50));
  return { html, opened: hub.opened, asked };
}

function OldPage() {
  const socket = useWebSocket({ token: 'token' });
  const provider = useProviderWebSocket({ url: 'wss://hub.invalid/ws', token: 'token' });
  return `${socket.connectionStatus} ${socket.lastMessage} ${socket.isConnected} ${provider.providerStatus}`;
}

/** The HTML of a page with the hooks for pages that move, and whether anything was requested. */
export async function renderOldPage(): Promise<{ html: string; asked: number }> {
  let asked = 0;
  const { fetch } = globalThis;
  globalThis.fetch = () => {
    asked++;
    return Promise.reject(new Error('a server fetches nothing'));
  };
  const html = renderToString(<OldPage />);
  await new Promise((resolve) => setTimeout(resolve, 50));
  globalThis.fetch = fetch;
  return { html, asked };
}

/** The error of a hook without a provider, and of a provider without a client. */
export function failures(): string[] {
  const tell = (element: React.ReactElement): string => {
    try {
      return renderToString(element);
    } catch (error) {
      return String(error);
    }
  };
  return [tell(<App />), tell(<RecadoProvider />)];
}
