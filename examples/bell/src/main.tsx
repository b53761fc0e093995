// A page around the bell: a client of one user, and buttons that post to that user.
import { RecadoClient } from '@recado/client';
import { RecadoProvider } from '@recado/client/react';
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { Bell } from './Bell.tsx';
import './bell.css';
import './page.css';

const user = new URL(location.href).searchParams.get('user') ?? 'ana';
const hub = document.querySelector<HTMLMetaElement>('meta[name=hub]')?.content as string;

const client = new RecadoClient({
  url: hub,
  inbox: true,
  getToken: () => fetch(`/token?user=${encodeURIComponent(user)}`).then((answer) => answer.text()),
});
// The list loads itself again. What else the page shows of its notifications is loaded here.
client.on('gap', (gap) => console.info('notifications were lost', gap));

/** The title of the tab says how many are unread, also while the tab is hidden. */
client.subscribe(() => {
  const { unread } = client.snapshot();
  document.title = unread ? `(${unread > 999 ? '999+' : unread}) A bell` : 'A bell';
});

const post = (type: string, title: string) =>
  fetch('/post', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ user_id: user, type, title, message: `For ${user}` }),
  });

function Page() {
  const [selected, select] = useState('');
  return (
    <>
      <header>
        <h1>A bell</h1>
        <Bell onSelect={(item) => select(item.title)} />
      </header>
      <main>
        <p>
          <button type="button" onClick={() => post('order_created', 'Order placed')}>
            Post an order
          </button>{' '}
          <button type="button" onClick={() => post('stock_alert', 'Stock is low')}>
            Post a stock alert
          </button>
        </p>
        {selected !== '' && <p id="selected">You opened: {selected}</p>}
      </main>
    </>
  );
}

createRoot(document.getElementById('root') as HTMLElement).render(
  <StrictMode>
    <RecadoProvider client={client}>
      <Page />
    </RecadoProvider>
  </StrictMode>,
);
