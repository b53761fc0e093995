import { type Context as ContextOf } from 'react';
import type { RecadoClient } from './client.js';
/** Set by `RecadoProvider`. */
export declare const Context: ContextOf<RecadoClient | null>;
/** The client of the nearest provider. Throws without one. */
export declare function useRecado(): RecadoClient;
