// Renders an application to a string, as a server does, and reports what was opened.

import { renderToString } from 'react-dom/server';
import { RecadoProvider, useConnection, useNotifications, useOnNotification, useUpstream } from '../../src/react.tsx';
import { FakeHub } from '../../src/testing.ts';

function App() {
  useOnNotification('*', () => {});
  const { items, loading, hasMore } = useNotifications({ history: 10 });
  return `${useConnection().state} ${items.length} ${loading} ${hasMore} ${useUpstream().status}`;
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
    <RecadoProvider options={{ ...hub.options(), getToken }}>
      <App />
    </RecadoProvider>,
  );
  await new Promise((resolve) => setTimeout(resolve, 50));
  return { html, opened: hub.opened, asked };
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
