// Receives with the package ws, and reconnects by hand.

import WebSocket from 'ws';
import { apply, isFinal, socketUrl, token } from './program.mjs';

// docs: begin
function connect() {
  const socket = new WebSocket(socketUrl, { headers: { authorization: `Bearer ${token}` } });
  socket.on('message', (text) => {
    const frame = JSON.parse(text);
    if (frame.title === undefined) return; // no notification
    apply(frame);
    socket.send(JSON.stringify({ type: 'ack', seq: frame.seq }));
  });
  socket.on('error', console.error); // close follows
  socket.on('close', (code) => isFinal(code) || setTimeout(connect, 1000));
}
connect();
// docs: end
