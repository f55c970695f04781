// Bit patterns of functions whose last bits are the driver's business: a hint at what the card is.

@group(0) @binding(0) var<storage, read_write> patterns: array<u32>;

@compute @workgroup_size(16)
fn main(@builtin(local_invocation_id) local: vec3<u32>) {
    let x = 0.37 + f32(local.x) * 1.618;
    patterns[local.x] = bitcast<u32>(sin(x));
    patterns[16u + local.x] = bitcast<u32>(exp(x * 0.25));
    patterns[32u + local.x] = bitcast<u32>(inverseSqrt(x));
}
