// Chains of the pad: muster-core/src/proof/memory.rs on the card. Word i of the chains of a chunk lie side by side, so that
// the threads of a chunk write together.

struct Params {
    first_chain: u32,
    chains: u32,
    key0: u32,
    key1: u32,
    first_local: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

const WORDS: u32 = 4096u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> pad: array<u32>;
@group(0) @binding(2) var<storage, read_write> ends: array<u32>;

fn pcg(word: u32) -> u32 {
    let state = word * 747796405u + 2891336453u;
    let mixed = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (mixed >> 22u) ^ mixed;
}

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.chains {
        return;
    }
    let local = params.first_local + id.x;
    let base = (local / 32u) * (32u * WORDS) + local % 32u;
    var state = pcg(pcg((params.first_chain + id.x) ^ params.key0) ^ params.key1);
    pad[base] = state;
    for (var i = 1u; i < WORDS; i++) {
        let back = pad[base + (state % i) * 32u];
        state = pcg((state ^ back) + i);
        pad[base + i * 32u] = state;
    }
    for (var i = 0u; i < WORDS; i++) {
        let back = pad[base + (state & (WORDS - 1u)) * 32u];
        let turned = (back << 7u) | (back >> 25u);
        state = pcg(state + (pad[base + i * 32u] ^ turned));
        pad[base + i * 32u] = state;
    }
    for (var k = 0u; k < 4u; k++) {
        ends[id.x * 4u + k] = pad[base + (WORDS - 4u + k) * 32u];
    }
}
