// Stands between client and hub as a TCP proxy that a test can stall, cut, or let change bytes.

import { connect, createServer, type Server, type Socket } from 'node:net';
import { freePort } from './hub.ts';

/** Looks at a piece from the hub; returns what goes on to the client, or null to swallow it. */
export type Rewrite = (piece: Buffer) => Buffer | null;

export class TestProxy {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly port: number;
  /** While true, nothing passes in either direction, and no connection ends. */
  isBlackHole = false;
  /** While true, a WebSocket upgrade is answered with 502. */
  refusesUpgrades = false;
  /** Upgrades that were asked for. */
  upgrades = 0;
  /** Requests that passed, as their first lines. */
  readonly requests: string[] = [];
  rewrite: Rewrite = (piece) => piece;

  private constructor(port: number, target: number) {
    this.port = port;
    this.#server = createServer((client) => this.#accept(client, target));
  }

  static async to(target: number): Promise<TestProxy> {
    const proxy = new TestProxy(await freePort(), target);
    await new Promise<void>((resolve) => proxy.#server.listen(proxy.port, '127.0.0.1', resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  #accept(client: Socket, target: number): void {
    const hub = connect(target, '127.0.0.1');
    for (const [from, other] of [
      [client, hub],
      [hub, client],
    ] as const) {
      this.#sockets.add(from);
      from.on('error', () => other.destroy());
      from.on('close', () => {
        this.#sockets.delete(from);
        other.destroy();
      });
    }
    client.on('data', (piece) => {
      const text = piece.toString('latin1');
      if (/^(GET|POST) /.test(text)) this.requests.push(text.split('\r\n')[0] as string);
      const upgrades = /\r\nupgrade: websocket/i.test(text);
      if (upgrades) this.upgrades++;
      if (upgrades && this.refusesUpgrades) {
        client.end('HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
      } else if (!this.isBlackHole) {
        hub.write(piece);
      }
    });
    hub.on('data', (piece) => {
      const passed = this.isBlackHole ? null : this.rewrite(piece);
      if (passed) client.write(passed);
    });
  }

  /** Resets every open connection. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
