//! Bytes that should be a `ContainerReport`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_core::protocol::ContainerReport>(data));
