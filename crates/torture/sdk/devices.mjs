// Runs the devices of a torture run that use the TypeScript SDK: tabs of browsers, and Node programs.
//
// The first line of stdin is the plan; the line {"do":"stay"} says that no client leaves any more. Facts go to stdout,
// one JSON line each (report.mjs). The program ends with its stdin. It may be killed at any time and started again with
// the next `run` number; the plan then lists the commands whose results no application knows yet.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { Worker } from 'node:worker_threads';
import { giveCommands } from './commands.mjs';
import { LockManager } from './locks.mjs';
import { randomOf, report } from './report.mjs';

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const plan = JSON.parse((await lines.next()).value);
const locks = new LockManager();
/** A proxy that lets no upgrade through, for the devices that have to fall back to SSE. */
const refusing = createServer();
refusing.on('upgrade', (_, socket) => {
  socket.on('error', () => {});
  socket.end('HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
});
await new Promise((resolve) => refusing.listen(0, '127.0.0.1', resolve));

let clients = 0;
let stays = false;
const staying = new Set();
/** The clients that run, by their device. */
const open = new Map();

/** Waits for so many milliseconds, or until no client leaves any more. */
function rest(ms) {
  if (stays) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      staying.delete(done);
      resolve();
    }
    staying.add(done);
  });
}

/** One client: a tab from its start to its end. */
class Client {
  leads = false;
  /** What waits for the outcome of each command. */
  #attempts = new Map();
  #worker;
  #closed;
  #isClosed = new Promise((resolve) => {
    this.#closed = resolve;
  });

  constructor(device, slot, seed) {
    this.number = ++clients;
    this.device = device;
    this.name = slot;
    report({ say: 'try', device: slot });
    report({ say: 'client', client: this.number, device: slot });
    const { sdk, hubs, mutant } = plan;
    const workerData = { sdk, hubs, mutant, refusing: `127.0.0.1:${refusing.address().port}`, device, client: this.number, seed };
    this.#worker = new Worker(new URL('./client.mjs', import.meta.url), { workerData });
    this.#worker.on('message', (word) => {
      if (word.lock) locks.hear(this.#worker, word);
      if (word.leads !== undefined) this.leads = word.leads;
      if (word.closed) this.#closed();
      if (word.command) this.#attempts.get(word.command)?.(word.isSettled);
    });
    this.ended = new Promise((resolve) => this.#worker.on('exit', resolve));
    // An error of the program, not of the SDK, which catches what handlers throw.
    this.#worker.on('error', (error) => report({ say: 'bad', client: this.number, what: `thread: ${error.stack ?? error}`.slice(0, 1_000) }));
    open.set(this.number, this);
  }

  tell(word) {
    this.#worker.postMessage(word);
  }

  /** Lets the application send a command. Resolves to whether its result is known then. */
  async command(id) {
    const outcome = new Promise((resolve) => this.#attempts.set(id, resolve));
    this.tell({ do: 'command', id });
    const isSettled = await Promise.race([outcome, this.ended.then(() => false)]);
    this.#attempts.delete(id);
    return isSettled;
  }

  async #gone(why) {
    await this.ended;
    open.delete(this.number);
    report({ say: 'close', client: this.number, device: this.name, why });
    locks.gone(this.#worker);
  }

  /** Ends without a word, like a tab whose process is killed. */
  async crash() {
    await this.#worker.terminate();
    await this.#gone('killed');
  }

  /** Lets the application close its client, or lets the page only notice that it is being closed. */
  async close(how) {
    this.tell({ do: how });
    await Promise.race([this.#isClosed, this.ended, new Promise((resolve) => setTimeout(resolve, 1_000))]);
    await this.#worker.terminate();
    await this.#gone(how);
  }
}

const otherTabs = (client) => [...open.values()].filter((one) => one !== client && one.device === client.device);

/** Runs the clients of one tab, or of one program, one after the other. */
async function live(device, slot, seed) {
  const random = randomOf(seed);
  // The tabs of a browser do not open at once.
  await rest(random() * 500);
  for (;;) {
    const client = new Client(device, slot, Math.floor(random() * 2 ** 32));
    let isThere = true;
    while (isThere) {
      await rest(3_000 + random() * 8_000);
      if (stays) return;
      const draw = random();
      if (draw < 0.3) {
        await client.crash();
        isThere = false;
      } else if (draw < 0.55) {
        await client.close(device.tabs > 0 && random() < 0.5 ? 'hide' : 'close');
        isThere = false;
      } else if (device.tabs > 0) {
        await disturb(client, random);
      } else if (draw < 0.8) {
        client.tell({ do: 'again', ms: Math.floor(random() * 800) });
      }
    }
    await rest(random() * 800);
  }
}

/** A tab is shown to its user, or the one that leads stands still and another one is shown. */
async function disturb(client, random) {
  const others = otherTabs(client);
  if (!client.leads || others.length === 0 || random() < 0.4) return client.tell({ do: 'focus' });
  const ms = Math.floor(1_500 + random() * 2_500);
  client.tell({ do: 'stand still', ms });
  await rest(400);
  const other = others[Math.floor(random() * others.length)];
  if (open.has(other.number)) other.tell({ do: 'focus' });
  await rest(ms);
}

for (const [number, device] of plan.devices.entries()) {
  for (let tab = 0; tab < Math.max(1, device.tabs); tab++) {
    const slot = device.tabs > 0 ? `${device.name}.t${tab}` : device.name;
    // Another run has other chances: the same ones would kill and leave at the same moments again.
    const seed = (plan.seed * 1_000_003 + plan.run * 10_007 + number * 100 + tab) >>> 0;
    live(device, slot, seed);
    if (!device.commands) continue;
    const prefix = `${slot.replaceAll(/[^\w-]/g, '-')}-${plan.run}`;
    const client = () => [...open.values()].find((one) => one.name === slot);
    giveCommands({ slot, prefix, untold: device.untold[slot] ?? [], client, rest, stays: () => stays, random: randomOf(seed + 50) });
  }
}
for await (const line of lines) {
  if (JSON.parse(line).do === 'stay') {
    stays = true;
    for (const done of [...staying]) done();
  }
}
process.exit(0);
