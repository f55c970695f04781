//! Bytes that should be a `Wanted`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_wire::message::audit::Wanted>(data));
