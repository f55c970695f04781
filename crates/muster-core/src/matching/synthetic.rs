//! A made-up world to measure and test with: Containers and demands drawn from a seed.
//!
//! The mix is a guess at a market: seven in ten Containers have GPUs, of models whose numbers fall off with their
//! price; asks lie within a factor of two around a common level; a third is full, the cheap ones more often.

use crate::demand::{ComplianceTier, Demand, NetworkId, Objective, Origin, Place, Region, Term, WorkloadKinds};
use crate::hardware::{Capacity, Free, Gpu, GpuModel, GpuSet, GpuVendor};
use crate::ids::NodeId;
use crate::pricing::{Ask, UsdPerHour};
use crate::units::{Bytes, Ob, TokenAmount, UsdMicro};

use super::record::{ContainerState, Provider, SiteId};
use super::search::Random;

/// Name, VRAM in GiB, OB in points, weight.
const MODELS: [(&str, u64, u32, u64); 12] = [
    ("rtx 3060", 12, 380, 30),
    ("rtx 3080", 10, 560, 20),
    ("rtx 3090", 24, 660, 20),
    ("rtx 4060 ti", 16, 500, 20),
    ("rtx 4070", 12, 690, 20),
    ("rtx 4080", 16, 960, 12),
    ("rtx 4090", 24, 1340, 25),
    ("rtx 5090", 32, 1700, 10),
    ("a100", 80, 700, 8),
    ("l40s", 48, 1100, 6),
    ("h100", 80, 1000, 5),
    ("h200", 141, 1050, 2),
];

/// Name, thousandths of a degree north and east.
const REGIONS: [(&str, i32, i32); 20] = [
    ("eu-west-1", 53_350, -6_260),
    ("eu-west-2", 51_510, -130),
    ("eu-central-1", 50_110, 8_680),
    ("eu-central-2", 47_380, 8_540),
    ("eu-north-1", 59_330, 18_070),
    ("eu-south-1", 45_460, 9_190),
    ("us-east-1", 39_040, -77_490),
    ("us-east-2", 40_000, -83_000),
    ("us-west-1", 37_770, -122_420),
    ("us-west-2", 45_520, -122_680),
    ("us-south-1", 29_760, -95_370),
    ("ca-central-1", 45_500, -73_570),
    ("sa-east-1", -23_550, -46_630),
    ("ap-south-1", 19_080, 72_880),
    ("ap-southeast-1", 1_350, 103_820),
    ("ap-southeast-2", -33_870, 151_210),
    ("ap-northeast-1", 35_680, 139_690),
    ("ap-northeast-2", 37_570, 126_980),
    ("me-central-1", 25_200, 55_270),
    ("af-south-1", -33_920, 18_420),
];

/// So many Containers, drawn from a seed: the first n of a larger population are the same.
///
/// # Panics
/// Never: all names and places in the tables are good, which a test makes sure of.
#[must_use]
pub fn population(seed: u64, count: u32) -> Vec<Provider> {
    (0..count).map(|index| container(seed, index)).collect()
}

fn container(seed: u64, index: u32) -> Provider {
    let mut random = Random::new(seed ^ (u64::from(index) << 32));
    let (region, latitude, longitude) = pick(&REGIONS, &mut random);
    let gpus = cards(&mut random);
    let cores = [4, 8, 16, 32, 64][usize::try_from(random.below(5)).unwrap_or(0)];
    let capacity = Capacity {
        cpu_millis: cores * 1000,
        memory: Bytes(u64::from(cores) * (2 + 2 * random.below(3)) * Bytes::GIB),
        disk: Bytes((100 + random.below(2_000)) * Bytes::GIB),
        gpus,
    };
    // From 0.6 to 1.4 of the common level, the middle more often.
    let level = 600 + random.below(400) + random.below(400);
    let ask = |common: u64, random: &mut Random| UsdMicro(common * level / 1000 * (950 + random.below(100)) / 1000);
    let ask = Ask {
        obh: ask(400, &mut random),
        gpu_hour_min: ask(100_000, &mut random),
        core_hour: ask(20_000, &mut random),
        memory_gib_hour: ask(3_000, &mut random),
        disk_gib_hour: ask(100, &mut random),
        reserved_bps: (random.below(2) == 0).then_some(7_000),
    };
    let free = free(&capacity, level, &mut random);
    let mut node = [0u8; 32];
    for chunk in node.chunks_mut(8) {
        chunk.copy_from_slice(&random.draw().to_be_bytes());
    }
    let jitter = |random: &mut Random| i32::try_from(random.below(4_000)).unwrap_or(0) - 2_000;
    let place = Place::new(latitude + jitter(&mut random), (longitude + jitter(&mut random)).clamp(-180_000, 180_000));
    let state = match random.below(50) {
        0 => ContainerState::Offline,
        1 => ContainerState::Draining,
        _ if free == Free::all_of(&capacity) => ContainerState::Standby,
        _ => ContainerState::Serving,
    };
    Provider {
        node: NodeId(node),
        state,
        capacity,
        free,
        ask,
        region: Some(Region::new(region).expect("the tables hold good regions")),
        origin: Origin {
            place: Some(place.expect("the tables hold good places")),
            network: Some(NetworkId(u32::try_from(random.below(2_000)).unwrap_or(0))),
        },
        site: (random.below(3) == 0).then(|| SiteId(random.below(5_000))),
        bandwidth_mbps: [50, 100, 500, 1_000, 10_000][usize::try_from(random.below(5)).unwrap_or(0)],
        kinds: WorkloadKinds::PROCESS,
        egress: random.below(3) > 0,
        compliance: match random.below(10) {
            0 => ComplianceTier::Certified,
            1..=3 => ComplianceTier::Verified,
            _ => ComplianceTier::Open,
        },
        time_limit_s_max: 7 * 86_400,
        quality_bps: u16::try_from(10_000 - random.below(3_000) * random.below(1_000) / 1_000).unwrap_or(0),
        stake: TokenAmount(u128::from(1_000 + random.below(10_000)) * TokenAmount::ONE.0),
        warm: Vec::new(),
        models: None,
        endpoints: Vec::new(),
    }
}

