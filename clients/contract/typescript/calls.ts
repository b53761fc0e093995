// Calls of the generated TypeScript client that must compile, and that the hub must answer as the types say.

import createClient, { type Client } from 'openapi-fetch';
import type { components, paths } from './api.js';

type Notification = components['schemas']['Notification'];

/** Throws unless the call succeeded. */
function given<T>({ data, error }: { data?: T; error?: { code: string; detail: string } }): T {
  if (data === undefined) throw new Error(error ? `${error.code}: ${error.detail}` : 'no data');
  return data;
}

function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(`not as the types say: ${what}`);
}

async function main(url: string, service: string, user: string, admin: string): Promise<void> {
  const as = (token: string): Client<paths> =>
    createClient<paths>({ baseUrl: url, headers: { authorization: `Bearer ${token}` } });
  const [shop, reader, operator] = [as(service), as(user), as(admin)];

  const one = given(
    await shop.POST('/api/internal/notify', {
      body: { type: 'order_created', title: 'New order', message: 'Order #1', user_id: '42', data: { order_id: '1' } },
      params: { header: { 'Idempotency-Key': 'order-1' } },
    }),
  );
  const seq: number = one.seq;
  const duplicate: boolean = one.duplicate;
  check(seq === 1 && !duplicate, 'the first receipt');

  const many = given(
    await shop.POST('/api/internal/notify/batch', {
      body: {
        items: [
          { type: 'news', title: 'To all', message: 'Hello', broadcast: true, replay: true },
          { type: 'news', title: 'To two', message: 'Hello', user_ids: ['42', '43'], ttl: 3600 },
          { type: 'news', title: 'To an account', message: 'Hello', account_id: '7' },
        ],
      },
    }),
  );
  check(many.items.map((item) => item.seq).join() === '2,3,4', 'the receipts of a batch');

  const event = { specversion: '1.0', id: '1', source: '/shop', type: 'stock.low', subject: 'Low', userid: '42' } as const;
  check(given(await shop.POST('/api/internal/notify/cloudevent', {
    body: event,
    headers: { 'content-type': 'application/cloudevents+json' },
  })).seq === 5, 'the receipt of an event');
  const events = given(
    await shop.POST('/api/internal/notify/cloudevents', {
      body: [event],
      headers: { 'content-type': 'application/cloudevents-batch+json' },
    }),
  );
  check(events.items[0]?.duplicate === true, 'the receipt of an event that was posted before');
  const lines = given(
    await shop.POST('/api/internal/notify/ndjson', {
      body: '{"type":"news","title":"A line","message":"Hello","user_id":"42"}\n',
      bodySerializer: (body) => body,
      headers: { 'content-type': 'application/x-ndjson' },
      parseAs: 'text',
    }),
  );
  check(JSON.parse(lines).seq === 6, 'the receipt of a line');

  const seen: Notification[] = [];
  let after: number | null = 0;
  while (after !== null) {
    const page: components['schemas']['Page'] = given(
      await reader.GET('/api/notifications', { params: { query: { after, limit: 2, order: 'asc', types: 'order_*,news' } } }),
    );
    seen.push(...page.notifications);
    after = page.next;
  }
  check(seen.map((n) => n.title).join() === 'New order,To all,To two,A line', 'the history');
  const to: 'user' | 'account' | 'everyone' | undefined = seen[1]?.to;
  check(to === 'everyone', 'the audience');
  const text = given(
    await reader.GET('/api/notifications/ndjson', { params: { query: { since: '10m' } }, parseAs: 'text' }),
  );
  check(text.trimEnd().split('\n').length === 5, 'the history as lines');
  check(given(await reader.GET('/api/notifications/head')).head === 6, 'the head');
  check(given(await reader.POST('/api/notifications/ack', { body: { client_id: 'web-1', seq: 6 } })).acked === 6, 'the ack');
  check(given(await reader.GET('/api/whoami')).user_id === '42', 'the user');
  check(given(await reader.POST('/api/ws-ticket')).ticket.startsWith('rct_'), 'the ticket');

  const inbox = given(await reader.GET('/api/inbox', { params: { query: { filter: 'unread', limit: 10 } } }));
  const unread: number = inbox.unread;
  const isMuted: boolean | undefined = inbox.items[0]?.muted;
  check(unread === 3 && inbox.items[0]?.title === 'A line' && !inbox.items[0].read && !isMuted, 'the inbox');
  const read = given(await reader.POST('/api/inbox', { body: { op: 'read', seqs: [seq], log_id: inbox.log_id } }));
  const changed: number | null = read.seq;
  check(changed === 7 && read.unread === 2 && read.as_of >= 7, 'the answer to a change');
  check(given(await reader.POST('/api/inbox', { body: { op: 'seen', up_to: 6 } })).unseen === 0, 'the count after seen');
  const muted = given(await reader.POST('/api/preferences', { body: { muted: ['news', 'stock.*'] } }));
  check(muted.muted.join() === 'news,stock.*' && muted.required.length === 0 && muted.unread === 0, 'the muted types');
  check(given(await reader.GET('/api/preferences')).muted.length === 2, 'the preferences');
  const known = given(await operator.GET('/api/admin/users/{id}', { params: { path: { id: '42' } } }));
  check(known.inbox?.seen_seq === 6 && known.inbox.since[0]?.topic === '*', 'the inbox as an admin sees it');

  const why = given(await operator.GET('/api/admin/why', { params: { query: { user: '42', seq } } }));
  check(why.notification?.type === 'order_created', 'the answer to why');
  const stats = given(await operator.GET('/stats'));
  check(stats.totalConnections === stats.connections.length, 'the sessions');
  check((await reader.GET('/health')).data?.status === 'ok', 'the health');

  const { error, response } = await shop.POST('/api/internal/notify', {
    body: { type: 'order_created', title: 'A bad id', message: 'Order #1', user_id: 'a b' },
  });
  const pointer: string | undefined = error?.errors?.[0]?.pointer;
  check(response.status === 422 && error?.code === 'invalid_field' && pointer === '/user_id', 'a refusal');
}

declare const process: { argv: [string, string, string, string, string, string] };
const [, , url, service, user, admin] = process.argv;
await main(url, service, user, admin);
