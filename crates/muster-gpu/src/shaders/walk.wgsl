// Walks through the pad: muster-core/src/proof/memory.rs on the card. The pad lies in several buffers; their bindings and
// `word_of`, which reads from them, are written by the program (src/card/pads.rs) and precede this text.

struct Params {
    walks: u32,
    segments: u32,
    segment: u32,
    steps: u32,
    key0: u32,
    key1: u32,
    chains: u32,
    chunks_per_buffer: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> states: array<u32>;

fn pcg(word: u32) -> u32 {
    let state = word * 747796405u + 2891336453u;
    let mixed = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (mixed >> 22u) ^ mixed;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let walk = id.x;
    if walk >= params.walks {
        return;
    }
    let line = walk * (params.segments + 1u);
    var state: u32;
    if params.segment == 0u {
        state = pcg(pcg(walk ^ params.key0) ^ params.key1);
        states[line] = state;
    } else {
        state = states[line + params.segment];
    }
    let own = pcg(walk ^ params.key1);
    let first = params.segment * params.steps;
    for (var step = 0u; step < params.steps; step++) {
        let chain = state % params.chains;
        let chunk = chain / 32u;
        let word = (state * 2654435769u) >> 20u;
        let at = (chunk % params.chunks_per_buffer) * 131072u + word * 32u + chain % 32u;
        state = pcg((state ^ word_of(chunk / params.chunks_per_buffer, at)) + own + first + step);
    }
    states[line + params.segment + 1u] = state;
}
