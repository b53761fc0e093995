// Keeps one connection to the hub: tokens, watchdog, reconnects, acknowledgements, commands.

import { RecadoError } from './errors.ts';
import { openEvents } from './events.ts';
import type { CommandResult, Hello, ServerFrame } from './frames.ts';
import type { End, Machine, Place, Step } from './machine.ts';
import type { RecadoOptions } from './options.ts';
import { openSocket } from './socket.ts';
import type { State } from './store.ts';
import { Timers } from './timers.ts';
import type { Tokens } from './tokens.ts';
import type { HubUrl, Link, LinkEvents, Query } from './transport.ts';

/** What a connection needs from its client. */
export interface ConnectionHost {
  readonly base: HubUrl;
  readonly clientId: string;
  /** Patterns of the types to receive, separated by commas; undefined for all. */
  readonly types: string | undefined;
  readonly machine: Machine;
  readonly tokens: Tokens;
  readonly options: RecadoOptions;
  readonly fetch: typeof fetch;
  /** Frames arrived; called before they are applied, to pass them to other tabs. */
  pass(frames: ServerFrame[]): void;
  apply(step: Step, frame: ServerFrame): void;
  state(state: State, reason?: string, retryAt?: number): void;
  /** The connection ended for good. */
  fail(state: State, reason: string): void;
  error(error: RecadoError): void;
  refused(id: string, error: RecadoError): void;
  /** Highest number that may be acknowledged; 0 for none. */
  ackable(): number;
  /** Posts to a path of the hub, with the present token. */
  request(path: string, query: Query, body: object): Promise<unknown>;
}

/** Shortest time between two acknowledgements, unless the application says otherwise. */
const ACK_DELAY_MS = 250;
/** Longest wait for the first frame. */
const CONNECT_MS = 10_000;
/** Slack of the watchdog over two heartbeats, for a slow network. */
const SLACK_MS = 5_000;
/** How often the watchdog looks at the wall clock. Hidden tabs are slowed down to once a minute. */
const WATCH_MS = 1_000;
/** Longest wait for an answer to a ping. */
const PONG_MS = 2_500;
/** Shortest time between two pings: the hub takes 60 messages a minute. */
const PING_EVERY_MS = 3_000;
/** Shortest time between two token refreshes, for tokens that live less than the hub's minute of warning. */
const REFRESH_EVERY_MS = 10_000;
/** Wait before a failed refresh or a failed ack request is repeated. */
const REPEAT_MS = 5_000;
/** Time in which requests of tabs that lag behind may be older than the connection. */
const SETTLE_MS = 1_500;

interface Unsent {
  readonly id: string;
  readonly frame: object;
  readonly until: number;
}

/** The connection of a page that leads, or of a page without other tabs. */
export interface Connection {
  readonly transport: 'websocket' | 'sse' | null;
  readonly heartbeatMs: number;
  /** Connects, and reconnects until `stop` or an end state. */
  start(): void;
  /** Sends what can be acknowledged and closes. Changes no state. */
  stop(): void;
  /** The page became visible, or the network came back: checks the connection at once. */
  nudge(): void;
  /** Starts again at the place of a tab that lags behind. */
  rewind(to: Place): void;
  /** Sends a command once, now or as soon as the connection is up, but not after `until`. */
  command(id: string, frame: object, until: number): void;
  /** A number became acknowledgeable. */
  scheduleAck(): void;
  /** Acknowledges now. */
  flush(): void;
}

