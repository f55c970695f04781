//! Bytes that should be a `ProverSays`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_core::proof::ProverSays>(data));
