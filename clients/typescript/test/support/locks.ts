// Fakes Web Locks, so that several clients of one process are the tabs of one browser.

type Callback = () => Promise<void> | undefined;
interface Request {
  run(): void;
  refuse(error: Error): void;
}

const aborted = (): Error => new DOMException('aborted or stolen', 'AbortError');

/** Locks of one name. */
export class FakeLocks {
  /** Requests that were ever made. */
  requests = 0;
  /** Refuses each request, as a browser does in a frame without storage. */
  refusal: Error | null = null;
  #holder: Request | null = null;
  #queue: Request[] = [];

  request(_: string, options: { signal?: AbortSignal; steal?: boolean }, callback: Callback): Promise<void> {
    this.requests++;
    if (this.refusal) return Promise.reject(this.refusal);
    return new Promise((resolve, reject) => {
      const request: Request = {
        run: () => {
          this.#holder = request;
          const done = Promise.resolve().then(callback).then(resolve, reject);
          void done.then(() => this.#holder === request && this.#next());
        },
        refuse: reject,
      };
      if (options.steal) {
        this.#holder?.refuse(aborted());
        request.run();
      } else if (this.#holder) {
        this.#queue.push(request);
        options.signal?.addEventListener('abort', () => {
          this.#queue = this.#queue.filter((one) => one !== request);
          reject(aborted());
        });
      } else {
        request.run();
      }
    });
  }

  #next(): void {
    this.#holder = null;
    this.#queue.shift()?.run();
  }
}
