// Replaces frontend/src/hooks/useWebSocket.tsx of AvAdmin (Next.js).
'use client';

import { type UseWebSocket, type UseWebSocketOptions, useWebSocket as useHub } from '@recado/client/compat';

export type { UseWebSocketOptions, WebSocketMessage } from '@recado/client/compat';

/** Without the variable: `/ws` of the page's own host. */
const WS_URL: string | undefined = process.env.NEXT_PUBLIC_WS_URL || undefined;

/** The old hook: the page's token, `onMessage` for each message, and the state of the connection. */
export function useWebSocket(options: UseWebSocketOptions): UseWebSocket {
  return useHub({ url: WS_URL, ...options });
}

export default useWebSocket;
