// Keeps named timers: a name has at most one.

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
