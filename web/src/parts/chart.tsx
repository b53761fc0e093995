// Draws lines over time with uPlot, and says their last values as text.

import { useEffect, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';

/** Points of one line; null leaves a hole. */
export interface Line {
  readonly label: string;
  readonly points: readonly (number | null)[];
}

interface ChartProps {
  readonly title: string;
  readonly unit: string;
  /** Times in seconds, the same for all lines. */
  readonly times: readonly number[];
  readonly lines: readonly Line[];
  format(value: number | null): string;
}

/** Names of the colours in base.css, in the order of the lines. */
const COLOURS = ['--line-1', '--line-2', '--line-3', '--line-4', '--line-5', '--line-6'];
const HEIGHT = 160;

const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Counts up when the colour scheme changes: a canvas does not follow by itself. */
function useScheme(): number {
  const [turns, set] = useState(0);
  useEffect(() => {
    const query = matchMedia('(prefers-color-scheme: dark)');
    const changed = (): void => set((n) => n + 1);
    query.addEventListener('change', changed);
    return () => query.removeEventListener('change', changed);
  }, []);
  return turns;
}

export function Chart({ title, unit, times, lines, format }: ChartProps) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const scheme = useScheme();
  const names = lines.map(({ label }) => label).join('\n');
  const latest = useRef(format);
  latest.current = format;
  // The names and the scheme stand for the lines and their colours.
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const axis = { stroke: colour('--muted'), grid: { stroke: colour('--rule'), width: 1 }, ticks: { show: false } };
    const font = '12px system-ui, sans-serif';
    const options: uPlot.Options = {
      width: element.clientWidth || 400,
      height: HEIGHT,
      legend: { show: false },
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_, __, max) => [0, max > 0 ? max * 1.15 : 1] } },
      axes: [
        {
          ...axis,
          font,
          size: 30,
          space: 70,
          values: [
            [60, '{HH}:{mm}', null, null, null, null, null, null, 1],
            [1, '{HH}:{mm}:{ss}', null, null, null, null, null, null, 1],
          ],
        },
        { ...axis, font, size: 60, space: 28, values: (_, values) => values.map((one) => latest.current(one)) },
      ],
      series: [
        {},
        ...lines.map(({ label }, at) => ({
          label,
          stroke: colour(COLOURS[at % COLOURS.length] as string),
          width: 1.5,
          spanGaps: false,
          points: { show: false },
        })),
      ],
    };
    const made = new uPlot(options, [[], ...lines.map(() => [])] as unknown as uPlot.AlignedData, element);
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [names, scheme]);
  // A new plot needs the data, too.
  useEffect(() => {
    plot.current?.setData([times, ...lines.map(({ points }) => points)] as unknown as uPlot.AlignedData);
  }, [times, lines, names, scheme]);
  const last = (line: Line): number | null => line.points.at(-1) ?? null;
  return (
    <figure class="chart">
      <figcaption>
        {title} <span class="hint">{unit}</span>
      </figcaption>
      <div ref={box} aria-hidden="true" />
      <ul class="legend" aria-label={`${title}, last values`}>
        {lines.map((line, at) => (
          <li key={line.label}>
            <i class={`swatch line-${(at % COLOURS.length) + 1}`} aria-hidden="true" />
            {line.label} <b>{format(last(line))}</b>
          </li>
        ))}
      </ul>
    </figure>
  );
}
