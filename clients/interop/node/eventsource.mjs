// Receives with the package eventsource, which reconnects by itself.

import { EventSource } from 'eventsource';
import { apply, streamUrl, token } from './program.mjs';

// docs: begin
const source = new EventSource(streamUrl, {
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } }),
});
source.onmessage = (event) => apply(JSON.parse(event.data));
// docs: end
