//! Bytes that should be a `MatchRequest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_core::protocol::MatchRequest>(data));
