// Receives with @microsoft/fetch-event-source, which reconnects by itself.

import './page.mjs';
import { fetchEventSource } from '@microsoft/fetch-event-source';
import { apply, streamUrl, token } from './program.mjs';

// docs: begin
let status;
fetchEventSource(streamUrl, {
  headers: { authorization: `Bearer ${token}` },
  openWhenHidden: true,
  onopen: async (response) => ({ status } = response),
  onmessage: (event) => event.event === '' && apply(JSON.parse(event.data)),
  onclose() {
    throw new Error('the hub ended the stream'); // otherwise the library does not reconnect
  },
  onerror(error) {
    if (status >= 400 && status < 500) throw error; // needs the application; otherwise the library reconnects
  },
}).catch(console.error);
// docs: end
