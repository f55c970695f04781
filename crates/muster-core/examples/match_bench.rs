//! Measures matching over a made-up world: `match_bench [CONTAINERS] [SECONDS]`, a table and then one JSON object.
//!
//! One core: everything runs in the main thread. Times are of whole calls, report included.
#![allow(clippy::print_stdout, clippy::disallowed_types, reason = "this program prints and measures time")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures are rounded for people")]

use std::time::{Duration, Instant};

use muster_core::demand::{Demand, Objective};
use muster_core::hardware::Free;
use muster_core::matching::{Settings, View, synthetic};
use muster_core::units::TimeMs;

const SEED: u64 = 20_260_101;
const DEMANDS: u32 = 20_000;

/// Whether a demand is of a kind.
type Is = fn(&Demand) -> bool;

struct Timings {
    per_second: u64,
    /// The same by the time that the processor was really given to this thread: other work on the machine lowers
    /// `per_second`, not this. 0 where the system does not tell.
    per_cpu_second: u64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

fn timings(mut each: Vec<Duration>, cpu_ns: u64) -> Timings {
    each.sort_unstable();
    let sum: Duration = each.iter().sum();
    let at = |share: f64| each.get((each.len() as f64 * share) as usize).map_or(0.0, |d| d.as_secs_f64() * 1e6);
    Timings {
        per_second: (each.len() as f64 / sum.as_secs_f64()) as u64,
        per_cpu_second: (each.len() as u64).saturating_mul(1_000_000_000).checked_div(cpu_ns).unwrap_or(0),
        p50_us: at(0.5),
        p99_us: at(0.99),
        max_us: each.last().map_or(0.0, |d| d.as_secs_f64() * 1e6),
    }
}

fn show(what: &str, t: &Timings) {
    let Timings { per_second, per_cpu_second, p50_us, p99_us, max_us } = t;
    println!(
        "{what:<26} {per_second:>8}/s ({per_cpu_second:>8}/CPU s)  \
         p50 {p50_us:>6.1} us  p99 {p99_us:>7.1} us  max {max_us:>8.1} us"
    );
}

fn measure(view: &View, demands: &[Demand], limit: Duration) -> (Timings, usize) {
    let begun = Instant::now();
    let cpu_begun = cpu_ns();
    let mut met = 0;
    let mut each = Vec::new();
    for (seed, demand) in (0u64..).zip(demands.iter().cycle()) {
        let before = Instant::now();
        let result = view.match_one(demand, seed, TimeMs(0));
        each.push(before.elapsed());
        met += usize::from(!result.choices.is_empty());
        if seed % 256 == 255 && begun.elapsed() > limit {
            break;
        }
    }
    let share = met * 100 / each.len().max(1);
    (timings(each, cpu_ns() - cpu_begun), share)
}

/// Nanoseconds that this thread was on a processor.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Kilobytes of memory that this process holds; 0 where the system does not tell.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let containers: u32 = args.next().map_or(Ok(100_000), |text| text.parse())?;
    let seconds: u64 = args.next().map_or(Ok(5), |text| text.parse())?;
    let limit = Duration::from_secs(seconds);

    let providers = synthetic::population(SEED, containers);
    let resident_before = resident_kib();
    let begun = Instant::now();
    let mut view = View::new(Settings::default())?;
    for provider in providers.iter().cloned() {
        view.upsert(provider)?;
    }
    let built = begun.elapsed();
    let bytes_each = resident_kib().saturating_sub(resident_before) * 1024 / u64::from(containers.max(1));
    println!("{containers} Containers taken in {:.2} s, {bytes_each} bytes each", built.as_secs_f64());

    let demands = synthetic::demands(SEED, DEMANDS);
    measure(&view, &demands, Duration::from_millis(500));
    let (all, met) = measure(&view, &demands, limit);
    show("all demands", &all);
    println!("{met} % of them were met");
    let kinds: [(&str, Is); 7] = [
        ("cores, cheapest", |d| d.gpu_count == 0 && d.objective == Objective::Cheapest),
        ("cores, balanced or best", |d| d.gpu_count == 0 && d.objective != Objective::Cheapest),
        ("a model of GPU", |d| d.gpu_model.is_some()),
        ("any GPU", |d| d.gpu_model.is_none() && d.gpu_count > 0),
        ("latency limited", |d| d.latency_ms_max.is_some()),
        ("anywhere, near counts", |d| d.region.is_none() && d.origin.place.is_some()),
        ("impossible", |d| d.cpu_millis == 1_000_000),
    ];
    for (name, is) in kinds {
        let of_kind: Vec<Demand> = demands.iter().filter(|d| is(d)).cloned().collect();
        if !of_kind.is_empty() {
            let (of_kind, _) = measure(&view, &of_kind, limit / 8);
            show(name, &of_kind);
        }
    }

    let mut each = Vec::new();
    let cpu_begun = cpu_ns();
    for provider in providers.iter().cycle().take(100_000) {
        let idle = Free::all_of(&provider.capacity);
        for free in [idle, provider.free] {
            let before = Instant::now();
            view.update_free(&provider.node, free);
            each.push(before.elapsed());
        }
    }
    let updates = timings(each, cpu_ns() - cpu_begun);
    show("heartbeats", &updates);

    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    println!(
        "{{\"bench\":\"match\",\"machine\":{{\"cpu\":{cpu:?},\"cores\":{}}},\
         \"parameters\":{{\"containers\":{containers},\"seed\":{SEED},\"demands\":{DEMANDS},\"seconds\":{seconds}}},\
         \"figures\":{{\"matches_per_second\":{},\"matches_per_cpu_second\":{},\"p50_us\":{:.1},\"p99_us\":{:.1},\"max_us\":{:.1},\"met_percent\":{met},\
         \"updates_per_second\":{},\"bytes_per_container\":{bytes_each}}}}}",
        std::thread::available_parallelism().map_or(0, usize::from),
        all.per_second,
        all.per_cpu_second,
        all.p50_us,
        all.p99_us,
        all.max_us,
        updates.per_second,
    );
    Ok(())
}
