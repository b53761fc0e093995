// Keeps the signed-in user in a signed cookie, and signs the hub's tokens. For the server only.
import { createHmac, timingSafeEqual } from 'node:crypto';
import { cookies } from 'next/headers';

const COOKIE = 'shop_session';
const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
const sign = (text: string) =>
  createHmac('sha256', process.env.RECADO_JWT_SECRET as string)
    .update(text)
    .digest('base64url');

/** A token with which a page receives the notifications of `user` for 15 minutes. */
export function userToken(user: string): string {
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 15 * 60 };
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${sign(text)}`;
}

/** Users of the demonstration sign in without a password. */
export const isUser = (user: unknown): user is string => user === 'ana' || user === 'ben';

/** Another prefix than a token has: neither passes for the other. */
const proof = (user: string) => sign(`session ${user}`);

/** Behind https, add `secure`. */
export async function startSession(user: string): Promise<void> {
  (await cookies()).set(COOKIE, `${user}.${proof(user)}`, { httpOnly: true, sameSite: 'lax' });
}

export async function endSession(): Promise<void> {
  (await cookies()).delete(COOKIE);
}

export async function signedInUser(): Promise<string | null> {
  const [user = '', given = ''] = ((await cookies()).get(COOKIE)?.value ?? '').split('.');
  const [wanted, got] = [Buffer.from(proof(user)), Buffer.from(given)];
  return isUser(user) && got.length === wanted.length && timingSafeEqual(got, wanted) ? user : null;
}
