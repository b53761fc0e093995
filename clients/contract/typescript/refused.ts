// Calls of the generated TypeScript client that must not compile. A mark without an error is an error.

import type { Client } from 'openapi-fetch';
import type { components, paths } from './api.js';

type Notify = components['schemas']['Notify'];

export async function refused(hub: Client<paths>): Promise<void> {
  const good = { type: 'order_created', title: 'New order', message: 'Order #1', user_id: '42' };
  // @ts-expect-error a required field is missing
  await hub.POST('/api/internal/notify', { body: { type: 'order_created', message: 'Order #1', user_id: '42' } });
  // openapi-fetch infers the type of what it is given, so it accepts unknown fields. A typed body does not.
  // @ts-expect-error a field is misspelled
  const misspelled: Notify = { type: 'news', title: 'To all', message: 'Hello', acount_id: '7' };
  // @ts-expect-error a field of another route
  const foreign: Notify = { type: 'news', title: 'To all', message: 'Hello', userid: '42' };
  await hub.POST('/api/internal/notify/batch', { body: { items: [misspelled, foreign] } });
  // @ts-expect-error a user is a string
  await hub.POST('/api/internal/notify', { body: { ...good, user_id: 42 } });
  // @ts-expect-error users are a list
  await hub.POST('/api/internal/notify', { body: { ...good, user_ids: '42' } });
  // @ts-expect-error broadcast is a boolean
  await hub.POST('/api/internal/notify', { body: { ...good, broadcast: 'yes' } });
  // @ts-expect-error a body is required
  await hub.POST('/api/internal/notify', {});
  // @ts-expect-error the body of the batch route
  await hub.POST('/api/internal/notify', { body: { items: [good] } });
  // @ts-expect-error a batch is an object with items
  await hub.POST('/api/internal/notify/batch', { body: [good] });
  // @ts-expect-error an item breaks a rule
  await hub.POST('/api/internal/notify/batch', { body: { items: [{ ...good, ttl: '1h' }] } });
  // @ts-expect-error lines are text
  await hub.POST('/api/internal/notify/ndjson', { body: good });
  // @ts-expect-error an event has a source and an id
  await hub.POST('/api/internal/notify/cloudevent', { body: { specversion: '1.0', type: 'stock.low' } });
  // @ts-expect-error a limit is a number
  await hub.GET('/api/notifications', { params: { query: { limit: '10' } } });
  // @ts-expect-error there are two orders
  await hub.GET('/api/notifications', { params: { query: { order: 'newest' } } });
  // @ts-expect-error a parameter is misspelled
  await hub.GET('/api/notifications', { params: { query: { from: 10 } } });
  // @ts-expect-error the number is required
  await hub.GET('/api/admin/why', { params: { query: { user: '42' } } });
  // @ts-expect-error a position is a number
  await hub.POST('/api/notifications/ack', { body: { seq: '7' } });
  // @ts-expect-error there is no such operation
  await hub.POST('/api/inbox', { body: { op: 'delete', seqs: [1] } });
  // @ts-expect-error numbers are a list
  await hub.POST('/api/inbox', { body: { op: 'read', seqs: 1 } });
  // @ts-expect-error there are three filters
  await hub.GET('/api/inbox', { params: { query: { filter: 'seen' } } });
  // @ts-expect-error the types are required
  await hub.POST('/api/preferences', { body: {} });
  // @ts-expect-error no such route
  await hub.GET('/api/notification');
  // @ts-expect-error another method
  await hub.POST('/api/whoami');
  const { data } = await hub.GET('/api/notifications');
  // @ts-expect-error without a check the answer may be a refusal
  data.notifications.length;
  // @ts-expect-error an answer without such a field
  data?.items;
}
