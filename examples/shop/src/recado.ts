// Makes the client that receives the notifications of the signed-in user.
import { RecadoClient } from '@recado/client';

/** What the backend puts into `data`. */
interface OrderData {
  order_id: number;
  item: string;
}

declare module '@recado/client' {
  interface NotificationTypes {
    order_created: OrderData;
    order_updated: OrderData;
  }
}

/** Opens nothing yet: the provider connects it. */
export function clientOf(hub: string): RecadoClient {
  return new RecadoClient({ url: hub, getToken });
}

async function getToken(): Promise<string | null> {
  const answer = await fetch('/api/token');
  // Signed out: the client stops in state `unauthorized`.
  if (answer.status === 401) return null;
  // Anything else is tried again.
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return (await answer.json()).token;
}
