// Receives with the package eventsource, which reconnects by itself.

import { EventSource } from 'eventsource';
import { apply, streamUrl, token } from './program.mjs';

// docs: begin
const withToken = (url, init) => fetch(url, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } });
const source = new EventSource(streamUrl, { fetch: withToken });
source.onmessage = (event) => apply(JSON.parse(event.data));
// docs: end
