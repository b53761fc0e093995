// Lists the instances of the hub with their state, and drains one.

import { href } from '../address.ts';
import { api } from '../api.ts';
import { bytes, duration, number, plural, short } from '../format.ts';
import { ShowAs } from '../parts/command.tsx';
import { useQuestion } from '../parts/dialog.tsx';
import { Freshness } from '../parts/freshness.tsx';
import { ProblemNote, Said } from '../parts/problem.tsx';
import { Table } from '../parts/table.tsx';
import { Age, Head, State } from '../parts/texts.tsx';
import { usePoll } from '../poll.ts';
import type { InstanceSample } from '../types.ts';

const PATH = '/api/admin/instances';
/** An older hub reports nothing. */
const stateOf = ({ ready, draining }: InstanceSample): string =>
  ready === null ? 'not reported' : draining ? 'draining' : ready ? 'ready' : 'not ready';
/** Time over which a drained instance closes its connections. */
const WINDOW_S = 30;

export function Instances() {
  const polled = usePoll((signal) => api.instances(signal), PATH);
  const { data, problem } = polled;
  const { ask, said, dialog } = useQuestion();
  const askDrain = (row: InstanceSample): void => {
    const body = { window_seconds: WINDOW_S };
    ask({
      title: `Drain ${short(row.instance)}?`,
      text: (
        <p>
          The instance closes its {plural(row.gauges?.connections ?? 0, 'connection')} with 4000, spread over {WINDOW_S}{' '}
          s, and is not ready meanwhile. The clients come back by themselves, to another instance if there is one, and
          miss nothing.
        </p>
      ),
      typed: short(row.instance),
      typedLabel: 'Type the instance:',
      verb: 'Drain',
      forms: { method: 'POST', path: `${PATH}/${row.instance}/drain`, body },
      act: async () => {
        const { connections } = await api.drain(row.instance, WINDOW_S);
        polled.refresh();
        return `Draining ${plural(connections, 'connection')} within ${WINDOW_S} s.`;
      },
    });
  };
  const now = Date.now();
  return (
    <>
      <Head title="Instances">
        <Freshness polled={polled} label="instances" />
      </Head>
      <ProblemNote problem={problem} />
      <Said text={said} />
      {data ? (
        <Table
          label="Instances"
          rows={data.instances}
          rowKey={(row) => row.instance}
          columns={[
            { label: 'Instance', cell: (row) => short(row.instance), title: (row) => row.instance },
            { label: 'Address', cell: (row) => row.address ?? '–' },
            { label: 'Version', cell: (row) => row.version },
            {
              label: 'State',
              cell: (row) => (
                <>
                  <State word={stateOf(row)} /> {row.reasons?.join(', ')}
                </>
              ),
            },
            {
              label: 'Uptime',
              align: 'right',
              cell: (row) => duration(now - Date.parse(row.started_at)),
              title: (row) => row.started_at,
            },
            { label: 'Seen', cell: (row) => <Age time={row.seen_at} /> },
            {
              label: 'Connections',
              align: 'right',
              cell: (row) => (
                <a href={href('sessions', '', { instance: row.instance })}>{number(row.gauges?.connections)}</a>
              ),
            },
            {
              label: 'Worst lag',
              align: 'right',
              cell: (row) => (
                <a href={href('sessions', '', { instance: row.instance, sort: '-lag' })}>
                  {number(row.gauges?.max_lag)}
                </a>
              ),
            },
            { label: 'LISTEN replaced', align: 'right', cell: (row) => number(row.listen_reconnects) },
            { label: 'Slow clients', align: 'right', cell: (row) => number(row.counters?.slow) },
            { label: 'Memory', align: 'right', cell: (row) => bytes(row.gauges?.rss_bytes) },
            {
              label: 'Action',
              cell: (row) => (
                <button
                  type="button"
                  class="quiet"
                  disabled={row.ready === null || row.draining === true}
                  onClick={() => askDrain(row)}
                  aria-label={`Drain ${short(row.instance)}`}
                >
                  Drain
                </button>
              ),
            },
          ]}
        />
      ) : null}
      {data?.stopped?.length ? (
        <>
          <h2>Stopped in the last hour</h2>
          <Table
            label="Stopped instances"
            rows={data.stopped}
            rowKey={(row) => row.instance}
            columns={[
              { label: 'Instance', cell: (row) => short(row.instance), title: (row) => row.instance },
              { label: 'Address', cell: (row) => row.address },
              { label: 'Version', cell: (row) => row.version },
              { label: 'Stopped', cell: (row) => <Age time={row.stopped_at} /> },
              {
                label: 'How',
                cell: (row) => (row.clean ? 'in good order' : <State word="killed or cut off" />),
              },
            ]}
          />
        </>
      ) : null}
      <ShowAs forms={{ recado: ['top'], path: PATH }} />
      {dialog}
    </>
  );
}
