import { defineConfig } from 'vite';

// Two pages, each built by itself so that the player's first script is one small file: play.html (the player, which the
// Gateway serves under /s/{id}) and index.html (home). Nothing is inlined, because the Gateway's content security policy
// allows only files of its own.
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
    rolldownOptions: { input: mode === 'home' ? { home: 'index.html' } : { play: 'play.html' } },
  },
}));
