// Waits for the results of commands that this page sent. Never repeats a command.

import { RecadoError } from './errors.ts';
import type { CommandResult } from './frames.ts';

/** Commands of this page whose results are not known. */
export class Commands {
  readonly #waiting = new Map<string, (outcome: CommandResult | RecadoError) => void>();

  /** Waits for the result of the command with this id. Throws if one with this id waits already. */
  wait(id: string, timeoutMs: number): Promise<CommandResult> {
    if (this.#waiting.has(id)) throw new RecadoError('command_id_conflict', `command ${id} waits for its result`);
    return new Promise((resolve, reject) => {
      const late = new RecadoError('timeout', `no result within ${timeoutMs} ms; it may have been sent`, {
        retryable: true,
      });
      const timer = setTimeout(() => this.settle(id, late), timeoutMs);
      this.#waiting.set(id, (outcome) => {
        clearTimeout(timer);
        if (outcome instanceof RecadoError) reject(outcome);
        else resolve(outcome);
      });
    });
  }

  /** A result arrived, or the command was refused. One that is not waited for any more is dropped. */
  settle(id: string, outcome: CommandResult | RecadoError): void {
    const settle = this.#waiting.get(id);
    this.#waiting.delete(id);
    settle?.(outcome);
  }

  /** The client closes. */
  refuseAll(error: RecadoError): void {
    for (const id of this.#waiting.keys()) this.settle(id, error);
  }
}

/** A random id, also on insecure pages, where `crypto.randomUUID` is missing. */
export function randomId(): string {
  return crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-');
}
