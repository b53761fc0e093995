// Checks raw frames by the rule of `prev`, and counts what was received, repeated and missed.

/** What a frame means for a client that keeps its own place. */
export interface Check {
  readonly text: string;
  readonly kind: 'apply' | 'drop' | 'hole' | 'none';
}

type Frame = { readonly [name: string]: unknown };

/** How the hub answered the last connection. */
export interface Resumed {
  readonly status: string;
  readonly from: number;
  readonly lostFrom: number | null;
  readonly lostTo: number | null;
}

/** The place of a device, by the frames that it received. */
export class Place {
  /** Null before the first connection. */
  mine: number | null = null;
  resumed: Resumed | null = null;
  /** Notifications that came again on the wire. */
  repeated = 0;
  readonly #seen = new Set<number>();

  /** Takes one raw frame. */
  take(frame: Frame): Check {
    if (frame.type === 'connection_established') return this.#hello(frame);
    const seq = frame.seq;
    if (typeof seq !== 'number') return { text: '', kind: 'none' };
    const isNotification = typeof frame.title === 'string';
    const mine = this.mine ?? 0;
    const prev = typeof frame.prev === 'number' ? frame.prev : null;
    if (seq <= mine && isNotification) {
      this.repeated++;
      return { text: `seq ${seq} ≤ mine ${mine}: drop, a repeat`, kind: 'drop' };
    }
    if (prev !== null && prev > mine)
      return { text: `prev ${prev} > mine ${mine}: something is missing, reconnect`, kind: 'hole' };
    if (seq > mine) this.mine = seq;
    if (isNotification) this.#seen.add(seq);
    if (prev === null) return { text: `mine = ${Math.max(seq, mine)}`, kind: 'apply' };
    return { text: `prev ${prev} ≤ mine ${mine}: nothing is missing, mine = ${Math.max(seq, mine)}`, kind: 'apply' };
  }

  #hello(frame: Frame): Check {
    const resume = frame.resume as Frame | undefined;
    const from = Number(resume?.from ?? 0);
    const status = String(resume?.status ?? '?');
    const numberOf = (value: unknown): number | null => (typeof value === 'number' ? value : null);
    this.resumed = { status, from, lostFrom: numberOf(resume?.lost_from), lostTo: numberOf(resume?.lost_to) };
    if (status === 'reset') {
      // Another log: its numbers mean other notifications.
      this.#seen.clear();
      this.mine = from;
    } else if (this.mine === null || (status === 'gap' && from > this.mine)) this.mine = from;
    return { text: `resume ${status} from ${from}, mine = ${this.mine}`, kind: 'none' };
  }

  has(seq: number): boolean {
    return this.#seen.has(seq);
  }
}
