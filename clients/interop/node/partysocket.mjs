// Receives with partysocket, which reconnects by itself.

import { WebSocket as ReconnectingWebSocket } from 'partysocket';
import { apply, isFinal, socketUrl, token } from './program.mjs';

// docs: begin
let place = ''; // the address changes with each connect
const socket = new ReconnectingWebSocket(() => socketUrl + place, ['recado.v1', `recado.bearer.${token}`]);
let logId;
socket.onmessage = (message) => {
  const frame = JSON.parse(message.data);
  if (frame.type === 'connection_established') logId = frame.log_id;
  if (frame.title === undefined) return; // no notification
  apply(frame);
  place = `&since=${frame.seq}&log_id=${logId}`;
  socket.send(JSON.stringify({ type: 'ack', seq: frame.seq }));
};
socket.onclose = (event) => isFinal(event.code) && socket.close();
// docs: end
