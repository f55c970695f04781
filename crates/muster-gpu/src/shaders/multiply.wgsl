// Rows of a product modulo 2^31 - 1: muster-core/src/proof/multiply.rs on the card. Entries of both matrices are made
// where they are needed, so that nothing but the product takes memory.

struct Params {
    side: u32,
    first_row: u32,
    rows: u32,
    key_a: u32,
    key_b: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

const PRIME: u32 = 0x7fffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> product: array<u32>;

var<workgroup> tile_a: array<u32, 256>;
var<workgroup> tile_b: array<u32, 256>;

fn pcg(word: u32) -> u32 {
    let state = word * 747796405u + 2891336453u;
    let mixed = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (mixed >> 22u) ^ mixed;
}

fn entry(key: u32, row: u32, column: u32) -> u32 {
    let word = pcg(pcg(row ^ key) + column * 2654435769u) & PRIME;
    return select(word, 0u, word == PRIME);
}

// Both summands are at most PRIME, and so is the sum.
fn plus(a: u32, b: u32) -> u32 {
    let sum = a + b;
    return (sum & PRIME) + (sum >> 31u);
}

// 2^31 is 1 here: the product's 62 bits fold into 31. Factors below the prime.
fn times(a: u32, b: u32) -> u32 {
    let a_high = a >> 16u;
    let a_low = a & 0xffffu;
    let b_high = b >> 16u;
    let b_low = b & 0xffffu;
    let low = a_low * b_low;
    let middle = a_high * b_low + a_low * b_high;
    let high = a_high * b_high;
    let low_part = plus(low & PRIME, low >> 31u);
    let middle_part = plus(middle >> 15u, (middle & 0x7fffu) << 16u);
    return plus(plus(low_part, middle_part), high << 1u);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = params.first_row + group.y * 16u + local.y;
    let column = group.x * 16u + local.x;
    let slot = local.y * 16u + local.x;
    var sum = 0u;
    for (var k = 0u; k < params.side; k += 16u) {
        tile_a[slot] = entry(params.key_a, row, k + local.x);
        tile_b[slot] = entry(params.key_b, k + local.y, column);
        workgroupBarrier();
        for (var i = 0u; i < 16u; i++) {
            sum = plus(sum, times(tile_a[local.y * 16u + i], tile_b[i * 16u + local.x]));
        }
        workgroupBarrier();
    }
    product[(group.y * 16u + local.y) * params.side + column] = select(sum, 0u, sum == PRIME);
}
