// Connects to the hub by WebSocket.

import { parseFrames, type ServerFrame } from './frames.ts';
import { type Link, type LinkRequest, withQuery } from './transport.ts';

/**
 * Opens a WebSocket. The token goes into the subprotocol list: a browser cannot set headers, and addresses are logged.
 * Throws what the constructor throws, for example for an insecure address on a secure page.
 */
export function openSocket(request: LinkRequest, Socket: typeof WebSocket): Link {
  const { events } = request;
  const query = { ...request.query, ack: 'client', frames: 'lines' };
  const socket = new Socket(withQuery(`${request.base.ws}ws`, query), ['recado.v1', `recado.bearer.${request.token}`]);
  let opened = false;
  let over = false;
  const end = (code: number, reason: string): void => {
    if (over) return;
    over = true;
    events.ended({ kind: 'websocket', code, reason, opened });
  };
  const close = (): void => {
    over = true;
    // `ws` reports an error if it is closed before it opened; it must have a listener then.
    socket.onerror = (): void => {};
    socket.close();
  };
  socket.onopen = (): void => {
    opened = true;
    if (!over) events.opened();
  };
  socket.onmessage = (message: MessageEvent): void => {
    if (over) return;
    let frames: ServerFrame[];
    try {
      frames = parseFrames(String(message.data));
    } catch {
      // Something on the path changed the bytes. A new connection gets them again.
      close();
      over = false;
      return end(0, 'bad_frame');
    }
    events.frames(frames);
  };
  // The close event that follows has the code. Before the socket opened there is only 1006, and Node 22 fires none.
  socket.onerror = (): void => {
    if (!opened) end(1006, '');
  };
  socket.onclose = (event: CloseEvent): void => end(event.code, event.reason);
  return {
    kind: 'websocket',
    close,
    send: (frame): boolean => {
      if (socket.readyState !== 1) return false;
      socket.send(JSON.stringify(frame));
      return true;
    },
  };
}
