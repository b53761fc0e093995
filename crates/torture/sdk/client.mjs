// Runs one client of the SDK, a tab or a Node program, and reports what the handlers of its application see.
import { parentPort, workerData } from 'node:worker_threads';
import { TabLocks } from './locks.mjs';
import { hashOf, randomOf, report } from './report.mjs';

const { device, hubs, client: clientNumber, mutant } = workerData;
const random = randomOf(workerData.seed);
const rest = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Errors that an application may be told of here: those of its own handlers. */
const EXPECTED = ['handler_failed'];
/** Longest wait for the result of a command. */
const COMMAND_MS = 5_000;
/** Refusals of a command that leave its result open. */
const UNSETTLED = ['timeout', 'closed'];

// A tab has a page: the SDK listens to its events, and to Web Locks.
const locks = new TabLocks(parentPort);
if (device.tabs > 0) {
  globalThis.window = new EventTarget();
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  Object.defineProperty(globalThis, 'navigator', { value: { locks }, configurable: true });
}

let links = 0;
/** Reports a connection to a hub. Returns the function that reports its end, once. */
function linked(transport, hub, address) {
  const link = clientNumber * 1_000_000 + ++links;
  const since = Number(new URL(address).searchParams.get('since'));
  report({ say: 'link', link, client: clientNumber, hub, transport, since: Number.isInteger(since) ? since : null });
  let isOpen = true;
  return () => {
    if (isOpen) report({ say: 'unlink', link });
    isOpen = false;
  };
}

/** The address at a hub that chance chooses, as a load balancer does. */
function balanced(address) {
  const hub = Math.floor(random() * hubs.length);
  const at = new URL(address);
  at.host = hubs[hub];
  if (!device.upgrades && at.protocol === 'ws:') at.host = workerData.refusing;
  return { hub, at };
}

class BalancedSocket extends WebSocket {
  #ended;

