//! Bytes that should be a `DeliveryNoted`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_core::protocol::DeliveryNoted>(data));
