// Keeps the orders in a file, and posts the notifications of each change until the hub has them.
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { InvalidNotificationError } from '@recado/client/server';

/** @typedef {import('@recado/client/server').NewNotification} NewNotification */
/** @typedef {import('@recado/client/server').NotificationClient} NotificationClient */
/** @typedef {{ id: number, customer: string, item: string, shipped: boolean }} Order */
/** @typedef {{ key: string, notifications: NewNotification[] }} Unposted */

const RETRY_MS = 1_000;

export class Orders {
  /** @type {{ orders: Order[], unposted: Unposted[] }} */
  #saved = { orders: [], unposted: [] };
  #file;
  #hub;
  #shopkeeper;
  #isPosting = false;

  /** @param {string} file @param {NotificationClient} hub @param {string} shopkeeper */
  constructor(file, hub, shopkeeper) {
    this.#file = file;
    this.#hub = hub;
    this.#shopkeeper = shopkeeper;
    if (existsSync(file)) this.#saved = JSON.parse(readFileSync(file, 'utf8'));
    // The process may have ended before the hub had these.
    void this.#post();
  }

  /** The orders of a customer, or all. @param {string} [customer] */
  list(customer) {
    return this.#saved.orders.filter((order) => customer === undefined || order.customer === customer);
  }

  /** Stores an order, and tells the customer and the shopkeeper. @param {string} customer @param {string} item */
  place(customer, item) {
    const order = { id: this.#saved.orders.length + 1, customer, item, shipped: false };
    this.#saved.orders.push(order);
    const about = { type: 'order_created', data: { order_id: order.id, item } };
    this.#notify(`order-${order.id}-placed`, [
      { ...about, user_id: customer, title: 'Order placed', message: `${item}, order ${order.id}` },
      { ...about, user_id: this.#shopkeeper, title: 'New order', message: `${item}, order ${order.id}` },
    ]);
    return order;
  }

  /** Marks an order as shipped, and tells the customer. @param {number} id */
  ship(id) {
    const order = this.#saved.orders.find((one) => one.id === id);
    if (!order || order.shipped) return order;
    order.shipped = true;
    const { customer, item } = order;
    this.#notify(`order-${id}-shipped`, [
      {
        type: 'order_updated',
        data: { order_id: id, item },
        user_id: customer,
        title: 'Order shipped',
        message: `${item}, order ${id}`,
      },
    ]);
    return order;
  }

  /** Saves a change together with its notifications. @param {string} key @param {NewNotification[]} notifications */
  #notify(key, notifications) {
    this.#saved.unposted.push({ key, notifications });
    this.#save();
    void this.#post();
  }

  #save() {
    writeFileSync(`${this.#file}.new`, JSON.stringify(this.#saved, null, 1));
    renameSync(`${this.#file}.new`, this.#file);
  }

  /** Posts what was not posted, oldest first. A repeat has the same key, so the hub appends it once. */
  async #post() {
    if (this.#isPosting) return;
    this.#isPosting = true;
    for (let next = this.#saved.unposted[0]; next; next = this.#saved.unposted[0]) {
      try {
        await this.#hub.notifyMany(next.notifications, { idempotencyKey: next.key });
      } catch (error) {
        console.error(`notification not posted: ${error}`);
        // A repeat cannot help against a broken rule. Everything else can be mended.
        if (!(error instanceof InvalidNotificationError)) {
          await sleep(RETRY_MS);
          continue;
        }
      }
      this.#saved.unposted.shift();
      this.#save();
    }
    this.#isPosting = false;
  }
}
