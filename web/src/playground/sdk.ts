// Loads the SDK from the hub, as any page can.

import type { RecadoClient } from '@recado/client';
import { Problem } from '../api.ts';
import { at } from '../paths.ts';

/** The class of `@recado/client`. Fails with a problem where the hub does not serve the SDK. */
export async function loadClient(): Promise<typeof RecadoClient> {
  try {
    const sdk = (await import(at('/sdk/recado.js'))) as { RecadoClient: typeof RecadoClient };
    return sdk.RecadoClient;
  } catch {
    const detail =
      'This address does not serve the SDK, /sdk/recado.js. Open the console at the address that clients use.';
    throw new Problem(0, { code: 'no_sdk', detail });
  }
}
