// Gives the commands of one tab or one program, as an application does that keeps them until it knows their results.
import { report } from './report.mjs';

/** Pause before a command without a result is repeated. */
const AGAIN_MS = 500;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Gives one command after the other. A command without a known result is repeated under its id, by the client that is
 * there then: the one that sent it may be gone. `untold` are commands that the program gave before it was killed.
 */
export async function giveCommands({ slot, prefix, untold, client, rest, stays, random }) {
  const settle = async (id) => {
    while (!(await client()?.command(id))) await sleep(AGAIN_MS);
  };
  for (const id of untold) await settle(id);
  for (let n = 1; ; n++) {
    await rest(2_000 + random() * 5_000);
    if (stays()) return;
    const id = `${prefix}-${n}`;
    report({ say: 'command', device: slot, id });
    await settle(id);
  }
}
