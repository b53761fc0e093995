// Keeps named timers, of which a name has at most one, and paces calls.

/** Timers by their names. */
export class Timers<Name extends string> {
  readonly #set = new Map<Name, ReturnType<typeof setTimeout>>();

  /** Sets a timer of this name, in place of the one before. */
  after(name: Name, ms: number, then: () => void): void {
    this.cancel(name);
    const run = (): void => {
      this.#set.delete(name);
      then();
    };
    this.#set.set(name, setTimeout(run, ms));
  }

  has(name: Name): boolean {
    return this.#set.has(name);
  }

  cancel(name: Name): void {
    clearTimeout(this.#set.get(name));
    this.#set.delete(name);
  }

  /** Cancels all. */
  clear(): void {
    for (const timer of this.#set.values()) clearTimeout(timer);
    this.#set.clear();
  }
}

/** One frame of a screen. */
const PACE_MS = 16;

/** A function that calls `then` at once, and while it is called more often, once in 16 ms. The last call is never lost. */
export function paced(then: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isDue = false;
  return function call(): void {
    isDue = true;
    if (timer !== undefined) return;
    timer = setTimeout(() => {
      timer = undefined;
      if (isDue) call();
    }, PACE_MS);
    isDue = false;
    then();
  };
}
