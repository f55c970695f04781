//! Bytes that should be a `SetProof`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_wire::message::audit::SetProof>(data));
