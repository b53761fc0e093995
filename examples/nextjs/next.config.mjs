// Configures Next.js. The root is named because the repository has lock files in other folders.
import { fileURLToPath } from 'node:url';

export default { turbopack: { root: fileURLToPath(new URL('.', import.meta.url)) } };
