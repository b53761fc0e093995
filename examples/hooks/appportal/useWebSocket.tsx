// Replaces src/hooks/useWebSocket.tsx of AppPortal (Next.js).
'use client';

import { type UseWebSocket, type UseWebSocketOptions, useWebSocket as useHub } from '@recado/client/compat';

export type { UseWebSocketOptions, WebSocketMessage } from '@recado/client/compat';

/** Without the variable: the hub that took the place of AvAdmin's WebSocket server. */
const WS_URL: string = process.env.NEXT_PUBLIC_WS_URL || 'wss://avadmin.avelarcompany.com.br/ws';

/** The old hook: the page's token, `onMessage` for each message, and the state of the connection. */
export function useWebSocket(options: UseWebSocketOptions): UseWebSocket {
  return useHub({ url: WS_URL, ...options });
}

export default useWebSocket;
