// Gives the SDK a WebSocket and a fetch that can be cut, and that record what goes over them.

/** What the wire reports. */
export interface WireEvents {
  /** A connection is tried; the address is without its token. */
  opening(text: string): void;
  incoming(text: string): void;
  outgoing(text: string): void;
  ended(text: string): void;
}

/** What the next connection asks for, instead of what the SDK says. */
export interface Overrides {
  readonly since?: string;
  readonly logId?: string;
}

const STREAM = '/api/notifications/stream';

/** The address as it is shown: without a ticket or token. */
function shown(url: URL): string {
  const copy = new URL(url);
  for (const name of ['ticket', 'token']) if (copy.searchParams.has(name)) copy.searchParams.set(name, '…');
  return `${copy.pathname}${copy.search}`;
}

/** Frames as they are shown: a newer token is not. */
const hideToken = (text: string): string => text.replace(/("token":")[^"]*/g, '$1…');

export class Wire {
  /** While the device is offline every connection fails. */
  isOffline = false;
  /** A ticket for the next connection, in place of the token. */
  ticket: string | null = null;
  #overrides: Overrides = {};
  readonly #events: WireEvents;
  /** Ends the open connection. */
  #cut: (() => void) | null = null;

  constructor(events: WireEvents) {
    this.#events = events;
  }

  /** Breaks the open connection without a word to the SDK. */
  cut(): void {
    this.#cut?.();
    this.#cut = null;
  }

  /** For the next connection only. */
  override(overrides: Overrides): void {
    this.#overrides = overrides;
  }

  #address(given: string | URL): URL {
    const url = new URL(given);
    const { since, logId } = this.#overrides;
    this.#overrides = {};
    if (since !== undefined) {
      url.searchParams.set('since', since);
      // The id belongs to the place that the SDK would have named.
      url.searchParams.delete('last_id');
    }
    if (logId !== undefined) {
      url.searchParams.set('log_id', logId);
      url.searchParams.delete('last_id');
    }
    if (this.ticket !== null) url.searchParams.set('ticket', this.ticket);
    return url;
  }

  /** The class that the SDK makes its socket of. */
  get socketClass(): typeof WebSocket {
    const wire = this;
    const events = this.#events;
    return class extends WebSocket {
      constructor(given: string | URL, protocols?: string | string[]) {
        // The SDK takes this for an unreachable network, and tries again with back-off.
        if (wire.isOffline) throw new Error('offline');
        const url = wire.#address(given);
        const signs = wire.ticket === null ? protocols : 'recado.v1';
        wire.ticket = null;
        super(url, signs);
        events.opening(`WebSocket ${shown(url)}`);
        wire.#cut = () => this.close();
        this.addEventListener('message', ({ data }) => {
          // `frames=lines`: one message may hold several frames.
          for (const line of String(data).split('\n')) events.incoming(line);
        });
        this.addEventListener('close', ({ code, reason }) => events.ended(`closed ${code} ${reason}`.trim()));
      }

      override send(data: string): void {
        events.outgoing(hideToken(data));
        super.send(data);
      }
    };
  }

  /** The function that the SDK requests with. */
  get fetch(): typeof fetch {
    return async (input, init) => {
      const url = new URL(String(input));
      if (this.isOffline) throw new TypeError('offline');
      if (!url.pathname.endsWith(STREAM)) {
        if (init?.body) this.#events.outgoing(`POST ${url.pathname} ${hideToken(String(init.body))}`);
        return fetch(input, init);
      }
      return this.#stream(this.#address(url), init ?? {});
    };
  }

  async #stream(url: URL, init: RequestInit): Promise<Response> {
    const abort = new AbortController();
    init.signal?.addEventListener('abort', () => abort.abort());
    const headers = new Headers(init.headers);
    if (this.ticket !== null) headers.delete('authorization');
    this.ticket = null;
    this.#events.opening(`SSE ${shown(url)}`);
    const answer = await fetch(url, { ...init, headers, signal: abort.signal });
    this.#cut = () => abort.abort();
    if (!answer.ok || !answer.body) return answer;
    const [mine, theirs] = answer.body.tee();
    void this.#record(mine);
    return new Response(theirs, { status: answer.status, headers: answer.headers });
  }

  async #record(body: ReadableStream<Uint8Array>): Promise<void> {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let rest = '';
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const blocks = (rest + decoder.decode(value, { stream: true })).split('\n\n');
        rest = blocks.pop() ?? '';
        for (const block of blocks) this.#events.incoming(block);
      }
      this.#events.ended('the stream ended');
    } catch {
      this.#events.ended('the stream broke');
    }
  }
}

/** The JSON of a recorded piece: a frame, or an SSE event with its `data` lines. Null for comments. */
export function frameOf(text: string): { readonly [name: string]: unknown } | null {
  const json = text.startsWith('{')
    ? text
    : text
        .split('\n')
        .filter((line) => line.startsWith('data:'))
        .map((line) => line.slice(5).trim())
        .join('\n');
  if (json === '') return null;
  try {
    return JSON.parse(json) as { readonly [name: string]: unknown };
  } catch {
    return null;
  }
}
