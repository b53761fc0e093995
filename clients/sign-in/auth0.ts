// Connects with the access token of Auth0's SDK for pages.

// docs: begin
import { createAuth0Client } from '@auth0/auth0-spa-js';
import { RecadoClient } from '@recado/client';

export const auth0 = await createAuth0Client({
  domain: 'example.eu.auth0.com',
  clientId: 'my_client_id',
  // Without an audience Auth0 gives an opaque token, which the hub cannot check.
  authorizationParams: { audience: 'https://hub.example.com', redirect_uri: location.origin },
  useRefreshTokens: true,
});

/** Errors after which the user must sign in. Others, such as a lost network, are tried again by the client. */
const signedOut = ['login_required', 'missing_refresh_token', 'invalid_grant'];

export const recado = new RecadoClient({
  url: 'https://hub.example.com',
  getToken: async ({ reason }) => {
    const isStale = reason === 'expiring' || reason === 'refused';
    try {
      return (await auth0.getTokenSilently({ cacheMode: isStale ? 'off' : 'on' })) ?? null;
    } catch (error) {
      if (signedOut.includes((error as { error?: string }).error ?? '')) return null;
      throw error;
    }
  },
});
// docs: end
