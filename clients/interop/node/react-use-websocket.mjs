// Receives with the hook of react-use-websocket, which reconnects by itself.

import './page.mjs';
import { createElement, useCallback, useRef } from 'react';
import { createRoot } from 'react-dom/client';
import hook from 'react-use-websocket';
import { apply, isFinal, socketUrl, token } from './program.mjs';

// The package is CommonJS; a bundler gives its default export the same name.
const useWebSocket = hook.default;

// docs: begin
function useNotifications(apply) {
  const place = useRef({ query: '' });
  const address = useCallback(() => socketUrl + place.current.query, []); // another function would reconnect
  const { sendJsonMessage } = useWebSocket(address, {
    protocols: ['recado.v1', `recado.bearer.${token}`],
    onMessage(message) {
      const frame = JSON.parse(message.data);
      if (frame.type === 'connection_established') place.current.logId = frame.log_id;
      if (frame.title === undefined) return; // no notification
      apply(frame);
      place.current.query = `&since=${frame.seq}&log_id=${place.current.logId}`;
      sendJsonMessage({ type: 'ack', seq: frame.seq });
    },
    shouldReconnect: (event) => !isFinal(event.code),
    reconnectAttempts: Infinity,
  });
}
// docs: end

function Page() {
  useNotifications(apply);
  return null;
}
createRoot(document.getElementById('root')).render(createElement(Page));