/** Makes a connection that is not started. */
export function openConnection(host: ConnectionHost): Connection {
  const { machine, tokens, options } = host;
  const Socket = options.WebSocket ?? globalThis.WebSocket;
  let abort: AbortController | null = null;
  /** Counts connections: a callback of an older one is ignored. */
  let runs = 0;
  let link: Link | null = null;
  let hasOpened = false;
  /** True from `connection_established` on. */
  let isUp = false;
  let heard = 0;
  /** Counts messages, so that a ping can tell whether anything came after it. */
  let messages = 0;
  let upAt = 0;
  let heartbeatMs = 30_000;
  let session = '';
  let acked = 0;
  let posting = false;
  let pingedAt = 0;
  let refreshedAt = 0;
  let unsent: Unsent[] = [];
  const inFlight = new Set<string>();
  let watch: ReturnType<typeof setInterval> | undefined;
  const timers = new Timers<'wait' | 'ack' | 'ping' | 'refresh'>();

  /** Connects, and reconnects until `stop` or an end state. */
  function start(): void {
    if (abort) return;
    abort = new AbortController();
    watch = setInterval(() => look(), WATCH_MS);
    machine.forgive();
    void open('again');
  }

  /** Sends what can be acknowledged and closes. Changes no state. */
  function stop(): void {
    if (!abort) return;
    flush();
    abort.abort();
    abort = null;
    clearInterval(watch);
    drop();
  }

  /** The page became visible, or the network came back: checks the connection at once. */
  function nudge(): void {
    if (!abort) return;
    if (timers.has('wait')) {
      machine.forgive();
      void open('again');
    } else if (isUp && link?.kind === 'sse') {
      if (Date.now() - heard > heartbeatMs / 2) breakNow('silent');
    } else if (isUp) {
      ping();
    }
  }

  /** Starts again at the place of a tab that lags behind. */
  function rewind(to: Place): void {
    // A word that was sent before the tab heard of this connection; the tab repeats it if it still lags behind.
    if (isUp && to.seq >= machine.linkFrom && Date.now() - upAt < SETTLE_MS) return;
    if (machine.rewind(to) && isUp) breakOff('behind');
  }

  /** Sends a command once, now or as soon as the connection is up. */
  function command(id: string, frame: object, until: number): void {
    unsent.push({ id, frame, until });
    sendCommands();
  }

  /** A number became acknowledgeable. */
  function scheduleAck(): void {
    if (timers.has('ack') || !isUp || target() <= acked) return;
    timers.after('ack', options.ackDelayMs ?? ACK_DELAY_MS, () => flush());
  }

  /** Acknowledges now. */
  function flush(): void {
    timers.cancel('ack');
    const seq = target();
    if (!isUp || seq <= acked || posting) return;
    if (link?.kind === 'websocket') {
      if (link.send({ type: 'ack', seq })) acked = seq;
    } else {
      post(seq);
    }
  }

  function post(seq: number): void {
    const run = runs;
    posting = true;
    const posted = (): void => {
      posting = false;
      if (run !== runs) return;
      acked = seq;
      scheduleAck();
    };
    host.request('api/notifications/ack', {}, { client_id: host.clientId, seq }).then(posted, (error: RecadoError) => {
      posting = false;
      if (run !== runs) return;
      if (!error.retryable) host.error(error);
      timers.after('ack', REPEAT_MS, () => flush());
    });
  }

  /** The hub refuses an acknowledgement above what it delivered on this connection. */
  function target(): number {
    return Math.min(host.ackable(), machine.link ?? 0);
  }

  async function open(reason: 'again' | 'refused'): Promise<void> {
    const { base, clientId, types } = host;
    const signal = abort?.signal;
    if (!signal) return;
    const run = ++runs;
    timers.cancel('wait');
    host.state('connecting');
    let token: string | null;
    try {
      token = await tokens.connecting(reason, signal);
    } catch (error) {
      if (run !== runs) return;
      host.error(error as RecadoError);
      return retryIn(machine.backoff(), 'token_failed');
    }
    if (run !== runs) return;
    if (token === null) return finish('unauthorized', 'no_token');
    const kind = Socket ? machine.transport(Date.now()) : 'sse';
    heard = Date.now();
    hasOpened = false;
    const inbox = options.inbox ? 1 : undefined;
    const query = { client_id: clientId, types, inbox, ...machine.start() };
    const request = { base, query, token, events: events(run, kind) };
    machine.opening();
    try {
      link = kind === 'websocket' ? openSocket(request, Socket) : openEvents(request, host.fetch);
    } catch (error) {
      // Not the message: a browser quotes the subprotocol in it, which is the token.
      ended({ kind, code: 0, reason: `network: ${(error as Error).name}`, opened: false });
    }
  }

  function events(run: number, kind: 'websocket' | 'sse'): LinkEvents {
    const current = (then: () => void): void => {
      if (run !== runs) return;
      heard = Date.now();
      then();
    };
    return {
      opened: () =>
        current(() => {
          hasOpened = true;
          machine.opened(kind);
        }),
      frames: (frames) => current(() => receive(frames, run)),
      ended: (end) => current(() => ended(end)),
    };
  }

  function receive(frames: ServerFrame[], run: number): void {
    messages++;
    // Other tabs must not see the frames of another user.
    const isOther = ({ type, user_id }: Record<string, unknown>): boolean =>
      type === 'connection_established' && machine.userId !== null && user_id !== machine.userId;
    if ((frames as object[] as Record<string, unknown>[]).some(isOther)) return finish('failed', 'identity_changed');
    if (frames.length > 0) host.pass(frames);
    for (const frame of frames) {
      const step = machine.frame(frame, true);
      if (step.do === 'break') return breakOff('hole');
      if (step.do === 'fail') return finish('failed', step.reason);
      if (step.do === 'hello') established(step.hello);
      host.apply(step, frame);
      // A listener may have closed the client.
      if (run !== runs) return;
      if (step.do === 'control') control(frame);
    }
    scheduleAck();
  }

  function established(hello: Hello): void {
    isUp = true;
    upAt = Date.now();
    acked = 0;
    heartbeatMs = hello.heartbeat_ms;
    session = hello.session_id;
    sendCommands();
  }

  function control(frame: ServerFrame): void {
    if (frame.type === 'auth_expiring') refreshSoon(REFRESH_EVERY_MS - (Date.now() - refreshedAt));
    if (frame.type === 'command_result') inFlight.delete((frame as unknown as CommandResult).id);
    if (frame.type !== 'error' || frame.code === undefined) return;
    const error = new RecadoError(frame.code, frame.message ?? frame.code);
    const id = frame.id as string;
    if (inFlight.delete(id)) host.refused(id, error);
    else host.error(error);
  }

  function sendCommands(): void {
    if (!isUp || !link) return;
    const due = unsent.filter(({ until }) => until > Date.now());
    unsent = [];
    for (const one of due) {
      if (link.send(one.frame)) inFlight.add(one.id);
      // A socket that closes has not told its end yet; the next connection sends the command.
      else if (link.kind === 'websocket') unsent.push(one);
      else host.refused(one.id, new RecadoError('unsupported', 'commands need a WebSocket; this connection uses SSE'));
    }
  }

  function refreshSoon(afterMs: number): void {
    timers.after('refresh', Math.max(0, afterMs), () => void refresh());
  }

  /** Replaces the token: in band by WebSocket, by a request on SSE, which has no way back to the hub. */
  async function refresh(): Promise<void> {
    const signal = abort?.signal;
    const run = runs;
    if (!signal || !isUp) return;
    refreshedAt = Date.now();
    try {
      const token = await tokens.get('expiring', signal);
      if (run !== runs) return;
      if (token === null) return finish('unauthorized', 'no_token');
      if (link?.send({ type: 'auth', token })) return;
      await host.request(`api/session/${session}/auth`, {}, {});
    } catch (error) {
      if (run !== runs) return;
      // Other accounts, or a hub of before that route: a new connection takes the token.
      if (!(error as RecadoError).retryable) return breakNow('expiring');
      host.error(error as RecadoError);
      refreshSoon(REPEAT_MS);
    }
  }

  /** Watches by wall clock: a timer alone would not notice that the machine slept. */
  function look(): void {
    const now = Date.now();
    // The clock was set back.
    if (now < heard) heard = now;
    if (!link) return;
    if (now - heard > (isUp ? 2 * heartbeatMs + SLACK_MS : CONNECT_MS)) breakOff('silent');
    else if (isUp && link.kind === 'sse' && machine.isFallbackOver(now)) {
      breakNow('fallback_over');
    }
  }

  function ping(): void {
    const now = Date.now();
    if (timers.has('ping') || Math.abs(now - pingedAt) < PING_EVERY_MS) return;
    pingedAt = now;
    if (!link?.send({ type: 'ping', id: 1 })) return breakNow('silent');
    const frames = messages;
    timers.after('ping', PONG_MS, () => {
      if (messages === frames) breakNow('silent');
    });
  }

  function breakOff(reason: string): void {
    ended(cut(reason));
  }

  function breakNow(reason: string): void {
    machine.forgive();
    machine.ended(cut(reason));
    drop();
    void open('again');
  }

  function cut(reason: string): End {
    return { kind: link?.kind ?? 'websocket', code: 0, reason, opened: hasOpened };
  }

  /** Lets go of the link and of everything that belonged to it. */
  function drop(): void {
    runs++;
    link?.close();
    link = null;
    isUp = false;
    inFlight.clear();
    timers.clear();
  }

  function ended(end: End): void {
    drop();
    const verdict = machine.ended(end);
    if (verdict.next === 'token') void open('refused');
    else if (verdict.next === 'again') retryIn(verdict.afterMs, verdict.reason);
    else finish(verdict.state, verdict.reason);
  }

  function retryIn(afterMs: number, reason: string): void {
    host.state('waiting', reason, Date.now() + afterMs);
    timers.after('wait', afterMs, () => void open('again'));
  }

  function finish(state: 'failed' | 'unauthorized', reason: string): void {
    stop();
    host.fail(state, reason);
  }

  return {
    get transport() {
      return link?.kind ?? null;
    },
    get heartbeatMs() {
      return heartbeatMs;
    },
    start,
    stop,
    nudge,
    rewind,
    command,
    scheduleAck,
    flush,
  };
}
