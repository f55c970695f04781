// Icons drawn here, so that nothing has to be fetched for them. Decorative: the buttons around them have names.

import type { ReactNode } from 'react';

function Icon({ children }: { children: ReactNode }): ReactNode {
  return (
    <svg viewBox="0 0 24 24" width="20" height="20" fill="none" stroke="currentColor" strokeWidth="1.8" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      {children}
    </svg>
  );
}

export const More = (): ReactNode => (
  <svg viewBox="0 0 24 24" width="20" height="20" fill="currentColor" aria-hidden="true">
    <circle cx="12" cy="5" r="1.9" />
    <circle cx="12" cy="12" r="1.9" />
    <circle cx="12" cy="19" r="1.9" />
  </svg>
);
export const FullScreen = (): ReactNode => <Icon><path d="M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5" /></Icon>;
export const Mouse = (): ReactNode => <Icon><rect x="7" y="3" width="10" height="18" rx="5" /><path d="M12 7v4" /></Icon>;
export const Speaker = (): ReactNode => <Icon><path d="M4 9.5v5h3.5L12 18.5v-13L7.5 9.5zM15.5 9a4.2 4.2 0 0 1 0 6M18 6.5a7.8 7.8 0 0 1 0 11" /></Icon>;
export const Mic = (): ReactNode => <Icon><rect x="9" y="3" width="6" height="11" rx="3" /><path d="M5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3" /></Icon>;
export const ClipOut = (): ReactNode => <Icon><rect x="5" y="5" width="14" height="16" rx="2" /><path d="M9 5V3h6v2M12 17v-7M9 12.5l3-3 3 3" /></Icon>;
export const ClipIn = (): ReactNode => <Icon><rect x="5" y="5" width="14" height="16" rx="2" /><path d="M9 5V3h6v2M12 9.5v7M9 14l3 3 3-3" /></Icon>;
export const Gauge = (): ReactNode => <Icon><path d="M4 17a8.5 8.5 0 1 1 16 0M12 15l4-5" /></Icon>;
export const Limit = (): ReactNode => <Icon><path d="M4 18h3v-4H4zM10.500 18h3v-8h-3zM17 18h3V5h-3z" /></Icon>;
export const Keys = (): ReactNode => <Icon><rect x="2.500" y="6" width="19" height="12" rx="2" /><path d="M6 10h.01M10 10h.01M14 10h.01M18 10h.01M8 14h8" /></Icon>;
export const Stop = (): ReactNode => <Icon><rect x="6" y="6" width="12" height="12" rx="2" /></Icon>;
export const Close = (): ReactNode => <Icon><path d="M6 6l12 12M18 6L6 18" /></Icon>;
export const Pad = (): ReactNode => <Icon><path d="M7 8h10a5 5 0 0 1 4.800 6.300l-.3 1.200a2.300 2.300 0 0 1-4 .9L15.500 14h-7l-2 2.400a2.300 2.300 0 0 1-4-.9l-.3-1.200A5 5 0 0 1 7 8zM8 10v3M6.500 11.500h3M15.500 11.500h.01M17.500 10.500h.01" /></Icon>;
export const Up = (): ReactNode => <Icon><path d="M12 19V5M6 11l6-6 6 6" /></Icon>;
