// Signs tokens for the page, and makes the client that posts notifications.
import { createHmac } from 'node:crypto';
import { NotificationClient } from '@recado/client/server';

const { RECADO_URL, RECADO_JWT_SECRET, RECADO_KEY } = process.env;
if (!RECADO_URL || !RECADO_JWT_SECRET || !RECADO_KEY) {
  throw new Error('set RECADO_URL, RECADO_JWT_SECRET and RECADO_KEY to the values of your hub');
}

/** Posts notifications, and repeats a failed request with the same key. */
export const hub = new NotificationClient({ url: RECADO_URL, apiKey: RECADO_KEY });

/** A token with which a page receives the notifications of `user` for 15 minutes. @param {string} user */
export function userToken(user) {
  const part = (/** @type {object} */ value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 15 * 60 };
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  const signature = createHmac('sha256', String(RECADO_JWT_SECRET)).update(text).digest('base64url');
  return `${text}.${signature}`;
}
