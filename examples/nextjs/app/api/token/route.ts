// Gives the page a token of the hub for the signed-in user.
import { signedInUser, userToken } from '../../session';

export async function GET(): Promise<Response> {
  const user = await signedInUser();
  const headers = { 'cache-control': 'no-store' };
  return user
    ? Response.json({ token: userToken(user) }, { headers })
    : Response.json({ error: 'sign in first' }, { status: 401, headers });
}
