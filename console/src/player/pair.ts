// The receipt key outlives a reload in IndexedDB: the private key itself can be stored there without ever being read.

const NAME = 'muster';
const STORE = 'receipt-keys';
const KEPT_MS = 2 * 24 * 3600 * 1000;

interface Kept {
  pair: CryptoKeyPair;
  at: number;
}

export async function keepPair(session: string, pair: CryptoKeyPair): Promise<void> {
  try {
    const database = await open();
    const kept = database.transaction(STORE, 'readwrite').objectStore(STORE);
    kept.put({ pair, at: Date.now() } satisfies Kept, session);
    const old = kept.openCursor();
    old.onsuccess = () => {
      const cursor = old.result;
      if (cursor === null) return;
      if (Date.now() - (cursor.value as Kept).at > KEPT_MS) cursor.delete();
      cursor.continue();
    };
  } catch {
    // Not kept: after a reload there are no receipts, and the session goes on.
  }
}

export async function keptPair(session: string): Promise<CryptoKeyPair | null> {
  try {
    const kept = (await open()).transaction(STORE).objectStore(STORE).get(session);
    const value = await new Promise<Kept | undefined>((resolve, reject) => {
      kept.onsuccess = () => resolve(kept.result as Kept | undefined);
      kept.onerror = () => reject(kept.error ?? new Error('not read'));
    });
    return value?.pair ?? null;
  } catch {
    return null;
  }
}

function open(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error('not opened'));
  });
}
