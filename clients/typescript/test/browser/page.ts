// Runs in a page of the tab tests: makes a client and records what its listeners see.

import { RecadoClient } from '../../src/index.ts';

const at = new URL(location.href).searchParams;
const seen = {
  seqs: [] as number[],
  times: [] as number[],
  gaps: [] as object[],
  errors: [] as string[],
  states: [] as string[],
};
const client = new RecadoClient({
  url: at.get('hub') as string,
  getToken: () => at.get('token') as string,
  ...(at.has('own') ? { tabs: 'own' } : {}),
  ...(at.has('types') ? { types: at.get('types')!.split(' ') } : {}),
  ...(at.has('inbox') ? { inbox: true } : {}),
  ...(at.has('manual') ? { ack: 'manual', ackDelayMs: 20 } : {}),
  transport: (at.get('transport') ?? 'auto') as 'auto',
});
client.on('notification', (n) => {
  seen.seqs.push(n.seq);
  seen.times.push(Date.now());
});
client.on('gap', (gap) => void seen.gaps.push(gap));
client.on('error', (error) => void seen.errors.push(`${error.code}: ${error.message}`));
client.subscribe(() => void seen.states.push(`${client.snapshot().state} ${client.snapshot().isLeader}`));
client.connect();
Object.assign(window, { client, seen });
