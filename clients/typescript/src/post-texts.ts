// Makes the titles and messages of the ten methods from the data of the shop.

import type { Text, TextKind } from './post-types.ts';

/** Data of a notification. */
export type Data = Readonly<Record<string, unknown>>;

// Fields that hold the number of an order or transaction, and the name of a product, in the order of preference.
const NUMBERS = [
  'number',
  'order_number',
  'orderNumber',
  'order_id',
  'orderId',
  'transaction_id',
  'transactionId',
  'id',
];
const NAMES = ['name', 'product_name', 'productName', 'title', 'sku', 'id'];

function first(data: Data, fields: readonly string[]): string | undefined {
  const values = fields.map((field) => data[field]);
  const found = values.find((value) => (typeof value === 'string' && value !== '') || Number.isInteger(value));
  return found === undefined ? undefined : String(found);
}

function numbered(noun: string, data: Data): string {
  const number = first(data, NUMBERS);
  return number === undefined ? noun : `${noun} #${number}`;
}

function product(data: Data): string {
  return first(data, NAMES) ?? 'A product';
}

/** The English texts. */
export const TEXTS: Record<TextKind, Text> = {
  order_created_buyer: (data) => ({ title: 'Order placed', message: `${numbered('Your order', data)} was placed` }),
  order_created_seller: (data) => ({ title: 'New order', message: numbered('Order', data) }),
  payment_confirmed_buyer: (data) => ({
    title: 'Payment confirmed',
    message: `${numbered('Your order', data)} is paid`,
  }),
  payment_confirmed_seller: (data) => ({ title: 'Payment received', message: `${numbered('Order', data)} is paid` }),
  order_updated: (data) => ({ title: 'Order updated', message: `${numbered('Your order', data)}: ${data.status}` }),
  stock_alert: (data) => ({ title: 'Low stock', message: `${product(data)} is low in stock` }),
  product_added: (data) => ({ title: 'Product added', message: `${product(data)} was added` }),
  product_updated: (data) => ({ title: 'Product updated', message: `${product(data)} was updated` }),
  product_deleted: (data) => ({ title: 'Product deleted', message: `${product(data)} was deleted` }),
  cart_updated: () => ({ title: 'Cart updated', message: 'Your cart was updated' }),
  transaction_created: (data) => ({ title: 'New transaction', message: numbered('Transaction', data) }),
  profile_updated: () => ({ title: 'Profile updated', message: 'Your profile was updated' }),
};