fn cards(random: &mut Random) -> Vec<Gpu> {
    if random.below(10) >= 7 {
        return Vec::new();
    }
    let weights: u64 = MODELS.iter().map(|model| model.3).sum();
    let mut place = random.below(weights);
    let drawn = MODELS.iter().find(|model| {
        let here = place < model.3;
        place = place.saturating_sub(model.3);
        here
    });
    let (name, vram_gib, points, _) = *drawn.unwrap_or(&MODELS[0]);
    let count = [1, 1, 1, 1, 2, 2, 4, 8][usize::try_from(random.below(8)).unwrap_or(0)];
    let card = Gpu {
        model: GpuModel::new(name).expect("the tables hold good models"),
        vendor: GpuVendor::Nvidia,
        vram: Bytes(vram_gib * Bytes::GIB),
        // Proven speeds differ by a few per cent.
        ob: Ob(points * (97 + u32::try_from(random.below(6)).unwrap_or(0))),
    };
    vec![card; count]
}

/// A third is full, and more of the cheap than of the dear; a third is half taken; the rest is idle.
fn free(capacity: &Capacity, level: u64, random: &mut Random) -> Free {
    let busy = random.below(1_000) + 1_000;
    let all = Free::all_of(capacity);
    if busy > level + 700 {
        return Free { cpu_millis: 0, gpus: GpuSet::NONE, memory: Bytes(all.memory.0 / 16), ..all };
    }
    if busy > level + 350 {
        let gpus = GpuSet(all.gpus.0 & random.draw());
        let cpu_millis = all.cpu_millis / 1000 * u32::try_from(random.below(1000)).unwrap_or(0);
        return Free {
            cpu_millis,
            memory: Bytes(all.memory.0 / 1000 * random.below(1000)),
            disk: Bytes(all.disk.0 / 2),
            gpus,
        };
    }
    all
}

/// So many demands, drawn from a seed: half for cores alone, half for GPUs; one in a hundred cannot be met.
///
/// # Panics
/// Never: all names and places in the tables are good, which a test makes sure of.
#[must_use]
pub fn demands(seed: u64, count: u32) -> Vec<Demand> {
    (0..count).map(|index| demand(seed, index)).collect()
}

fn demand(seed: u64, index: u32) -> Demand {
    let mut random = Random::new(!seed ^ (u64::from(index) << 32));
    let cores = 1 << random.below(4);
    let mut demand = Demand {
        cpu_millis: cores * 1000,
        memory: Bytes(u64::from(cores) * (1 + random.below(2)) * Bytes::GIB),
        disk: Bytes((1 + random.below(50)) * Bytes::GIB),
        egress: random.below(4) == 0,
        objective: [Objective::Cheapest, Objective::Balanced, Objective::Best]
            [usize::try_from(random.below(3)).unwrap_or(0)],
        term: if random.below(10) == 0 { Term::Reserved } else { Term::OnDemand },
        ..Demand::default()
    };
    match random.below(10) {
        0..=4 => {}
        5..=7 => {
            let (name, vram_gib, points, _) = pick(&MODELS, &mut random);
            demand.gpu_model = Some(GpuModel::new(name).expect("the tables hold good models"));
            demand.gpu_count = 1 << random.below(2);
            demand.vram = Bytes(vram_gib * Bytes::GIB);
            demand.ob = Ob(points * 95);
        }
        _ => {
            demand.gpu_count = 1;
            demand.vram = Bytes([8, 16, 24, 40][usize::try_from(random.below(4)).unwrap_or(0)] * Bytes::GIB);
            demand.ob = Ob::points(300 + u32::try_from(random.below(600)).unwrap_or(0));
        }
    }
    let (region, latitude, longitude) = pick(&REGIONS, &mut random);
    let known = random.below(2) == 0;
    if known {
        demand.origin.place = Some(Place::new(latitude, longitude).expect("the tables hold good places"));
    }
    match random.below(10) {
        0..=2 => demand.region = Some(Region::new(region).expect("the tables hold good regions")),
        3 => {
            let continent = region.split('-').next().unwrap_or(region);
            demand.region = Some(Region::new(continent).expect("the tables hold good regions"));
        }
        4 | 5 if known => demand.latency_ms_max = Some(20 + u32::try_from(random.below(60)).unwrap_or(0)),
        _ => {}
    }
    if random.below(5) == 0 {
        demand.price_max = Some(UsdPerHour(200_000 + random.below(3_000_000)));
    }
    if random.below(100) == 0 {
        demand.cpu_millis = 1_000_000;
    }
    demand
}

fn pick<T: Copy, const N: usize>(table: &[T; N], random: &mut Random) -> T {
    let index = usize::try_from(random.below(u64::try_from(N).unwrap_or(1))).unwrap_or(0);
    table[index.min(N.saturating_sub(1))]
}
