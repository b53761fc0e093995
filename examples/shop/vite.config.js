// Builds the page; `npx vite` serves it during development, with the backend of ./start behind /api.
import { defineConfig } from 'vite';

export default defineConfig({
  server: { proxy: { '/api': `http://127.0.0.1:${process.env.SHOP_PORT ?? 8000}` } },
});
