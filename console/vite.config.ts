import { defineConfig } from 'vite';

// Three pages: play.html (the player, which the Gateway serves under /s/{id}), index.html (home) and models.html (/models).
// The player is built by itself, so that its first script is one small file. Nothing is inlined, because the Gateway's
// content security policy allows only files of its own.
export default defineConfig(({ mode }) => ({
  base: '/',
  build: {
    target: 'es2022',
    outDir: 'dist',
    emptyOutDir: mode !== 'home',
    assetsDir: 'assets',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    rolldownOptions: { input: mode === 'home' ? { home: 'index.html', models: 'models.html' } : { play: 'play.html' } },
  },
}));
