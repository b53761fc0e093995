// Connects with the ID token of Firebase Authentication.

// docs: begin
import { initializeApp } from 'firebase/app';
import { getAuth } from 'firebase/auth';
import { RecadoClient } from '@recado/client';

export const auth = getAuth(initializeApp({ projectId: 'my-project', apiKey: 'my_web_api_key' }));

export const recado = new RecadoClient({
  url: 'https://hub.example.com',
  getToken: async ({ reason }) => {
    await auth.authStateReady(); // a page that is loaded again finds its user first
    const isStale = reason === 'expiring' || reason === 'refused';
    return (await auth.currentUser?.getIdToken(isStale)) ?? null;
  },
});
// docs: end
