// Draws a table of any length: only the rows in view are in the document.

import { Component, type ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

/** A column. With `sort` its header sorts by that name. No two columns of a table have the same label. */
export interface Column<R> {
  readonly label: string;
  readonly sort?: string;
  /** `wrap`: the cell has more lines instead of a cut. Only for tables of at most 60 rows. */
  readonly align?: 'right' | 'wrap';
  /** Width in characters; the table scrolls sideways when it needs more than there is. */
  readonly width?: number;
  cell(row: R): ComponentChildren;
  /** Full text, for a cell that may be cut off. */
  title?(row: R): string | undefined;
}

/** A name, with `-` before it for descending. */
export interface TableProps<R> {
  readonly label: string;
  readonly columns: readonly Column<R>[];
  readonly rows: readonly R[];
  rowKey(row: R): string | number;
  readonly sort?: string;
  onSort?(sort: string): void;
  rowClass?(row: R): string | undefined;
}

/** Height of a row in pixels, as in table.css. */
const ROW = 34;
/** Rows above and below the view that are drawn, too, so that scrolling shows no white. Each row costs a frame 1 ms. */
const SPARE = 3;

/** Columns of a long table have fixed widths: to measure each row anew would cost frames, and columns would jump. */
const widthOf = (columns: readonly { readonly width?: number }[]): number =>
  columns.reduce((sum, { width = 10 }) => sum + width + 3, 0);

export function Table<R>(props: TableProps<R>) {
  const { columns, rows, label, sort } = props;
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const windowed = rows.length > 60;
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const measure = (): void => setHeight(element.clientHeight || 600);
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  // A filter that leaves fewer rows moves the view to what is left.
  useEffect(() => {
    const element = box.current;
    if (element && element.scrollTop > rows.length * ROW) element.scrollTop = 0;
  }, [rows.length]);
  const first = windowed ? Math.max(0, Math.min(Math.floor(top / ROW), rows.length) - SPARE) : 0;
  const last = windowed ? Math.min(rows.length, Math.ceil((top + height) / ROW) + SPARE) : rows.length;
  const shown = rows.slice(first, last);
  // An even number of rows above keeps the stripes where they are.
  const above = first * ROW;
  const below = (rows.length - last) * ROW;
  return (
    <section
      class={`scroll${windowed ? ' windowed' : ''}`}
      ref={box}
      // A scrolling region must be reachable by keyboard.
      tabIndex={0}
      aria-label={`${label}, scrollable`}
      onScroll={(event) => {
        const at = event.currentTarget.scrollTop;
        // Rows are drawn in steps, so that most scroll events draw nothing.
        if (Math.abs(at - top) >= ROW * 2 || at === 0) setTop(at);
      }}
    >
      <table
        aria-label={label}
        aria-rowcount={rows.length + 1}
        style={windowed ? { minWidth: `${widthOf(columns)}ch` } : {}}
      >
        <thead>
          <tr aria-rowindex={1}>
            {columns.map((column) => (
              <Header key={column.label} column={column} sort={sort} onSort={props.onSort} />
            ))}
          </tr>
        </thead>
        <tbody>
          {above > 0 ? <Spacer height={above} columns={columns.length} /> : null}
          {shown.map((row, at) => (
            <Row
              key={props.rowKey(row)}
              index={first + at + 2}
              look={props.rowClass?.(row)}
              row={row}
              columns={columns}
            />
          ))}
          {below > 0 ? <Spacer height={below} columns={columns.length} /> : null}
        </tbody>
      </table>
    </section>
  );
}

interface RowProps<R> {
  readonly index: number;
  readonly look: string | undefined;
  readonly row: R;
  readonly columns: readonly Column<R>[];
}

/** A row that stays in view is not drawn again while only others come and go. */
class Row<R> extends Component<RowProps<R>> {
  override shouldComponentUpdate(next: RowProps<R>): boolean {
    const { index, look, row, columns } = this.props;
    return next.row !== row || next.columns !== columns || next.look !== look || next.index !== index;
  }

  override render({ index, look, row, columns }: RowProps<R>) {
    return (
      <tr aria-rowindex={index} class={look}>
        {columns.map((column) => (
          <td key={column.label} class={column.align} title={column.title?.(row)}>
            {column.cell(row)}
          </td>
        ))}
      </tr>
    );
  }
}

function Spacer({ height, columns }: { height: number; columns: number }) {
  return (
    <tr aria-hidden="true" class="spacer">
      <td colSpan={columns} style={{ height: `${height}px` }} />
    </tr>
  );
}

interface HeaderProps<R> {
  readonly column: Column<R>;
  readonly sort: string | undefined;
  readonly onSort: ((sort: string) => void) | undefined;
}

function Header<R>({ column, sort, onSort }: HeaderProps<R>) {
  const { label, align } = column;
  const style = column.width ? { width: `${column.width + 3}ch` } : {};
  if (!column.sort || !onSort) {
    return (
      <th scope="col" class={align} style={style}>
        {label}
      </th>
    );
  }
  const name = column.sort;
  const state = sort === name ? 'ascending' : sort === `-${name}` ? 'descending' : 'none';
  return (
    <th scope="col" class={align} aria-sort={state} style={style}>
      <button type="button" class="sort" onClick={() => onSort(state === 'descending' ? name : `-${name}`)}>
        {label}
        <span aria-hidden="true" class="arrow">
          {state === 'ascending' ? '▲' : state === 'descending' ? '▼' : ''}
        </span>
      </button>
    </th>
  );
}
