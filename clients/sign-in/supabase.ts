// Connects with the access token of Supabase Auth.

// docs: begin
import { createClient, isAuthRetryableFetchError } from '@supabase/supabase-js';
import { RecadoClient } from '@recado/client';

export const supabase = createClient('https://example.supabase.co', 'my_publishable_key');

export const recado = new RecadoClient({
  url: 'https://hub.example.com',
  getToken: async ({ reason }) => {
    const isStale = reason === 'expiring' || reason === 'refused';
    const { data, error } = isStale ? await supabase.auth.refreshSession() : await supabase.auth.getSession();
    if (isAuthRetryableFetchError(error)) throw error; // the network: the client tries again
    return data.session?.access_token ?? null;
  },
});
// docs: end
