// Declares the variable that Vite replaces. In an application, `vite/client` does this.
interface ImportMeta {
  readonly env: { readonly VITE_WS_URL?: string };
}
