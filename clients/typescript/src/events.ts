// Connects to the hub by Server-Sent Events, read with fetch.

import type { ServerFrame } from './frames.ts';
import { type Link, type LinkRequest, withQuery } from './transport.ts';

/** Splits a stream of events into the JSON of each. Every event of the hub has `data` with a `type`. */
export class EventParser {
  #rest = '';
  #data: string[] = [];

  /** Takes a piece of the stream; returns the frames that are complete. Throws on malformed JSON. */
  push(piece: string): ServerFrame[] {
    const frames: ServerFrame[] = [];
    const lines = (this.#rest + piece).split('\n');
    this.#rest = lines.pop() as string;
    for (const raw of lines) {
      const line = raw.replace(/\r$/, '');
      if (line === '') {
        if (this.#data.length > 0) frames.push(JSON.parse(this.#data.join('\n')) as ServerFrame);
        this.#data = [];
      } else if (line.startsWith('data:')) {
        // A space after the colon means nothing in JSON either.
        this.#data.push(line.slice(5));
      }
    }
    return frames;
  }
}

/** `Retry-After` in milliseconds, if it is a number of seconds. */
export function retryAfterMs(answer: Response): number | undefined {
  const seconds = Number(answer.headers.get('retry-after') || Number.NaN);
  return seconds >= 0 ? seconds * 1000 : undefined;
}

/** Opens the stream of events. fetch, not EventSource: the token goes into a header, and a refusal can be read. */
export function openEvents(request: LinkRequest, fetch: typeof globalThis.fetch): Link {
  const { events } = request;
  const abort = new AbortController();
  let opened = false;
  const end = (code: number, reason: string, afterMs?: number): void => {
    if (abort.signal.aborted) return;
    abort.abort();
    events.ended({ kind: 'sse', code, reason, opened, afterMs });
  };

  async function read(): Promise<void> {
    const url = withQuery(`${request.base.http}api/notifications/stream`, request.query);
    const headers = { accept: 'text/event-stream', authorization: `Bearer ${request.token}` };
    const answer = await fetch(url, { headers, cache: 'no-store', signal: abort.signal });
    if (!answer.ok || !answer.body) {
      const problem = (await answer.json().catch(() => null)) as { code?: string } | null;
      return end(answer.status, problem?.code ?? `status_${answer.status}`, retryAfterMs(answer));
    }
    opened = true;
    events.opened();
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    const parser = new EventParser();
    while (!abort.signal.aborted) {
      const { done, value } = await reader.read();
      if (done) return end(0, 'ended');
      events.frames(parser.push(decoder.decode(value, { stream: true })));
    }
  }

  read().catch((error: unknown) => end(0, error instanceof SyntaxError ? 'bad_frame' : 'network'));
  return { kind: 'sse', send: (): boolean => false, close: (): void => abort.abort() };
}
