// Shows the counts of a user's inbox, and what they are made of.

import { href } from '../address.ts';
import { number, plural } from '../format.ts';
import { Empty } from '../parts/problem.tsx';
import type { UserInbox } from '../types.ts';

/** The hub counts up to this. */
const MOST = 1000;

const count = (value: number): string => number(value) + (value < MOST ? '' : ' or more');

export function Inbox({ inbox }: { inbox: UserInbox | null }) {
  if (!inbox) {
    return (
      <Empty title="This user has never opened an inbox">
        <p>
          A stream with <code>inbox=1</code> or <code>GET /api/inbox</code> opens it.
        </p>
      </Empty>
    );
  }
  return (
    <div class="facts">
      <dl>
        <dt>Unread</dt>
        <dd>{count(inbox.unread)}, neither read nor archived</dd>
        <dt>Unseen</dt>
        <dd>{count(inbox.unseen)}, above the seen number and not archived</dd>
        <dt>Counted at</dt>
        <dd>number {number(inbox.as_of)} of the log, over all accounts below</dd>
        <dt>Up to number</dt>
        <dd>
          {number(inbox.seen_seq)} seen, {number(inbox.read_seq)} read, {number(inbox.archived_seq)} archived
        </dd>
        <dt>Marked one by one</dt>
        <dd>{plural(inbox.marked, 'item')}, other than these numbers say</dd>
        <dt>Muted types</dt>
        <dd>{inbox.muted.join(', ') || 'none'}</dd>
        <dt>Items count from</dt>
        <dd>
          {inbox.since.map(({ topic, seq }) => (
            <span key={topic} class="pair">
              {topic === '*' ? (
                'everyone'
              ) : (
                <a href={href('sessions', '', { account: topic.slice(2) })}>{topic.slice(2)}</a>
              )}{' '}
              above {number(seq)}
            </span>
          ))}
        </dd>
      </dl>
    </div>
  );
}
