//! Files of models: any bytes are a model's head or a reason, never a panic, and never more memory than they have.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = muster_engine::gguf::check(data, data.len() as u64);
    // As if the tensors' numbers were there.
    let _ = muster_engine::gguf::check(data, u64::MAX);
    let _ = muster_engine::gguf::check_part(data, u64::MAX, (2, 2));
});
