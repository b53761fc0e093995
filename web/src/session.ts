// Keeps the admin's token for this tab and a key for this page, and takes a link from the address.

/** sessionStorage: it is of this tab, and no other site can read it. */
const NAME = 'recado.console.key';

type Listener = () => void;
const listeners = new Set<Listener>();
let refusal: string | null = null;
let current: string | null = read();

function read(): string | null {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

function changed(): void {
  for (const listener of listeners) listener();
}

/**
 * Takes the token of a link, `#token=…`, from the address. The address is replaced before anything else runs, so that no
 * later link or request can carry the token. The browser's history keeps the link as it was opened: the hub takes it once.
 */
export function takeLink(): string | null {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found) return null;
  history.replaceState(null, '', `${location.pathname}${location.search}#/`);
  return found[1] as string;
}

export const credential = (): string | null => current;
/** Why the last key was refused. */
export const lastRefusal = (): string | null => refusal;

export function signIn(value: string): void {
  current = value.trim();
  refusal = null;
  try {
    // A browser may keep this storage on its disk. A session that came by a link ends by itself, a service key may not.
    if (current.startsWith('rck_')) sessionStorage.removeItem(NAME);
    else sessionStorage.setItem(NAME, current);
  } catch {
    // Without storage the token lasts until the page is reloaded.
  }
  changed();
}

export function signOut(why: string | null = null): void {
  current = null;
  refusal = why;
  try {
    sessionStorage.removeItem(NAME);
  } catch {
    // Nothing was stored.
  }
  changed();
}

export function onCredential(listener: Listener): () => void {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}
