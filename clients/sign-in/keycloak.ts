// Connects with the access token of Keycloak's adapter for pages.

// docs: begin
import Keycloak from 'keycloak-js';
import { RecadoClient } from '@recado/client';

export const keycloak = new Keycloak({ url: 'https://sso.example.com', realm: 'shop', clientId: 'shop-web' });
await keycloak.init({ onLoad: 'check-sso', pkceMethod: 'S256' });

export const recado = new RecadoClient({
  url: 'https://hub.example.com',
  getToken: async ({ reason }) => {
    if (!keycloak.authenticated) return null;
    const isStale = reason === 'expiring' || reason === 'refused';
    // -1 refreshes at once; 30 only if the token ends within 30 s.
    await keycloak.updateToken(isStale ? -1 : 30);
    return keycloak.token ?? null;
  },
});
// docs: end
