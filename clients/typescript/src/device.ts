// Names the browser profile as a device of the user, and keeps the name.

import { randomId } from './commands.ts';

/**
 * The stored `client_id` of this origin, hub and user; makes one if there is none. Null where nothing can be stored:
 * the caller then uses a name for this page only. Tabs that open together take turns, so both get the same name.
 */
export async function storedDevice(key: string): Promise<string | null> {
  const look = (): string => {
    const found = localStorage.getItem(key);
    if (found !== null && /^[A-Za-z0-9._:-]{1,64}$/.test(found)) return found;
    const made = `web-${randomId()}`;
    localStorage.setItem(key, made);
    return made;
  };
  try {
    return await (navigator.locks ? navigator.locks.request(`${key}:make`, look) : look());
  } catch {
    // Storage is switched off or full.
    return null;
  }
}
