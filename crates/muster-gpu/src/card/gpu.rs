//! An opened card: buffers, kernels, and waiting, where every failure is an error and none a panic.

use std::sync::{Arc, Mutex, PoisonError};

use super::CardError;

/// An opened card.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    /// What the driver complained of first.
    trouble: Arc<Mutex<Option<CardError>>>,
    pub(super) kernels: Kernels,
    pub(super) pads: super::pads::Pads,
}

/// The kernels that do not depend on a challenge.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) render: wgpu::ComputePipeline,
    pub(super) multiply: wgpu::ComputePipeline,
    pub(super) fill: wgpu::ComputePipeline,
}

impl Gpu {
    /// Opens a card with all of its limits, and compiles the kernels.
    ///
    /// # Errors
    /// [`CardError`].
    pub(super) fn open(adapter: &wgpu::Adapter) -> Result<Self, CardError> {
        let (name, limits) = (adapter.get_info().name, adapter.limits());
        let wanted = wgpu::DeviceDescriptor {
            label: Some("muster"),
            required_features: wgpu::Features::empty(),
            required_limits: limits.clone(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            // Buffers of a size of their own, freed when they are dropped.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wanted))
            .map_err(|why| CardError::Open { name, why: why.to_string() })?;
        let trouble = Arc::new(Mutex::new(None));
        let note = |slot: &Mutex<Option<CardError>>, error: CardError| {
            slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        };
        let slot = Arc::clone(&trouble);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let error = match error {
                wgpu::Error::OutOfMemory { source } => CardError::Memory { bytes: 0, why: source.to_string() },
                wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                    CardError::Refused { why: description }
                }
            };
            note(&slot, error);
        }));
        let slot = Arc::clone(&trouble);
        device.set_device_lost_callback(move |reason, why| {
            note(&slot, CardError::Lost { why: format!("{reason:?} {why}") });
        });
        let kernels = Kernels {
            render: kernel(&device, "render", include_str!("../shaders/render.wgsl")),
            multiply: kernel(&device, "multiply", include_str!("../shaders/multiply.wgsl")),
            fill: kernel(&device, "fill", include_str!("../shaders/fill.wgsl")),
        };
        let gpu = Self { device, queue, limits, trouble, kernels, pads: super::pads::Pads::default() };
        gpu.check()?;
        Ok(gpu)
    }

    /// The driver's first complaint, if it had any.
    ///
    /// # Errors
    /// That.
    pub(super) fn check(&self) -> Result<(), CardError> {
        match &*self.trouble.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(trouble) => Err(trouble.clone()),
        }
    }

    pub(super) fn kernel(&self, name: &str, text: &str) -> wgpu::ComputePipeline {
        kernel(&self.device, name, text)
    }

    /// A buffer that kernels write and the host reads.
    pub(super) fn storage(&self, bytes: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    }

    /// A buffer that a kernel only reads.
    pub(super) fn constant(&self, words: &[u32], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let usage = usage | wgpu::BufferUsages::COPY_DST;
        let buffer =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
        self.queue.write_buffer(&buffer, 0, &bytes);
        buffer
    }

    /// The eight words that a kernel is called with.
    pub(super) fn params(&self, words: [u32; 8]) -> wgpu::Buffer {
        self.constant(&words, wgpu::BufferUsages::UNIFORM)
    }

    /// Starts a kernel with its buffers, and then copies the first `bytes` of `out` to where the host can read them.
    pub(super) fn start(
        &self,
        pipeline: &wgpu::ComputePipeline,
        buffers: &[&wgpu::Buffer],
        groups: [u32; 2],
        out: Option<(&wgpu::Buffer, u64)>,
    ) -> Running {
        let entries: Vec<wgpu::BindGroupEntry<'_>> = buffers
            .iter()
            .zip(0..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bound = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &bound, &[]);
            pass.dispatch_workgroups(groups[0], groups[1], 1);
        }
        let staging = out.map(|(out, bytes)| {
            let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            encoder.copy_buffer_to_buffer(out, 0, &staging, 0, bytes);
            staging
        });
        Running { submission: self.queue.submit([encoder.finish()]), staging }
    }

    /// Waits for a kernel and gives the words that it wrote.
    ///
    /// # Errors
    /// [`CardError`], a lost card among them.
    pub(super) fn finish(&self, running: Running) -> Result<Vec<u32>, CardError> {
        let lost = |why: String| CardError::Lost { why };
        if let Some(staging) = &running.staging {
            // The answer is looked at when the range is asked for.
            staging.map_async(wgpu::MapMode::Read, .., |_| {});
        }
        let wait = wgpu::PollType::Wait { submission_index: Some(running.submission), timeout: None };
        self.device.poll(wait).map_err(|why| lost(why.to_string()))?;
        self.check()?;
        let Some(staging) = running.staging else { return Ok(Vec::new()) };
        let view = staging.get_mapped_range(..).map_err(|why| lost(why.to_string()))?;
        let words = view.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        drop(view);
        staging.unmap();
        Ok(words)
    }
}

/// A kernel at work.
#[derive(Debug)]
pub(super) struct Running {
    submission: wgpu::SubmissionIndex,
    staging: Option<wgpu::Buffer>,
}

fn kernel(device: &wgpu::Device, name: &str, text: &str) -> wgpu::ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(name),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(name),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    })
}
