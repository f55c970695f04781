//! Bytes that should be a `FromInference`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_wire::message::inference::FromInference>(data));
