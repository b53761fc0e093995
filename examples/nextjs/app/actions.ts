// Acts for the signed-in user: sign in and out, and an order that is notified.
'use server';

import { randomUUID } from 'node:crypto';
import { NotificationClient } from '@recado/client/server';
import { revalidatePath } from 'next/cache';
import { endSession, isUser, signedInUser, startSession } from './session';

const hub = new NotificationClient({ url: process.env.RECADO_URL as string, apiKey: process.env.RECADO_KEY as string });

export async function signIn(form: FormData): Promise<void> {
  const user = form.get('user');
  if (isUser(user)) await startSession(user);
  revalidatePath('/');
}

export async function signOut(): Promise<void> {
  await endSession();
  revalidatePath('/');
}

export async function order(form: FormData): Promise<void> {
  const user = await signedInUser();
  const item = form.get('item');
  if (!user || (item !== 'Lamp' && item !== 'Vase')) throw new Error('sign in, and order a Lamp or a Vase');
  // A shop stores the order here. The key names the order, so a repeat of the post is not a second notification.
  const id = randomUUID().slice(0, 8);
  await hub.notify(
    {
      type: 'order_created',
      title: 'Order placed',
      message: `${item}, order ${id}`,
      data: { order_id: id, item },
      user_id: user,
    },
    { idempotencyKey: `order-${id}-placed` },
  );
}
