// Replaces src/hooks/useMegaRouletteWebSocket.ts of HoodX (Next.js).
'use client';

import { type ConnectionStatus, type UseProviderWebSocketOptions, useProviderWebSocket } from '@recado/client/compat';
import { useEffect, useRef } from 'react';

const WS_URL: string =
  process.env.NODE_ENV === 'production' ? 'wss://hoodx-websocket.fly.dev:8443' : 'ws://localhost:8080';

export type LogKind = 'info' | 'success' | 'error';

export interface UseMegaRouletteWebSocketOptions
  extends Omit<UseProviderWebSocketOptions, 'token' | 'onData' | 'onStatus' | 'onError'> {
  /** The signed-in user. Without one nothing is opened. */
  userId: string | null | undefined;
  /** The user's token from your backend. The old service believed `userId`; the hub does not. */
  token: UseProviderWebSocketOptions['token'];
  addLog: (text: string, kind: LogKind) => void;
  /** Receives the provider's text of each message, once, in order. */
  processGameData: (data: string) => void;
}

export interface UseMegaRouletteWebSocket {
  isConnected: boolean;
  connectionStatus: ConnectionStatus;
  /** Connects anew at once. The hook connects by itself. */
  connectWebSocket: () => void;
  disconnect: () => void;
  /** Sends a bet now, at most once; false if the page is not connected. */
  sendBet: (payload: unknown) => boolean;
}

const LOGS: Record<ConnectionStatus, readonly [text: string, kind: LogKind]> = {
  connecting: ['🔌 Conectando ao serviço WebSocket...', 'info'],
  connected: ['✅ Conectado ao serviço WebSocket', 'success'],
  disconnected: ['❌ Conexão WebSocket fechada', 'error'],
  error: ['❌ Erro WebSocket: a conexão foi recusada', 'error'],
};

/** The old hook: game data, the log of the page, and the state of the connection. */
export function useMegaRouletteWebSocket(options: UseMegaRouletteWebSocketOptions): UseMegaRouletteWebSocket {
  const { userId, addLog, processGameData, ...rest } = options;
  const { isConnected, connectionStatus, reconnect, disconnect, sendMessage } = useProviderWebSocket({
    url: WS_URL,
    ...rest,
    enabled: Boolean(userId) && rest.enabled !== false,
    onData: processGameData,
    onStatus: ({ status, message }) => addLog(`📡 ${message}`, status === 'connected' ? 'success' : 'info'),
    onError: (message) => addLog(`❌ ${message}`, 'error'),
  });
  const before = useRef<ConnectionStatus>('disconnected');
  useEffect(() => {
    if (before.current === connectionStatus) return;
    before.current = connectionStatus;
    addLog(...LOGS[connectionStatus]);
  }, [connectionStatus]);
  return {
    isConnected,
    connectionStatus,
    connectWebSocket: reconnect,
    disconnect,
    sendBet: (payload) => sendMessage({ type: 'bet', payload }),
  };
}

export default useMegaRouletteWebSocket;
