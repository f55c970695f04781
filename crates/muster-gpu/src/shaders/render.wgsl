// The renderer's kernel: muster-core/src/render/trace.rs line by line. Change both or neither.

struct Params {
    side: u32,
    spp: u32,
    bounces: u32,
    first_tile: u32,
    tiles: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

// Order of Scene::words.
const MATERIALS: u32 = 262144u;
const DIRECTIONS: u32 = 262272u;
const SUNS: u32 = 265344u;
const SKY: u32 = 266112u;
const GLOW: u32 = 266883u;
const CLOUDS: u32 = 267651u;
const SUN: u32 = 268675u;
const SUN_AT: u32 = 268678u;
const AT: u32 = 268681u;
const FORWARD: u32 = 268684u;
const RIGHT: u32 = 268687u;
const UP: u32 = 268690u;
const HAZE: u32 = 268693u;
const KEYS: u32 = 268694u;

const NEVER: u32 = 0x3fffffffu;
const BRIGHTEST: i32 = 32767;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scene: array<u32>;
@group(0) @binding(2) var<storage, read_write> pixels: array<u32>;

struct Hit {
    material: u32,
    axis: u32,
    time: u32,
    cell: vec3<i32>,
}

struct Walk {
    cell: i32,
    step: i32,
    delta: u32,
    next: u32,
}

fn vector(place: u32) -> vec3<i32> {
    return vec3<i32>(bitcast<i32>(scene[place]), bitcast<i32>(scene[place + 1u]), bitcast<i32>(scene[place + 2u]));
}

fn pcg(word: u32) -> u32 {
    let state = word * 747796405u + 2891336453u;
    let mixed = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (mixed >> 22u) ^ mixed;
}

var<private> random: u32;

fn next_random() -> u32 {
    random = random * 747796405u + 2891336453u;
    let word = ((random >> ((random >> 28u) + 4u)) ^ random) * 277803737u;
    return (word >> 22u) ^ word;
}

fn root(value: u32) -> u32 {
    var rest = value;
    var found = 0u;
    var bit = 1u << 30u;
    for (var i = 0u; i < 16u; i++) {
        if rest >= found + bit {
            rest -= found + bit;
            found = (found >> 1u) + bit;
        } else {
            found = found >> 1u;
        }
        bit = bit >> 2u;
    }
    return found;
}

fn unit(v: vec3<i32>) -> vec3<i32> {
    let square = bitcast<u32>(v.x * v.x) + bitcast<u32>(v.y * v.y) + bitcast<u32>(v.z * v.z);
    let length = max(bitcast<i32>(root(square)), 1);
    return vec3<i32>((v.x << 14u) / length, (v.y << 14u) / length, (v.z << 14u) / length);
}

fn scaled(light: vec3<i32>, by: vec3<i32>, shift: u32) -> vec3<i32> {
    return (light * by) >> vec3<u32>(shift);
}

fn part(v: vec3<i32>, axis: u32) -> i32 {
    return select(select(v.z, v.y, axis == 1u), v.x, axis == 0u);
}

fn begin(at: i32, speed: i32) -> Walk {
    let cell = at >> 8u;
    if speed == 0 {
        return Walk(cell, 0, 0u, NEVER);
    }
    let inside = bitcast<u32>(at & 255);
    let first = select(inside, 256u - inside, speed > 0);
    let delta = (1u << 28u) / bitcast<u32>(abs(speed));
    let next = (delta >> 8u) * first + (((delta & 255u) * first) >> 8u);
    return Walk(cell, select(-1, 1, speed > 0), delta, next);
}

// material 0 is a miss.
fn trace(at: vec3<i32>, direction: vec3<i32>) -> Hit {
    let x = begin(at.x, direction.x);
    let y = begin(at.y, direction.y);
    let z = begin(at.z, direction.z);
    var cell = vec3<i32>(x.cell, y.cell, z.cell);
    var next_x = x.next;
    var next_y = y.next;
    var next_z = z.next;
    // A ray leaves the box, or goes no further than its sides together.
    for (var i = 0u; i < 400u; i++) {
        var axis: u32;
        var time: u32;
        if next_x <= next_y && next_x <= next_z {
            axis = 0u;
            time = next_x;
            cell.x += x.step;
            next_x += x.delta;
        } else if next_y <= next_z {
            axis = 1u;
            time = next_y;
            cell.y += y.step;
            next_y += y.delta;
        } else {
            axis = 2u;
            time = next_z;
            cell.z += z.step;
            next_z += z.delta;
        }
        let cx = bitcast<u32>(cell.x);
        let cy = bitcast<u32>(cell.y);
        let cz = bitcast<u32>(cell.z);
        if cx >= 128u || cy >= 128u || cz >= 64u {
            return Hit(0u, 0u, 0u, vec3<i32>(0));
        }
        let place = (cz << 14u) | (cy << 7u) | cx;
        let material = (scene[place >> 2u] >> ((place & 3u) * 8u)) & 255u;
        if material != 0u {
            return Hit(material, axis, time, cell);
        }
    }
    return Hit(0u, 0u, 0u, vec3<i32>(0));
}

fn cloud(d: i32, up: i32) -> u32 {
    return bitcast<u32>((d * 24 + up * 8192) / up) & 63u;
}

fn sky(direction: vec3<i32>, sharp: bool) -> vec3<i32> {
    let up = clamp(direction.z, 0, 16384);
    let horizon = vector(SKY);
    var light = vector(SKY + 3u * min(bitcast<u32>(up >> 6u), 256u));
    if up > 1200 {
        let at = cloud(direction.y, up) * 64u + cloud(direction.x, up);
        let pattern = bitcast<i32>((scene[CLOUDS + (at >> 2u)] >> ((at & 3u) * 8u)) & 255u);
        let thick = (pattern * min(up - 1200, 2048)) >> 11u;
        let bright = horizon + vec3<i32>(bitcast<i32>(scene[SUN]) >> 3u);
        light = light + scaled(bright - light, vec3<i32>(thick), 8u);
    }
    let sun = vector(SUN_AT);
    let along = ((direction.x * sun.x) >> 14u) + ((direction.y * sun.y) >> 14u) + ((direction.z * sun.z) >> 14u);
    let apart = max(16384 - along, 0);
    if sharp && apart < 4096 {
        light = light + vector(GLOW + 3u * min(bitcast<u32>(apart >> 4u), 255u));
    }
    return light;
}

fn sunlight(at: vec3<i32>, axis: u32, back: bool, share: vec3<i32>, drawn: u32) -> vec3<i32> {
    let sun = vector(SUNS + 3u * (drawn & 255u));
    let along = part(sun, axis);
    let slope = select(along, -along, back);
    if slope <= 0 {
        return vec3<i32>(0);
    }
    if trace(at, sun).material != 0u {
        return vec3<i32>(0);
    }
    return scaled(scaled(vector(SUN), vec3<i32>(slope), 14u), share, 12u);
}

fn scatter(axis: u32, back: bool, drawn: u32) -> vec3<i32> {
    let d = vector(DIRECTIONS + 3u * (drawn & 1023u));
    var a = select(-d.x, d.x, (drawn & (1u << 20u)) == 0u);
    var b = select(-d.y, d.y, (drawn & (1u << 21u)) == 0u);
    if (drawn & (1u << 22u)) != 0u {
        let kept = a;
        a = b;
        b = kept;
    }
    let up = select(d.z, -d.z, back);
    if axis == 0u {
        return vec3<i32>(up, a, b);
    }
    if axis == 1u {
        return vec3<i32>(a, up, b);
    }
    return vec3<i32>(a, b, up);
}

fn arrive_at(at: i32, direction: i32, time: i32, cell: i32, is_axis: bool, back: bool) -> i32 {
    let low = cell << 8u;
    if !is_axis {
        return clamp(at + ((direction * time) >> 14u), low, low + 255);
    }
    return select(low + 256, low - 1, back);
}

fn view(x: u32, y: u32, jitter: u32) -> vec3<i32> {
    let shift = countTrailingZeros(params.side) - 6u;
    let edge = bitcast<i32>(params.side << 8u);
    let u = (bitcast<i32>((x << 9u) + ((jitter & 255u) << 1u)) - edge) >> shift;
    let v = -((bitcast<i32>((y << 9u) + (((jitter >> 8u) & 255u) << 1u)) - edge) >> shift);
    return unit((vector(FORWARD) * 16384 + vector(RIGHT) * u + vector(UP) * v) >> vec3<u32>(14u));
}

fn sample(x: u32, y: u32) -> vec3<u32> {
    var direction = view(x, y, next_random());
    var at = vector(AT);
    var share = vec3<i32>(4096);
    var light = vec3<i32>(0);
    var sharp = true;
    for (var bounce = 0u; bounce <= params.bounces; bounce++) {
        let hit = trace(at, direction);
        if hit.material == 0u {
            light = light + scaled(sky(direction, sharp), share, 12u);
            break;
        }
        if bounce == 0u {
            let haze = bitcast<i32>(min(((hit.time >> 14u) * scene[HAZE]) >> 6u, 3072u));
            light = light + scaled(vector(SKY), vec3<i32>(haze), 12u);
            share = scaled(share, vec3<i32>(4096 - haze), 12u);
        }
        let look = scene[MATERIALS + 2u * (hit.material & 63u)];
        let glow = scene[MATERIALS + 2u * (hit.material & 63u) + 1u];
        let lit = vec3<i32>(bitcast<i32>(glow & 255u), bitcast<i32>((glow >> 8u) & 255u), bitcast<i32>((glow >> 16u) & 255u));
        light = light + scaled(lit << vec3<u32>(8u), share, 12u);
        let back = part(direction, hit.axis) > 0;
        let time = bitcast<i32>(hit.time >> 6u);
        at = vec3<i32>(
            arrive_at(at.x, direction.x, time, hit.cell.x, hit.axis == 0u, back),
            arrive_at(at.y, direction.y, time, hit.cell.y, hit.axis == 1u, back),
            arrive_at(at.z, direction.z, time, hit.cell.z, hit.axis == 2u, back),
        );
        let toss = next_random();
        if (toss & 255u) < (look >> 24u) {
            direction = vec3<i32>(
                select(direction.x, -direction.x, hit.axis == 0u),
                select(direction.y, -direction.y, hit.axis == 1u),
                select(direction.z, -direction.z, hit.axis == 2u),
            );
            let rough = glow >> 24u;
            if rough != 0u {
                direction = unit(direction + (scatter(hit.axis, back, toss >> 8u) >> vec3<u32>((8u - rough) & 31u)));
            }
            sharp = true;
            continue;
        }
        let albedo = vec3<i32>(bitcast<i32>(look & 255u), bitcast<i32>((look >> 8u) & 255u), bitcast<i32>((look >> 16u) & 255u));
        share = scaled(share, albedo, 8u);
        sharp = false;
        light = light + sunlight(at, hit.axis, back, share, next_random());
        direction = scatter(hit.axis, back, next_random());
    }
    return bitcast<vec3<u32>>(clamp(light, vec3<i32>(0), vec3<i32>(BRIGHTEST)));
}

fn mixed(hash: u32, light: u32) -> u32 {
    let product = (hash ^ light) * 2654435769u;
    return product ^ (product >> 15u);
}

fn level(sum: u32) -> u32 {
    let mean = sum / max(params.spp, 1u);
    let shown = (mean << 13u) / (mean + 8192u);
    return min(root(shown * 10u), 255u);
}

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let index = group.y * 32768u + group.x;
    if index >= params.tiles {
        return;
    }
    let tile = params.first_tile + index;
    let across = params.side / 8u;
    let x = (tile % across) * 8u + local.x;
    let y = (tile / across) * 8u + local.y;
    let key = scene[KEYS];
    let place = pcg((y * params.side + x) ^ scene[KEYS + 1u]);
    var sum = vec3<u32>(0u);
    var hash = key;
    for (var i = 0u; i < params.spp; i++) {
        random = pcg(place + pcg(i ^ key));
        let light = sample(x, y);
        sum = sum + light;
        hash = mixed(mixed(mixed(hash, light.x), light.y), light.z);
    }
    let out = (index * 64u + local.y * 8u + local.x) * 2u;
    pixels[out] = 0xff000000u | level(sum.x) | (level(sum.y) << 8u) | (level(sum.z) << 16u);
    pixels[out + 1u] = hash;
}
