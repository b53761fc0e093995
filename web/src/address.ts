// Reads and writes the part of the address after `#`: the page, and the filters of its tables.

import { useEffect, useState } from 'preact/hooks';

/** `#/users/42?before=7` is page `users`, rest `42`, and one parameter. */
export interface Place {
  readonly page: string;
  readonly rest: string;
  readonly query: URLSearchParams;
}

export function readPlace(hash = location.hash): Place {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [page = '', ...rest] = path.split('/');
  let name = rest.join('/');
  try {
    name = decodeURIComponent(name);
  } catch {
    // A broken escape is shown as it is.
  }
  return { page: page || 'overview', rest: name, query: new URLSearchParams(query) };
}

/** A link to a page of the console. */
export function href(
  page: string,
  rest = '',
  query: { readonly [name: string]: string | number | undefined } = {},
): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== '');
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `#/${page}${rest === '' ? '' : `/${encodeURIComponent(rest)}`}${text ? `?${text}` : ''}`;
}

export function go(to: string): void {
  location.hash = to.replace(/^#/, '');
}

/** Changes parameters of the present page without a new entry in the browser's history. */
export function setQuery(changes: { readonly [name: string]: string | number | null | undefined }): void {
  const { page, rest, query } = readPlace();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === '') query.delete(name);
    else query.set(name, String(value));
  }
  history.replaceState(null, '', href(page, rest, Object.fromEntries(query)));
  window.dispatchEvent(new Event('placechange'));
}

export function usePlace(): Place {
  const [place, set] = useState(readPlace);
  useEffect(() => {
    const changed = (): void => set(readPlace());
    for (const name of ['hashchange', 'popstate', 'placechange']) window.addEventListener(name, changed);
    changed();
    return () => {
      for (const name of ['hashchange', 'popstate', 'placechange']) window.removeEventListener(name, changed);
    };
  }, []);
  return place;
}
