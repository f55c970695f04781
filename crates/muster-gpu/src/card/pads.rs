//! The pad in a card's memory: as many buffers as it takes, and a kernel that reads from all of them.

use std::fmt::Write as _;

use muster_core::proof::challenge::{CHUNK_BYTES, CHUNK_CHAINS};
use muster_core::proof::memory::Pad;

use super::{CardError, Gpu};

/// Buffers of the pad, all of one size but the last.
#[derive(Debug, Default)]
pub(super) struct Pads {
    pub(super) buffers: Vec<wgpu::Buffer>,
    pub(super) chunks_per_buffer: u32,
    /// Reads from all of them; made before the walks are timed.
    pub(super) walk: Option<wgpu::ComputePipeline>,
}

impl Pads {
    /// Takes the memory for a pad; the memory of an earlier one is freed before.
    ///
    /// # Errors
    /// [`CardError::Memory`] when the card has not so much, or a kernel could not read it all.
    pub(super) fn allocate(gpu: &mut Gpu, pad: &Pad) -> Result<(), CardError> {
        gpu.pads = Self::default();
        let chunks = pad.chains.div_ceil(CHUNK_CHAINS);
        let bytes = u64::from(chunks) * CHUNK_BYTES;
        let short = |why: String| CardError::Memory { bytes, why };
        // 1 GiB at most: more does not help, and some drivers allocate large pieces badly.
        let largest = gpu.limits.max_storage_buffer_binding_size.min(gpu.limits.max_buffer_size).min(1 << 30);
        let per_buffer = u32::try_from(largest / CHUNK_BYTES).unwrap_or(u32::MAX);
        if per_buffer == 0 {
            return Err(short(format!("its buffers end at {largest} bytes")));
        }
        let count = chunks.div_ceil(per_buffer);
        // One binding is the walks' states.
        let most = gpu.limits.max_storage_buffers_per_shader_stage.saturating_sub(1);
        if count > most {
            return Err(short(format!(
                "its driver binds {most} buffers of {largest} bytes at once, and {count} are needed; claim less memory"
            )));
        }
        let mut left = chunks;
        while left > 0 {
            let here = left.min(per_buffer);
            let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("pad"),
                size: u64::from(here) * CHUNK_BYTES,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            });
            if let Some(why) = pollster::block_on(scope.pop()) {
                return Err(short(why.to_string()));
            }
            gpu.check()?;
            gpu.pads.buffers.push(buffer);
            left -= here;
        }
        gpu.pads.chunks_per_buffer = per_buffer;
        gpu.pads.walk = Some(gpu.kernel("walk", &Self::walk_text(gpu.pads.buffers.len())));
        gpu.check()
    }

    /// The text of the walking kernel for so many buffers.
    fn walk_text(count: usize) -> String {
        let mut text = String::new();
        let mut cases = String::new();
        for at in 0..count {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "@group(0) @binding({}) var<storage, read> pad{at}: array<u32>;", at + 2);
            let _ = writeln!(cases, "        case {at}u: {{ word = pad{at}[at]; }}");
        }
        let _ = writeln!(
            text,
            "fn word_of(buffer: u32, at: u32) -> u32 {{\n    var word = 0u;\n    switch buffer {{\n{cases}        \
             default: {{}}\n    }}\n    return word;\n}}"
        );
        text + include_str!("../shaders/walk.wgsl")
    }
}
