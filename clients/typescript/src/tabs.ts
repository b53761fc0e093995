// Elects one tab of a browser to hold the connection, and carries frames to the others.
//
// The leader is the tab that holds the Web Lock. The browser frees the lock when the tab closes or crashes, and the
// next tab in the queue leads. A tab that is stuck keeps the lock; another tab that doubts it asks `who`, and steals
// the lock if there is no word within a second. Words of one sender arrive in order; those of two do not.

import type { ServerFrame } from './frames.ts';
import type { Place } from './machine.ts';
import type { Snapshot } from './store.ts';

/** The leader's answer to `who`, and its announcement of each change of state. */
export interface Snap {
  readonly w: 'snap';
  readonly state: Snapshot;
  readonly place: Place | null;
  readonly heartbeatMs: number;
  /** Last status frame of each provider. */
  readonly statuses: readonly ServerFrame[];
}

/** What tabs say to each other. */
export type Word =
  | { readonly w: 'who' }
  | Snap
  /** What the hub said, in order. */
  | { readonly w: 'frames'; readonly frames: ServerFrame[] }
  /** A follower lacks what comes after its place. */
  | { readonly w: 'behind'; readonly place: Place }
  | { readonly w: 'ack'; readonly seq: number; readonly logId: string | undefined }
  | { readonly w: 'send'; readonly id: string; readonly frame: object; readonly until: number }
  | { readonly w: 'refused'; readonly id: string; readonly code: string; readonly message: string }
  /** Try now, for a visible follower: timers of a hidden leader are throttled, its messages are not. */
  | { readonly w: 'poke' };

/** What a group asks of its client. */
export interface GroupHost {
  /** This tab leads from now on. */
  lead(): void;
  /** Another tab stole the lock: close the connection at once. */
  follow(): void;
  snap(): Snap;
  heard(word: Word): void;
  /** The browser refuses the lock: leave, and connect without other tabs. */
  alone(): void;
}

/** Longest wait for a word of a leader that is doubted. */
const WORD_MS = 1_000;
/** Words that only a leader says. */
const OF_LEADER: readonly string[] = ['snap', 'frames', 'refused'];

/** True where tabs can share one connection: Web Locks need a secure context. */
export function canShare(): boolean {
  return Boolean(globalThis.navigator?.locks && globalThis.BroadcastChannel);
}

/** One tab's membership in the group of tabs of a hub, a user and a device. */
export class TabGroup {
  readonly #name: string;
  readonly #host: GroupHost;
  readonly #channel: BroadcastChannel;
  #queued = new AbortController();
  #release: (() => void) | null = null;
  #left = false;
  #doubt: ReturnType<typeof setTimeout> | undefined;
  /** When the leader was last heard, in milliseconds since 1970. */
  heardAt: number = Date.now();

  constructor(name: string, host: GroupHost) {
    this.#name = name;
    this.#host = host;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = (message): void => this.#hear(message.data as Word);
    this.say({ w: 'who' });
    this.#queue();
  }

  get isLeader(): boolean {
    return this.#release !== null;
  }

  say(word: Word): void {
    if (!this.#left) this.#channel.postMessage(word);
  }

  /** Asks the leader for a word, and takes its place if there is none within a second. */
  doubt(): void {
    if (this.#left || this.isLeader || this.#doubt !== undefined) return;
    const asked = Date.now();
    this.heardAt = Math.min(this.heardAt, asked - 1);
    this.say({ w: 'who' });
    this.#doubt = setTimeout(() => {
      this.#doubt = undefined;
      if (!this.#left && !this.isLeader && this.heardAt < asked) this.#steal();
    }, WORD_MS);
  }

  /** Frees the lock and leaves. */
  leave(): void {
    this.#left = true;
    clearTimeout(this.#doubt);
    this.#queued.abort();
    this.#release?.();
    this.#release = null;
    this.#channel.close();
  }

  #hear(word: Word): void {
    if (this.#left) return;
    if (OF_LEADER.includes(word.w)) this.heardAt = Date.now();
    if (word.w !== 'who') this.#host.heard(word);
    else if (this.isLeader) this.say(this.#host.snap());
  }

  #queue(): void {
    this.#queued = new AbortController();
    this.#request({ signal: this.#queued.signal });
  }

  #steal(): void {
    // Its own place in the queue is given up, or this tab would wait for itself.
    this.#queued.abort();
    this.#request({ steal: true });
  }

  #request(options: LockOptions): void {
    const held = new Promise<void>((resolve) => {
      const granted = (): Promise<void> | undefined => {
        if (this.#left) return undefined;
        this.#release = resolve;
        this.#host.lead();
        this.say(this.#host.snap());
        return held;
      };
      navigator.locks.request(this.#name, options, granted).catch((error: Error) => {
        if (this.#left) return;
        // Locks are refused, for example in a frame without storage: no tab would ever lead.
        if (error.name !== 'AbortError') return this.#host.alone();
        // Stolen while it was held, or aborted while it waited.
        if (this.#release !== resolve) return;
        this.#release = null;
        this.#host.follow();
        this.say({ w: 'who' });
        this.#queue();
      });
    });
  }
}
