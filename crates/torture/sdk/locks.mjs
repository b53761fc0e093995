// Grants Web Locks to the worker threads of this process, as a browser grants them to its tabs.
//
// Node has them from version 24 on, but a lock of a thread that was terminated stays taken there. In a browser it is
// free, and this is what the SDK relies on when a tab dies.

const aborted = () => new DOMException('the request was aborted, or the lock was stolen', 'AbortError');

/** The main thread's half: who holds each lock, and who waits. */
export class LockManager {
  #locks = new Map();

  /** Takes a word of a worker. `tab` has `postMessage`. */
  hear(tab, { lock, name, id, steal }) {
    const state = this.#locks.get(name) ?? { name, holder: null, queue: [] };
    this.#locks.set(name, state);
    const isIt = (one) => one !== null && one.tab === tab && one.id === id;
    if (lock === 'release') {
      if (isIt(state.holder)) this.#next(state);
    } else if (lock === 'abort') {
      state.queue = state.queue.filter((one) => !isIt(one));
    } else if (steal) {
      state.holder?.tab.postMessage({ lock: 'stolen', id: state.holder.id });
      state.holder = { tab, id };
      tab.postMessage({ lock: 'granted', name, id });
    } else {
      state.queue.push({ tab, id });
      if (state.holder === null) this.#next(state);
    }
  }

  /** A tab has ended: its locks are free, its requests are gone. */
  gone(tab) {
    for (const state of this.#locks.values()) {
      state.queue = state.queue.filter((one) => one.tab !== tab);
      if (state.holder?.tab === tab) this.#next(state);
    }
  }

  #next(state) {
    state.holder = state.queue.shift() ?? null;
    state.holder?.tab.postMessage({ lock: 'granted', name: state.name, id: state.holder.id });
  }
}

/** A worker's half: `navigator.locks` with what the SDK uses of it. */
export class TabLocks {
  #port;
  #requests = new Map();
  #count = 0;

  constructor(port) {
    this.#port = port;
  }

  request(name, options, callback) {
    const id = ++this.#count;
    const { signal, steal = false } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(aborted());
      let isGranted = false;
      const granted = () => {
        isGranted = true;
        const release = () => {
          this.#requests.delete(id);
          this.#port.postMessage({ lock: 'release', name, id });
        };
        Promise.resolve().then(callback).finally(release).then(resolve, reject);
      };
      this.#requests.set(id, { granted, stolen: () => reject(aborted()) });
      signal?.addEventListener('abort', () => {
        if (isGranted) return;
        this.#requests.delete(id);
        this.#port.postMessage({ lock: 'abort', name, id });
        reject(aborted());
      });
      this.#port.postMessage({ lock: 'request', name, id, steal });
    });
  }

  /** Takes a word of the main thread. */
  hear({ lock, name, id }) {
    const request = this.#requests.get(id);
    // The grant crossed the abort of the request: the main thread must not wait for its release.
    if (!request) {
      if (lock === 'granted') this.#port.postMessage({ lock: 'release', name, id });
    } else if (lock === 'granted') {
      request.granted();
    } else {
      request.stolen();
    }
  }
}
