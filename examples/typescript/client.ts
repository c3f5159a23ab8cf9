// A client in a page: types from the OpenAPI document (`npm run generate`), requests by fetch, and retries
// that carry the same Idempotency-Key until there is a definite answer.

import type { components } from "./finflow.js";

export type Schemas = components["schemas"];
type Problem = Schemas["Problem"];

const ATTEMPTS = 8;
const TIMEOUT_MS = 30_000;

/** What FinFlow refused, with the catalogue's code to decide by. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(`${problem.code}: ${problem.detail}`);
  }
}

export class FinFlow {
  constructor(
    private readonly url: string,
    private readonly token: string,
  ) {}

  get<T>(path: string): Promise<T> {
    return this.repeat<T>(path, { method: "GET" });
  }

  /** A write under one key, however often it is sent. Give your own key where the intent outlives the call. */
  post<T>(path: string, body: unknown, key: string = crypto.randomUUID()): Promise<T> {
    return this.repeat<T>(path, this.writing(body, { "Idempotency-Key": key }));
  }

  /** Ledgers have no key, so these are sent once. */
  create<T>(path: string, body: unknown): Promise<T> {
    return this.attempt<T>(path, this.writing(body));
  }

  private writing(body: unknown, headers: Record<string, string> = {}): RequestInit {
    return {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(body),
    };
  }

  private async repeat<T>(path: string, request: RequestInit): Promise<T> {
    for (let number = 1; ; number++) {
      try {
        return await this.attempt<T>(path, request);
      } catch (error) {
        // No answer, or one that says so itself: the outcome may be unknown, and the same key finds it out.
        const definite = error instanceof Refused && !error.problem.retryable;
        if (definite || number === ATTEMPTS) throw error;
        await pause(50 * 2 ** number * (0.5 + Math.random()));
      }
    }
  }

  private async attempt<T>(path: string, request: RequestInit): Promise<T> {
    const headers = { ...request.headers, Authorization: `Bearer ${this.token}` };
    const answer = await fetch(this.url + path, { ...request, headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
    const body: unknown = await answer.json();
    if (!answer.ok) throw new Refused(body as Problem);
    return body as T;
  }
}

function pause(lengthMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, lengthMs));
}
