// Connects with a token of the application's own backend, such as FastAPI.

// docs: begin
import { RecadoClient } from '@recado/client';

export const recado = new RecadoClient({
  url: 'https://hub.example.com',
  getToken: async ({ signal }) => {
    const answer = await fetch('/api/recado-token', { method: 'POST', signal });
    if (answer.status === 401) return null; // the session of the page has ended
    if (!answer.ok) throw new Error(`no token: ${answer.status}`);
    return ((await answer.json()) as { token: string }).token;
  },
});
// docs: end
