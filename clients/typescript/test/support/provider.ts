// Runs a provider of a hub: an HTTP sign-in, and a WebSocket for each session.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type WebSocket, WebSocketServer } from 'ws';

export class Provider {
  /** What hubs sent for a user, oldest first. */
  readonly #heard: { user: string; frame: unknown }[] = [];
  /** Users that signed in, oldest first. */
  readonly signedIn: string[] = [];
  readonly #folder = mkdtempSync(join(tmpdir(), 'recado-provider-'));
  readonly #server: Server;
  readonly #sockets = new Map<string, WebSocket>();
  readonly #accept = new WebSocketServer({ noServer: true });

  private constructor() {
    this.#server = createServer((request, response) => {
      let body = '';
      request.on('data', (piece) => {
        body += piece;
      });
      request.on('end', () => {
        const { user } = JSON.parse(body) as { user: string };
        this.signedIn.push(user);
        response.setHeader('content-type', 'application/json');
        response.end(JSON.stringify({ session: `session-of-${user}` }));
      });
    });
    this.#server.on('upgrade', (request, socket, head) => {
      const user = new URL(request.url ?? '', 'http://localhost').searchParams.get('session')?.slice(11) ?? '';
      this.#accept.handleUpgrade(request, socket, head, (accepted) => {
        this.#sockets.set(user, accepted);
        accepted.on('message', (text) => void this.#heard.push({ user, frame: JSON.parse(String(text)) }));
        accepted.on('close', () => this.#sockets.get(user) === accepted && this.#sockets.delete(user));
      });
    });
  }

  static async start(): Promise<Provider> {
    const provider = new Provider();
    await new Promise<void>((resolve) => provider.#server.listen(0, '127.0.0.1', resolve));
    const host = `127.0.0.1:${(provider.#server.address() as AddressInfo).port}`;
    writeFileSync(
      provider.file,
      `[[provider]]
name = "games"
hosts = ["${host}"]
insecure = true
[provider.sign_in]
url = "http://${host}/sign-in"
body = '{"user":"{user_id}"}'
session = "/session"
[provider.socket]
url = "ws://${host}/socket?session={session}"
[provider.messages]
type = "game-data"
[provider.commands]
types = ["bet"]
[provider.backoff]
first = "100ms"
most = "500ms"
[provider.texts]
connected = "at the table"
`,
    );
    return provider;
  }

  /** The file that RECADO_UPSTREAM_FILE names. */
  get file(): string {
    return join(this.#folder, 'providers.toml');
  }

  heardFrom(user: string): unknown[] {
    return this.#heard.filter((one) => one.user === user).map(({ frame }) => frame);
  }

  isConnected(user: string): boolean {
    return this.#sockets.has(user);
  }

  /** Sends a message to the hub that holds the user's session. */
  say(user: string, text: string): void {
    this.#sockets.get(user)?.send(text);
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets.values()) socket.terminate();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
