import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { Models } from './page';

const root = document.getElementById('models');
if (root !== null) {
  createRoot(root).render(
    <StrictMode>
      <Models />
    </StrictMode>,
  );
}
