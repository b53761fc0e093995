// Shows that an action failed, for example an order while the hub is away for long.
'use client';

export default function ErrorPage({ reset }: { reset: () => void }) {
  return (
    <main>
      <h1>Little shop</h1>
      <p role="alert">That did not work.</p>
      <button type="button" onClick={reset}>
        Try again
      </button>
    </main>
  );
}
