// Tells the user when the page is not up to date.
import { useConnection } from '@recado/client/react';

export function ConnectionNotice() {
  const { state, reason } = useConnection();
  return (
    <div role="status">
      {state === 'waiting' && <p className="notice">Connection lost. Trying again; nothing is missed.</p>}
      {state === 'failed' && <p className="notice">Notifications are off: {reason}. Load the page again.</p>}
      {state === 'unauthorized' && <p className="notice">You were signed out. Load the page and sign in again.</p>}
    </div>
  );
}
