// Writes a notification as JSON for the hub, and as curl, TypeScript, SQL and a command line.

import { shell } from '../format.ts';
import { hubUrl } from '../paths.ts';

/** The fields of the form, as they were typed. */
export interface Draft {
  readonly to: 'user' | 'account' | 'everyone';
  readonly id: string;
  readonly type: string;
  readonly title: string;
  readonly message: string;
  readonly data: string;
}

export const FIRST: Draft = {
  to: 'user',
  id: 'ann',
  type: 'order_created',
  title: 'New order',
  message: 'Order #1001',
  data: '{"order_id":"1001"}',
};

type Body = { [name: string]: unknown };

/** The body of the post, or why the data is not JSON. */
export function bodyOf(draft: Draft): { readonly body: Body | null; readonly wrong: string | null } {
  const body: Body = { type: draft.type, title: draft.title, message: draft.message };
  if (draft.data.trim() !== '') {
    try {
      body.data = JSON.parse(draft.data);
    } catch (error) {
      return { body: null, wrong: `data is not JSON: ${(error as Error).message}` };
    }
  }
  if (draft.to === 'user') body.user_id = draft.id;
  else if (draft.to === 'account') body.account_id = draft.id;
  else body.broadcast = true;
  return { body, wrong: null };
}

export const asCurl = (body: Body): string =>
  `curl -sS ${shell(`${hubUrl()}/api/internal/notify`)} \\
  -H "Authorization: Bearer $RECADO_KEY" -H 'Content-Type: application/json' \\
  -d ${shell(JSON.stringify(body))}`;

export const asTypeScript = (body: Body): string =>
  `import { NotificationClient } from '@recado/client/server';

const client = new NotificationClient({ url: '${hubUrl()}', apiKey: process.env.RECADO_KEY! });
await client.notify(${JSON.stringify(body, null, 2)});`;

const sqlText = (value: unknown): string => `'${String(value).replaceAll("'", "''")}'`;

export function asSql(body: Body): string {
  const words = [body.type, body.title, body.message].map(sqlText);
  if ('data' in body) words.push(`${sqlText(JSON.stringify(body.data))}::jsonb`);
  if (body.user_id !== undefined) words.push(`user_id => ${sqlText(body.user_id)}`);
  if (body.account_id !== undefined) words.push(`account_id => ${sqlText(body.account_id)}`);
  if (body.broadcast) words.push('broadcast => true');
  return `-- in your own transaction: it exists if and only if that commits\nSELECT recado.notify(${words.join(', ')});`;
}

export function asRecado(body: Body): string {
  const words = ['recado', 'notify', '--type', body.type, '--title', body.title, '--message', body.message].map(String);
  if ('data' in body) words.push('--data', JSON.stringify(body.data));
  if (body.user_id !== undefined) words.push('--user', String(body.user_id));
  if (body.account_id !== undefined) words.push('--account', String(body.account_id));
  if (body.broadcast) words.push('--broadcast');
  return words.map(shell).join(' ');
}
