//! Made-up networks and honest reports, for measurements and tests; the same for a seed on every machine.
