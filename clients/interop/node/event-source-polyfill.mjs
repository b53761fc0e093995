// Receives with event-source-polyfill, which reconnects by itself.

import './page.mjs';
import polyfill from 'event-source-polyfill';
import { apply, streamUrl, token } from './program.mjs';

const { EventSourcePolyfill } = polyfill;

// docs: begin
const source = new EventSourcePolyfill(streamUrl, { headers: { authorization: `Bearer ${token}` } });
source.onmessage = (event) => apply(JSON.parse(event.data));
// docs: end
