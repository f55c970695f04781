//! Bytes that should be a `CandidatesRequest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_core::protocol::CandidatesRequest>(data));
