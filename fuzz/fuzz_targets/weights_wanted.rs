//! Bytes that should be a `WeightsWanted`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_wire::message::weights::WeightsWanted>(data));
