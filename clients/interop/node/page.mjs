// Makes the globals of a page, for libraries that expect a browser.

import { JSDOM } from 'jsdom';

const { window } = new JSDOM('<!doctype html><div id="root"></div>', { url: 'http://localhost:3000/' });
// jsdom has neither; a browser's are the same as Node's.
Object.assign(window, { fetch, Response, WebSocket });
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: false });
