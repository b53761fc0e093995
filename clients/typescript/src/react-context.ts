// Holds the client of the nearest provider.

import { type Context as ContextOf, createContext, useContext } from 'react';
import type { RecadoClient } from './client.ts';

/** Set by `RecadoProvider`. */
export const Context: ContextOf<RecadoClient | null> = createContext<RecadoClient | null>(null);

/** The client of the nearest provider. Throws without one. */
export function useRecado(): RecadoClient {
  const client = useContext(Context);
  if (!client) throw new Error('useRecado needs a RecadoProvider above it');
  return client;
}
