// Configures the tests: all run in Node; those of browsers drive Chromium from there.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.{ts,tsx}'],
    testTimeout: 40_000,
    hookTimeout: 90_000,
    maxWorkers: 2,
  },
});
