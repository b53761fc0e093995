// Starts a real hub with a private database for a test file, and posts to it.

import { type ChildProcess, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SECRET = 'a secret of the tests, 32 bytes or more';
/** The system gives outgoing connections ports from here on; a hub below is never in their way. */
const EPHEMERAL = 32_768;

/** Path of the hub's program: RECADO_HUB_BIN, or a build of this repository. */
export function hubProgram(): string {
  const built = ['release', 'debug'].map((kind) =>
    fileURLToPath(new URL(`../../../../target/${kind}/recado`, import.meta.url)),
  );
  const given = process.env.RECADO_HUB_BIN;
  const found = (given ? [given] : built).find((path) => existsSync(path));
  if (!found) {
    throw new Error(`no hub program: run "cargo build" at the top of the repository, or set RECADO_HUB_BIN to one
      (looked for ${given ?? built.join(' and ')})`);
  }
  return found;
}

/** A free port below the range of outgoing connections. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * (EPHEMERAL - 20_000));
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    await new Promise((resolve) => server.close(resolve));
    if (free) return port;
  }
}

const base64 = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');

/** Signs a token of the hub. `ttl` in seconds. */
export function sign(claims: object, ttl = 3_600, secret = SECRET): string {
  const body = `${base64({ alg: 'HS256', typ: 'JWT' })}.${base64({ exp: Math.floor(Date.now() / 1000) + ttl, ...claims })}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}

/** A user's token. */
export const userToken = (user: string, ttl?: number): string => sign({ sub: user }, ttl);

export interface Posted {
  seq: number;
  id: string;
}

/** A connection as `/stats` lists it. */
export interface OpenConnection {
  readonly userId: string;
  readonly clientId: string;
  readonly instance: string;
  readonly transport: string;
  readonly ackedSeq: number;
  readonly sessionId: string;
}

export class Hub {
  readonly port: number;
  readonly #folder: string;
  readonly #env: Record<string, string>;
  #child: ChildProcess | null = null;
  #said = '';

  private constructor(port: number, env: Record<string, string>) {
    this.port = port;
    this.#folder = mkdtempSync(join(tmpdir(), 'recado-client-'));
    // A hub that is started by root runs its database as another user, who must get in.
    chmodSync(this.#folder, 0o755);
    this.#env = env;
  }

  /** Starts a hub; `env` are further settings. */
  static async start(env: Record<string, string> = {}): Promise<Hub> {
    const hub = new Hub(await freePort(), env);
    await hub.start();
    return hub;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts the hub again, on the same port and database. */
  async start(env: Record<string, string> = {}): Promise<void> {
    const { PATH = '' } = process.env;
    const child = spawn(hubProgram(), ['serve'], {
      env: {
        PATH,
        HOME: this.#folder,
        PORT: String(this.port),
        RECADO_BIND: '127.0.0.1',
        RECADO_DATA_DIR: join(this.#folder, 'data'),
        RECADO_JWT_SECRET: SECRET,
        RECADO_FETCH_POSTGRES: 'off',
        ...this.#env,
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    this.#said = '';
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the hub was not ready within 60 s:\n${this.#said}`)), 60_000);
      const hear = (piece: Buffer): void => {
        this.#said += piece;
        if (this.#said.includes('ready http')) {
          clearTimeout(timer);
          resolve();
        }
      };
      child.stdout?.on('data', hear);
      child.stderr?.on('data', hear);
      child.once('exit', (code) => reject(new Error(`the hub ended with ${code}:\n${this.#said}`)));
    });
  }

  /** kill -9: the hub has no time to say goodbye. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** Stops the hub and its database, and deletes the data. */
  async stop(): Promise<void> {
    if (!this.#child || this.#child.exitCode !== null || this.#child.signalCode !== null) await this.start();
    await this.#end('SIGTERM');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Stops the hub with goodbyes. */
  async drain(): Promise<void> {
    await this.#end('SIGTERM');
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await gone;
  }

  async #request(path: string, body?: object): Promise<unknown> {
    const role = body ? 'service' : 'admin';
    const answer = await fetch(this.url + path, {
      method: body ? 'POST' : 'GET',
      headers: {
        authorization: `Bearer ${sign({ sub: 'tests', recado_role: role })}`,
        'content-type': 'application/json',
      },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  /** Posts `count` notifications to a user, in one commit for each thousand. Returns them. */
  async post(user: string, count = 1, more: object = {}): Promise<Posted[]> {
    const posted: Posted[] = [];
    while (posted.length < count) {
      const size = Math.min(1_000, count - posted.length);
      const items = Array.from({ length: size }, (_, at) => ({
        type: 'test',
        title: 'title',
        message: `message ${posted.length + at}`,
        data: { at: posted.length + at },
        user_id: user,
        ...more,
      }));
      const answer = (await this.#request('/api/internal/notify/batch', { items })) as { items: Posted[] };
      posted.push(...answer.items);
    }
    return posted;
  }

  /** The open connections of a user. Those of a killed hub are listed until its lease ends, and do not count. */
  async connections(user: string): Promise<OpenConnection[]> {
    const stats = (await this.#request('/stats')) as { instance: string; connections: OpenConnection[] };
    return stats.connections.filter((one) => one.userId === user && one.instance === stats.instance);
  }
}
