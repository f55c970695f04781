import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { Home } from './home';

const root = document.getElementById('home');
if (root !== null) {
  createRoot(root).render(
    <StrictMode>
      <Home />
    </StrictMode>,
  );
}
