// Offers the hooks of the systems that the hub replaces, so that their pages can move without a rewrite.
//
// Both are for pages that move. New code uses @recado/client/react, which has lists, history and types.

import { useEffect, useInsertionEffect, useRef, useState, useSyncExternalStore } from 'react';
import { RecadoClient } from './client.ts';
import type { RecadoError } from './errors.ts';
import type { CommandResult, Gap, ProviderStatus } from './frames.ts';
import type { RecadoOptions } from './options.ts';
import type { State } from './store.ts';
import { claimsOf } from './tokens.ts';

/** State of the connection, in the words of the old hooks. `error` lasts until `reconnect` or another token. */
export type ConnectionStatus = 'connecting' | 'connected' | 'disconnected' | 'error';

/** A notification, `status`, `error` or `command_result`, with the field names of the wire. */
export interface WebSocketMessage {
  readonly type: string;
  readonly title?: string;
  readonly message?: string;
  // biome-ignore lint/suspicious/noExplicitAny: the handlers of the old pages read it without a type.
  readonly data?: any;
  readonly [field: string]: unknown;
}

/** What a page sends: a command to a provider. A `ping` is not needed, and is not sent. */
export interface OutgoingMessage {
  readonly type: string;
  readonly payload?: unknown;
  /** Makes a repeat safe. Default: a random id. */
  readonly id?: string;
  readonly [field: string]: unknown;
}

/** Options of `useWebSocket`. Those of `RecadoClient` are read when it connects with another `url` or user. */
export interface UseWebSocketOptions extends Omit<Partial<RecadoOptions>, 'url' | 'getToken'> {
  /** Address of the hub, as the old hook had it: `/ws` at its end and a query are dropped. Default: the page's host. */
  url?: string | URL | undefined;
  /**
   * The user's token, or a function that gets one. Without a token nothing is opened. A string is enough while the
   * application renders with a new one before it expires. A function is asked for each connection; with it, set
   * `userKey` if another user can sign in while the component is mounted.
   */
  token: string | null | undefined | (() => string | null | Promise<string | null>);
  /** Receives each message once, in order. A promise delays the acknowledgement of a notification. */
  onMessage?: ((message: WebSocketMessage) => void | Promise<void>) | undefined;
  /** Receives what was lost. Without it a loss is logged. */
  onGap?: ((gap: Gap) => void) | undefined;
  /** False: stays unconnected. Default true. */
  enabled?: boolean | undefined;
}

/** What `useWebSocket` returns. The functions stay the same between renders. */
export interface UseWebSocket {
  readonly isConnected: boolean;
  readonly connectionStatus: ConnectionStatus;
  /** The last message. Messages that arrive within 16 ms cost one render, so this skips some; `onMessage` does not. */
  readonly lastMessage: WebSocketMessage | null;
  /**
   * Sends a command now; false if the client is not connected: nothing is sent later. Its result is a message
   * `command_result`; a refusal or a missing result is a message `error` with a `code`. Takes a JSON text, too.
   */
  readonly sendMessage: (message: OutgoingMessage | string) => boolean;
  /** Connects anew at once, also after `disconnect` and from `error`. Resumes where it was. */
  readonly reconnect: () => void;
  /** Closes until `reconnect`. */
  readonly disconnect: () => void;
}

type Shown = Pick<UseWebSocket, 'connectionStatus' | 'lastMessage'>;
const OFF: Shown = Object.freeze({ connectionStatus: 'disconnected', lastMessage: null });
/** React is told of messages at most once in this time: one frame of a screen. */
const FLUSH_MS = 16;

const STATUS: Record<State, ConnectionStatus> = {
  idle: 'disconnected',
  connecting: 'connecting',
  replaying: 'connected',
  live: 'connected',
  waiting: 'disconnected',
  unauthorized: 'error',
  failed: 'error',
  closed: 'disconnected',
};

/** The address that the client expects: the hub without `/ws`, and without a token in the query. */
function hubOf(url: string | URL | undefined): URL {
  const hub = new URL(url || '/ws', globalThis.location?.href);
  hub.pathname = hub.pathname.replace(/\/ws\/?$/, '/');
  hub.search = '';
  return hub;
}

/** The client of one mounted hook, outside of React. */
class Socket {
  shown: Shown = OFF;
  readonly #latest: () => UseWebSocketOptions;
  #client: RecadoClient | null = null;
  #last: WebSocketMessage | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #tell = (): void => {};

  /** Opens nothing: a component is also rendered on servers, and twice under StrictMode. */
  constructor(latest: () => UseWebSocketOptions) {
    this.#latest = latest;
  }

  readonly subscribe = (tell: () => void): (() => void) => {
    this.#tell = tell;
    return () => {
      this.#tell = (): void => {};
    };
  };

