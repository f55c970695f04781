//! Bytes that should be a `ToSession`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_wire::message::session::ToSession>(data));
