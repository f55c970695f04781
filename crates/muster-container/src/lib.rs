//! Body of a Container: sandboxes, metering, leases.

pub mod sandbox;
