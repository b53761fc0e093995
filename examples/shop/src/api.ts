// Calls the shop's backend.

export interface User {
  id: string;
  name: string;
  isShopkeeper: boolean;
}

export interface Session {
  user: User | null;
  hub: string;
  items: string[];
}

export interface Order {
  id: number;
  customer: string;
  item: string;
  shipped: boolean;
}

async function call<T>(method: string, path: string, body?: object): Promise<T> {
  const json = { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  const answer = await fetch(path, { method, ...(body ? json : {}) });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

export const getSession = () => call<Session>('GET', '/api/session');
export const signIn = (user: string) => call('POST', '/api/session', { user });
export const signOut = () => call('DELETE', '/api/session');
export const getOrders = () => call<Order[]>('GET', '/api/orders');
export const placeOrder = (item: string) => call<Order>('POST', '/api/orders', { item });
export const shipOrder = (id: number) => call<Order>('POST', `/api/orders/${id}/shipped`, {});
