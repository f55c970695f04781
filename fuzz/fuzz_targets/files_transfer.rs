//! Bytes that should be a `Transfer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_wire::message::files::Transfer>(data));