  /** Connects a new client. Returns the function that closes it. */
  open(): () => void {
    const { url, onGap, ...options } = this.#latest();
    const getToken = async (): Promise<string | null> => {
      const { token } = this.#latest();
      return (typeof token === 'function' ? await token() : token) || null;
    };
    const client = new RecadoClient({ ...options, url: hubOf(url), getToken });
    this.#client = client;
    client.on('notification', (n) => this.#take(client, { ...n }));
    client.on('status', (status) => this.#take(client, { ...status, type: 'status' }));
    client.on('upstreamError', (error) => this.#take(client, { ...error, type: 'error' }));
    // Without a listener the client logs the loss.
    if (onGap) client.on('gap', (gap) => this.#latest().onGap?.(gap));
    client.subscribe(() => this.#client === client && this.#show());
    client.connect();
    return () => {
      this.#client = null;
      client.close();
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#last = null;
      this.#show();
    };
  }

  /** The application has another token: one that was refused is replaced. */
  renew(): void {
    if (this.#client?.snapshot().state === 'unauthorized') this.#client.connect();
  }

  readonly reconnect = (): void => {
    // From an end state `connect` is enough. After `close` the client would not know that another user signed in.
    if (this.shown.connectionStatus !== 'error') this.#client?.close();
    this.#client?.connect();
  };

  readonly disconnect = (): void => this.#client?.close();

  readonly send = (message: OutgoingMessage | string): boolean => {
    const client = this.#client;
    if (!client || STATUS[client.snapshot().state] !== 'connected') return false;
    const { id, ...command } = (typeof message === 'string' ? JSON.parse(message) : message) as OutgoingMessage;
    // The old pages kept the connection alive with it. The client checks the connection by itself.
    if (command.type === 'ping') return true;
    client.send(command, id === undefined ? {} : { id }).then(
      (result) => this.#take(client, { ...result, type: 'command_result' }),
      ({ code, message }: RecadoError) => this.#take(client, { type: 'error', code, message }),
    );
    return true;
  };

  #take(client: RecadoClient, message: WebSocketMessage): void | Promise<void> {
    if (this.#client !== client) return;
    this.#last = message;
    if (this.#timer === undefined) {
      this.#show();
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.#show();
      }, FLUSH_MS);
    }
    return this.#latest().onMessage?.(message);
  }

  #show(): void {
    const connectionStatus = STATUS[this.#client?.snapshot().state ?? 'idle'];
    const lastMessage = this.#last;
    if (connectionStatus === this.shown.connectionStatus && lastMessage === this.shown.lastMessage) return;
    this.shown = { connectionStatus, lastMessage };
    this.#tell();
  }
}

/**
 * The hook of pages that connect to `/ws?token=…` by themselves, on `RecadoClient`: it misses nothing, resumes, and
 * shares one connection between tabs. The token does not go into the address. On a server it opens nothing.
 *
 * For pages that move from another hub. New code uses `@recado/client/react`.
 */
export function useWebSocket(options: UseWebSocketOptions): UseWebSocket {
  const { url, token, enabled = true, userKey } = options;
  const latest = useRef(options);
  useInsertionEffect(() => {
    latest.current = options;
  });
  const [socket] = useState(() => new Socket(() => latest.current));
  // A token that does not name its user counts as one of another user.
  const user = userKey ?? (typeof token === 'string' ? String(claimsOf(token)?.sub ?? token) : '');
  const isActive = enabled && Boolean(token);
  // Another user gets a client of their own: the place and the device belong to the user.
  // biome-ignore lint/correctness/useExhaustiveDependencies: the client is made anew for another address or user.
  useEffect(() => (isActive ? socket.open() : undefined), [socket, isActive, user, String(url ?? '')]);
  useEffect(() => {
    if (typeof token === 'string') socket.renew();
  }, [socket, token]);
  const shown = useSyncExternalStore(
    socket.subscribe,
    () => socket.shown,
    () => OFF,
  );
  return {
    ...shown,
    isConnected: shown.connectionStatus === 'connected',
    sendMessage: socket.send,
    reconnect: socket.reconnect,
    disconnect: socket.disconnect,
  };
}

/** Options of `useProviderWebSocket`. */
export interface UseProviderWebSocketOptions extends Omit<UseWebSocketOptions, 'onMessage'> {
  /** Type of the provider's messages in the log. Default `game-data`. */
  dataType?: string | undefined;
  /** Receives `data` of each message of the provider, once, in order. */
  // biome-ignore lint/suspicious/noExplicitAny: the handlers of the old pages read it without a type.
  onData?: ((data: any, message: WebSocketMessage) => void | Promise<void>) | undefined;
  /** Receives each change of the provider session, with a text for the user. */
  onStatus?: ((status: ProviderStatus) => void) | undefined;
  /** Receives the text of a failed connection to the provider, or of a refused command, which has a `code`. */
  onError?: ((message: string, code: string | undefined) => void) | undefined;
  /** Receives the result of each command. */
  onResult?: ((result: CommandResult) => void) | undefined;
}

/** What `useProviderWebSocket` returns. */
export interface UseProviderWebSocket extends Omit<UseWebSocket, 'lastMessage'> {
  /** Last known state of the provider session; null while the hub has not said, or is not connected. */
  readonly providerStatus: ProviderStatus | null;
}

/**
 * The hook of pages of a service that keeps a WebSocket to a provider for each user: the provider's messages, its
 * status, and commands such as `sendMessage({ type: 'bet', payload })`.
 *
 * For pages that move from such a service. New code uses `useUpstream` of `@recado/client/react`.
 */
export function useProviderWebSocket(options: UseProviderWebSocketOptions): UseProviderWebSocket {
  const { dataType = 'game-data', onData, onStatus, onError, onResult, ...rest } = options;
  const [status, setStatus] = useState<ProviderStatus | null>(null);
  const onMessage = (message: WebSocketMessage): void | Promise<void> => {
    if (message.type === dataType) return onData?.(message.data, message);
    if (message.type === 'status') {
      setStatus(message as unknown as ProviderStatus);
      onStatus?.(message as unknown as ProviderStatus);
    } else if (message.type === 'error') {
      onError?.(message.message ?? '', message.code as string | undefined);
    } else if (message.type === 'command_result') {
      onResult?.(message as unknown as CommandResult);
    }
  };
  const { lastMessage: _, ...socket } = useWebSocket({ ...rest, onMessage });
  return { ...socket, providerStatus: socket.isConnected ? status : null };
}
