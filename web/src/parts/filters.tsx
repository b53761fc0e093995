// Draws the filters of a table; their values stand in the address.

import type { ComponentChildren } from 'preact';
import { setQuery, usePlace } from '../address.ts';

/** One filter: a text, or a choice. */
export interface Filter {
  readonly name: string;
  readonly label: string;
  readonly placeholder?: string;
  readonly choices?: readonly (readonly [string, string])[];
  /** Texts that the browser offers. */
  readonly offers?: readonly string[];
  readonly numeric?: boolean;
  readonly width?: number;
}

/** The values of these parameters. */
export function useFilters<N extends string>(names: readonly N[]): { readonly [name in N]: string } {
  const { query } = usePlace();
  return Object.fromEntries(names.map((name) => [name, query.get(name) ?? ''])) as { readonly [name in N]: string };
}

export function Filters({ filters, children }: { filters: readonly Filter[]; children?: ComponentChildren }) {
  const { query } = usePlace();
  const set = filters.some(({ name }) => query.has(name));
  return (
    <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      {filters.map((filter, at) => (
        <Field key={filter.name} filter={filter} value={query.get(filter.name) ?? ''} first={at === 0} />
      ))}
      {children}
      {set ? (
        <button
          type="button"
          class="quiet"
          onClick={() => setQuery(Object.fromEntries(filters.map(({ name }) => [name, null])))}
        >
          Clear filters
        </button>
      ) : null}
    </form>
  );
}

function Field({ filter, value, first }: { filter: Filter; value: string; first: boolean }) {
  const { name, label, choices, offers } = filter;
  const list = offers && offers.length > 0 ? `offers-${name}` : undefined;
  const change = (event: { currentTarget: { value: string } }): void => setQuery({ [name]: event.currentTarget.value });
  return (
    <label class="field" style={filter.width ? { width: `${filter.width}ch` } : {}}>
      <span>{label}</span>
      {choices ? (
        <select value={value} onChange={change} data-search={first ? '' : undefined}>
          {choices.map(([of, text]) => (
            <option key={of} value={of}>
              {text}
            </option>
          ))}
        </select>
      ) : (
        <input
          value={value}
          onInput={change}
          placeholder={filter.placeholder ?? ''}
          inputMode={filter.numeric ? 'numeric' : 'text'}
          list={list}
          autocomplete="off"
          spellcheck={false}
          data-search={first ? '' : undefined}
        />
      )}
      {list ? (
        <datalist id={list}>
          {offers?.slice(0, 50).map((text) => (
            <option key={text} value={text} />
          ))}
        </datalist>
      ) : null}
    </label>
  );
}
