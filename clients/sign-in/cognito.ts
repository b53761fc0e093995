// Connects with the access token of Amplify, the SDK of Amazon Cognito.

// docs: begin
import { Amplify } from 'aws-amplify';
import { fetchAuthSession } from 'aws-amplify/auth';
import { RecadoClient } from '@recado/client';

Amplify.configure({
  Auth: { Cognito: { userPoolId: 'eu-central-1_example', userPoolClientId: '1example23456789' } },
});

export const recado = new RecadoClient({
  url: 'https://hub.example.com',
  getToken: async ({ reason }) => {
    const isStale = reason === 'expiring' || reason === 'refused';
    const { tokens } = await fetchAuthSession({ forceRefresh: isStale });
    return tokens?.accessToken.toString() ?? null; // not idToken
  },
});
// docs: end