  constructor(address, protocols) {
    const { hub, at } = balanced(address);
    super(at, protocols);
    this.#ended = linked('websocket', hub, address);
    this.addEventListener('close', this.#ended);
  }

  send(text) {
    const frame = JSON.parse(text);
    if (frame.type === 'ack') report({ say: 'ack', client: clientNumber, seq: frame.seq });
    if (frame.type === 'bet') report({ say: 'frame', id: frame.id });
    super.send(text);
  }

  close(...why) {
    this.#ended();
    super.close(...why);
  }
}

/** The SDK aborts the signal of a stream when the stream ends, whoever ended it. */
async function balancedFetch(address, init) {
  const { hub, at } = balanced(address);
  if (at.pathname.endsWith('/stream')) {
    init.signal.addEventListener('abort', linked('sse', hub, address));
    return fetch(at, init);
  }
  report({ say: 'ack', client: clientNumber, seq: JSON.parse(init.body).seq });
  const answer = await fetch(at, init);
  if (answer.status === 200) {
    const { acked } = await answer.clone().json();
    report({ say: 'acked', client: clientNumber, seq: acked });
  }
  return answer;
}

const bad = (what) => report({ say: 'bad', client: clientNumber, what: String(what).slice(0, 1_000) });

const { RecadoClient } = await import(workerData.sdk);
const client = new RecadoClient({
  url: `http://${hubs[0]}`,
  getToken: () => device.token,
  clientId: device.client_id,
  tabs: device.tabs > 0 && mutant !== 'own-tabs' ? 'share' : 'own',
  ack: device.style === 'manual' ? 'manual' : 'auto',
  transport: device.transport,
  backoff: { minMs: 100, maxMs: 1_500 },
  WebSocket: BalancedSocket,
  fetch: balancedFetch,
  logger: { debug: () => {}, warn: () => {}, error: () => {} },
});

/** Sends a command. Returns whether its result is known; if not, the application repeats it under its id. */
async function command(id) {
  report({ say: 'tried', id });
  try {
    const { status, detail } = await client.send({ type: 'bet', payload: id }, { id, timeoutMs: COMMAND_MS });
    // The hub does not know whether it has stored the command.
    if (detail === 'not_stored_for_sure') return false;
    report({ say: 'told', id, status });
    return true;
  } catch (error) {
    if (error.code === 'unsupported' && device.transport === 'sse') {
      report({ say: 'refused', id });
      return true;
    }
    if (!UNSETTLED.includes(error.code)) bad(`the SDK refuses the command ${id}: ${error.code}: ${error.message}`);
    return false;
  }
}

let isOpen = false;
/** Last number that the application knows to have passed. */
let passed = -1;

/** Reports where the client begins, as soon as it knows. `before` is a number that it has passed already. */
function began(before = client.seq) {
  if (isOpen || before === null) return;
  isOpen = true;
  passed = before;
  report({ say: 'open', client: clientNumber, from: before });
}

function pass(seq) {
  began();
  if (!isOpen || seq <= passed) return;
  passed = seq;
  report({ say: 'pass', client: clientNumber, seq });
}

/** Reports what a handler was given. `handled`: it has finished with it already. */
function received(n, handled) {
  // The number in between were none of this user's, or a heartbeat.
  began(n.prev);
  passed = n.seq;
  const known = { seq: n.seq, id: n.id, hash: hashOf(n), taint: n.type === 'upstream_gap' ? '*' : (n.data?.taint ?? 'none') };
  report({ say: 'recv', client: clientNumber, ...known, prev: n.prev ?? -1, handled });
}

const handled = (seq) => report({ say: 'handled', client: clientNumber, seq });

/** The work of a handler: mostly none, sometimes some milliseconds, now and then a failure. */
function work(n) {
  if (mutant === 'drop' && n.seq % 10 === 0) return undefined;
  const draw = random();
  const isSlow = draw < (mutant === 'early-ack' ? 0.5 : 0.1);
  received(n, !isSlow);
  if (mutant === 'twice' && n.seq % 10 === 0) received(n, true);
  if (draw > 0.99) throw new Error('a handler of the torture run fails on purpose');
  if (!isSlow) return undefined;
  const working = rest(random() * (mutant === 'early-ack' ? 400 : 60)).then(() => handled(n.seq));
  return mutant === 'early-ack' ? undefined : working;
}

/** Last number that waits for a loop, and the last that the loop has finished with. */
let waiting = 0;
let looped = 0;

/** An application that reads its notifications in a loop. */
async function loop() {
  for await (const n of client.notifications()) {
    received(n, false);
    if (random() < 0.05) await rest(random() * 20);
    handled(n.seq);
    looped = n.seq;
  }
}

/** An application that acknowledges by itself: its work, and the highest number up to which it is done. */
let working = Promise.resolve();
let manual = 0;

if (device.style === 'loop') {
  client.on('notification', (n) => void (waiting = n.seq));
} else if (device.style === 'manual') {
  client.on('notification', (n) => {
    received(n, false);
    // One after the other: an acknowledgement covers all numbers below.
    working = working
      .then(() => rest(random() * 4))
      .then(() => {
        handled(n.seq);
        manual = n.seq;
      });
    return working;
  });
} else {
  client.on('notification', work);
}
client.on('caughtUp', ({ seq }) => device.style !== 'loop' && pass(seq));
client.on('gap', (gap) => report({ say: 'gap', client: clientNumber, ...gap }));
client.on('error', (error) => {
  if (!EXPECTED.includes(error.code)) bad(`the SDK reports ${error.code}: ${error.message}`);
});
let isLeader = false;
client.subscribe(() => {
  began();
  const { state, reason, isLeader: leads } = client.snapshot();
  if (state === 'failed' || state === 'unauthorized') bad(`the client is ${state}: ${reason}`);
  if (leads !== isLeader) {
    isLeader = leads;
    parentPort.postMessage({ leads });
    if (leads && device.tabs > 0) report({ say: 'leads', client: clientNumber });
  }
});
setInterval(() => {
  if (device.style !== 'loop' || waiting === looped) pass(client.seq ?? -1);
  if (manual > 0) client.ack(manual);
}, 200);

parentPort.on('message', async (word) => {
  if (word.lock) return locks.hear(word);
  if (word.do === 'command') {
    parentPort.postMessage({ command: word.id, isSettled: await command(word.id) });
  } else if (word.do === 'close') {
    client.close();
    // The last acknowledgement and the goodbye of the socket are on their way.
    await rest(50);
    parentPort.postMessage({ closed: true });
  } else if (word.do === 'again') {
    client.close();
    await rest(word.ms);
    connect();
  } else if (word.do === 'hide') {
    window.dispatchEvent(Object.assign(new Event('pagehide'), { persisted: false }));
    parentPort.postMessage({ closed: true });
  } else if (word.do === 'focus') {
    window.dispatchEvent(new Event('focus'));
  } else if (word.do === 'stand still') {
    report({ say: 'stuck', client: clientNumber, ms: word.ms });
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, word.ms);
  }
});

function connect() {
  client.connect();
  if (device.style === 'loop') loop().catch(bad);
}
connect();
