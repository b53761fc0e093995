// A provider that is not ours: the JSON-RPC server of the npm package rpc-websockets, on loopback. Run by
// tests/suite/upstream_real.rs: node provider.cjs FOLDER PORT, where FOLDER has the package installed; PORT 0: any.
// It prints a JSON line for what happens to it, and each line of stdin becomes the event `gameResult`.
const path = require('node:path');
const { Server } = require(path.join(process.argv[2], 'node_modules', 'rpc-websockets'));

const tell = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const server = new Server({ host: '127.0.0.1', port: Number(process.argv[3]) });
let bets = 0;

server.on('listening', () => tell({ port: server.wss.address().port }));
server.on('connection', (_socket, request) => tell({ connected: request.url }));
server.on('disconnection', () => tell({ disconnected: true }));
server.event('gameResult');
server.register('protocol/v1/ping', ({ time }) => {
  tell({ ping: Number(time), late: Date.now() - Number(time) });
  return 'pong';
});
server.register('bet', (bet) => {
  tell({ bet });
  return { taken: ++bets, chip: bet.chip };
});
require('node:readline')
  .createInterface({ input: process.stdin })
  .on('line', (line) => server.emit('gameResult', JSON.parse(line)))
  .on('close', () => process.exit(0));
