//! The frame itself, around a message with every kind of bounded field.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::check::<muster_fuzz::Everything>(data));
