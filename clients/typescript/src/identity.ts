// Finds out which device of which user a page is, and which tabs it shares a connection with.

import { randomId } from './commands.ts';
import { storedDevice } from './device.ts';
import type { RecadoOptions } from './options.ts';
import { canShare } from './tabs.ts';
import { claimsOf, type Tokens } from './tokens.ts';
import type { HubUrl } from './transport.ts';

/** Version of the words between tabs. Tabs with another one form a group of their own. */
const TABS_VERSION = 2;

/** A page as the hub and the other tabs know it. */
export interface Identity {
  readonly clientId: string;
  /** Name of the group of tabs; null for a page without other tabs. */
  readonly group: string | null;
}

/**
 * Names the user. Asks for a token only if nothing else names the user. Returns null if there is no token, or once the
 * signal has aborted. Throws `token_failed`.
 */
export async function identify(
  { tabs, userKey, clientId, inbox }: RecadoOptions,
  types: string | undefined,
  { http }: HubUrl,
  tokens: Tokens,
  signal: AbortSignal,
): Promise<Identity | null> {
  const share = tabs !== 'own' && canShare();
  // Not a look at localStorage: where storage is denied, its name alone throws.
  const canStore = typeof document !== 'undefined';
  let user = userKey;
  if (user === undefined && (share || (canStore && clientId === undefined))) {
    const token = await tokens.get('first', signal);
    if (signal.aborted || token === null) return null;
    user = String(claimsOf(token)?.sub ?? '');
  }
  // Tabs with another filter cannot use the frames of this one, and must not acknowledge what it has not received.
  const filter = types === undefined ? '' : `?types=${types}`;
  const stored = clientId ?? (canStore ? await storedDevice(`recado:client:${http}:${user}${filter}`) : 'default');
  const id = stored ?? `web-${randomId()}`;
  // Tabs without the inbox receive frames that those with it cannot use. The device is the same: what is left out is not
  // acknowledged in place of a notification.
  const kind = inbox ? '?inbox' : filter;
  const group = share && stored !== null ? `recado:${TABS_VERSION}:${http}:${user}:${id}${kind}` : null;
  return { clientId: id, group };
}
