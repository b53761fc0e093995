// Starts the page: signs in, then shows the shop with the client of the user.
import { RecadoProvider } from '@recado/client/react';
import { StrictMode, useEffect, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { getSession, type Session, signIn } from './api.ts';
import { clientOf } from './recado.ts';
import { Shop } from './Shop.tsx';
import './style.css';

function App() {
  const [session, setSession] = useState<Session | null>(null);
  const [problem, setProblem] = useState('');
  const load = () => getSession().then(setSession, (error: Error) => setProblem(error.message));
  useEffect(() => void load(), []);
  const user = session?.user;
  // Another user gets another client.
  const client = useMemo(() => (session && user ? clientOf(session.hub) : null), [session?.hub, user?.id]);
  if (problem) return <p role="alert">The shop does not answer: {problem}</p>;
  if (!session) return null;
  if (!client || !user) return <SignIn onSignedIn={load} />;
  return (
    <RecadoProvider client={client} key={user.id}>
      <Shop user={user} items={session.items} onSignedOut={load} />
    </RecadoProvider>
  );
}

function SignIn({ onSignedIn }: { onSignedIn: () => void }) {
  const enter = (user: string) => void signIn(user).then(onSignedIn);
  return (
    <main className="sign-in">
      <h1>Little shop</h1>
      <p className="muted">Choose a user. Open a private window for the other one.</p>
      <button type="button" className="primary" onClick={() => enter('ana')}>
        Sign in as Ana, a customer
      </button>
      <button type="button" onClick={() => enter('ben')}>
        Sign in as Ben, the shopkeeper
      </button>
    </main>
  );
}

createRoot(document.getElementById('root') as HTMLElement).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
