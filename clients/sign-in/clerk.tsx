// Connects with the session token of Clerk's SDK for React.

// docs: begin
import { useClerk } from '@clerk/react';
import { type ReactNode, useState } from 'react';
import { RecadoClient } from '@recado/client';
import { RecadoProvider } from '@recado/client/react';

/** Below ClerkProvider. Give it the user's id as `key`: another user gets another client. */
export function Notifications({ children }: { children?: ReactNode }) {
  const clerk = useClerk();
  const [client] = useState(() => new RecadoClient({
    url: 'https://hub.example.com',
    getToken: async ({ reason }) => {
      const isStale = reason === 'expiring' || reason === 'refused';
      return (await clerk.session?.getToken({ skipCache: isStale })) ?? null;
    },
  }));
  return <RecadoProvider client={client}>{children}</RecadoProvider>;
}
// docs: end
