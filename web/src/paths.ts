// Knows where the hub is: a proxy may have put it under a path.

/** `/` or `/hub/`: the page is `/admin` or `/hub/admin`. */
export const ROOT = location.pathname.replace(/admin\/?$/, '');

/** A path of the hub, as this browser reaches it. */
export const at = (path: string): string => ROOT + path.replace(/^\//, '');

/** The hub's address, as a client or a shell needs it. */
export const hubUrl = (): string => location.origin + ROOT.replace(/\/$/, '');
