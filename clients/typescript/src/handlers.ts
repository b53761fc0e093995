// Keeps the application's listeners and calls them in order.

import { RecadoError } from './errors.ts';
import type { Gap, Notification, ProviderStatus } from './frames.ts';
import type { InboxEvent } from './inbox-types.ts';

/** Events of a client and what their listeners receive. */
export interface ClientEvents {
  /** Each notification once, in order. A returned promise delays the acknowledgement, not the next notification. */
  notification: Notification;
  /** Notifications that cannot be received any more. */
  gap: Gap;
  /** Everything up to `seq` was received. Once for each connection. */
  caughtUp: { readonly seq: number; readonly replayed: number };
  /** State of the user's provider session. */
  status: ProviderStatus;
  /** A try of the hub to connect to the provider failed. */
  upstreamError: { readonly message: string; readonly provider?: string };
  /** The inbox changes or changed: by this page, or by any device of the user. Only with the option `inbox`. */
  inbox: InboxEvent;
  /** A listener threw, a token could not be got, the hub refused a frame, or the client ended. */
  error: RecadoError;
}

/** Function that receives one event. */
export type Listener<E extends keyof ClientEvents> = (event: ClientEvents[E]) => void | Promise<void>;
type AnyListener = (event: never) => void | Promise<void>;

/** Where failures go that no listener takes. */
export type Logger = Pick<Console, 'debug' | 'warn' | 'error'>;

/** Registry of listeners. */
export class Handlers {
  readonly #listeners = new Map<keyof ClientEvents, AnyListener[]>();
  readonly #logger: Logger;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** Adds a listener; the same function may be added twice. Returns the function that removes it. */
  on<E extends keyof ClientEvents>(event: E, listener: Listener<E>): () => void {
    // A new array for each change: a listener added during an event does not receive that event.
    const wrapped: AnyListener = (value) => listener(value as ClientEvents[E]);
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), wrapped]);
    return () => {
      const left = (this.#listeners.get(event) ?? []).filter((one) => one !== wrapped);
      this.#listeners.set(event, left);
    };
  }

  /**
   * Calls the listeners in the order of their registration. Returns the promise of those that go on; null if all are
   * done. A failure goes to `error` and ends nothing: one poisonous notification must not stop the stream.
   */
  emit<E extends keyof ClientEvents>(event: E, value: ClientEvents[E]): Promise<unknown> | null {
    const listeners = this.#listeners.get(event) ?? [];
    if (listeners.length === 0) this.#unheard(event, value);
    const going: Promise<void>[] = [];
    for (const listener of listeners) {
      try {
        const result = (listener as Listener<E>)(value);
        if (result) going.push(Promise.resolve(result).catch((cause) => this.failed(event, cause)));
      } catch (cause) {
        this.failed(event, cause);
      }
    }
    return going.length === 0 ? null : Promise.all(going);
  }

  /** A gap or an error without a listener is logged: neither may pass in silence. */
  #unheard(event: keyof ClientEvents, value: unknown): void {
    if (event === 'gap') this.#logger.warn('recado: notifications were lost; no listener for "gap" is set', value);
    if (event === 'error') this.#logger.error('recado:', value);
  }

  /** Reports what a listener threw. */
  failed(event: keyof ClientEvents | 'snapshot', cause: unknown): void {
    if (event === 'error') return this.#logger.error('recado: a listener for "error" failed', cause);
    this.emit('error', new RecadoError('handler_failed', `a listener for "${event}" failed: ${cause}`, { cause }));
  }
}
