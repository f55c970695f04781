//! What people read.

use super::*;

#[test]
fn nearest_misses_read_well() {
    let check = |providers: Vec<Provider>, change: &dyn Fn(&mut Demand)| {
        let mut demand = Demand::default();
        change(&mut demand);
        view_of(providers).match_one(&demand, 1, NOW).report.nearest_miss.unwrap()
    };
    let cards = || vec![with_gpus(1, vec![gpu("rtx 4090", 24, 1300)]), with_gpus(2, vec![gpu("rtx 3060", 12, 380)])];
    let miss = check(cards(), &|d| (d.gpu_count, d.vram) = (1, Bytes(80 * Bytes::GIB)));
    assert_eq!(miss.sentence, "needs 80 GiB of VRAM; the largest is 24 GiB");
    assert!(!miss.busy);
    let mut busy = cards();
    busy[0].free.gpus = GpuSet::NONE;
    let miss = check(busy, &|d| (d.gpu_count, d.vram) = (1, Bytes(16 * Bytes::GIB)));
    assert_eq!(miss.sentence, "needs 16 GiB of VRAM; the largest free is 12 GiB");
    assert!(miss.busy);
    let miss = check(cards(), &|d| (d.gpu_count, d.gpu_model) = (1, Some(GpuModel::new("h100").unwrap())));
    assert_eq!(miss.sentence, "needs a GPU h100; no Container offers one; offered: rtx3060, rtx4090");
    let miss = check(vec![container(1)], &|d| d.gpu_count = 1);
    assert_eq!(miss.sentence, "needs a GPU; no Container that takes work has one");
    let miss = check(vec![container(1)], &|d| d.cpu_millis = 9_500);
    assert_eq!(miss.sentence, "needs 9.5 cores; the most is 8");
    let miss = check(vec![container(1)], &|d| d.price_max = Some(UsdPerHour(10_000)));
    assert_eq!(
        miss.sentence,
        "needs a price of at most $0.01 per hour; the least where all else fits is $0.02 per hour"
    );
    let miss = check(vec![container(1)], &|d| d.exclude = vec![container(1).node]);
    assert_eq!(miss.sentence, "every Container that fits is excluded by the demand");
    let reach = |of: u32, us| Reach { node: container(of).node, round_trip_us: Some(us) };
    let miss = check(vec![container(1), container(2)], &|d| {
        (d.only, d.latency_ms_max) = (vec![reach(1, 83_400), reach(2, 120_000)], Some(20));
    });
    let who = container(1).node.short();
    assert_eq!(
        miss.sentence,
        format!(
            "none of the 2 Containers that were picked out serves; of the nearest, {who}: needs a round trip of 20 ms; it is 83.4 ms away"
        )
    );
    let miss = check(vec![container(1)], &|d| d.only = vec![reach(7, 1)]);
    assert_eq!(miss.sentence, "none of the 1 Containers that were picked out takes work here just now");
    let miss = check(vec![container(1)], &|d| d.region = Some(region("eu")));
    assert_eq!(miss.sentence, "no Container in eu takes work now; those that do name no region");
    assert_eq!(
        check(vec![], &|_| ()).sentence,
        "no Container takes work here just now: none has joined, or all of them are draining; try again in a moment"
    );
    let offline = Provider { state: ContainerState::Offline, ..container(1) };
    assert_eq!(check(vec![offline], &|_| ()).sentence, "no Container takes work now: 1 offline");
    let (mut cores, mut memory) = (container(1), container(2));
    cores.capacity.memory = Bytes(Bytes::GIB);
    memory.capacity.cpu_millis = 1_000;
    let miss = check(vec![cores, memory], &|d| (d.cpu_millis, d.memory) = (4_000, Bytes(8 * Bytes::GIB)));
    assert_eq!(miss.sentence, "needs 4 cores; the most where all else fits is 1");
}

#[test]
fn rejections_read_well() {
    let mut provider = with_gpus(1, vec![gpu("rtx 4090", 24, 1300)]);
    provider.free.cpu_millis = 500;
    provider.region = Some(region("us-east"));
    let demand = Demand {
        region: Some(region("eu")),
        gpu_count: 1,
        vram: Bytes(80 * Bytes::GIB),
        egress: true,
        ..Demand::default()
    };
    let view = view_of([provider]);
    let whys = view.explain(&demand).remove(0).verdict.unwrap_err();
    let sentences: Vec<String> = whys.iter().map(ToString::to_string).collect();
    assert_eq!(
        sentences,
        [
            "is in us-east, not in eu",
            "lets no work reach the internet",
            "needs 1 cores; 0.5 are free",
            "needs 80 GiB of VRAM; the largest free is 24 GiB",
        ]
    );
}

#[test]
fn policy_bars_cards_and_regions() {
    let rules = vec![
        PolicyRule { region: region("xx"), model: None },
        PolicyRule { region: region("yy"), model: Some(GpuModel::new("h100").unwrap()) },
    ];
    let mut view = View::new(Settings { policy: Policy { rules }, ..Settings::default() }).unwrap();
    let mut add = |n: u32, place: &str| {
        let mut provider = with_gpus(n, vec![gpu("h100", 80, 1000)]);
        provider.region = (!place.is_empty()).then(|| region(place));
        view.upsert(provider.clone()).unwrap();
        provider.node
    };
    let (barred, card_barred, free, unknown) = (add(1, "xx-east"), add(2, "yy"), add(3, "zz"), add(4, ""));
    let cpu = Demand::default();
    let card = Demand { gpu_count: 1, gpu_model: Some(GpuModel::new("H100").unwrap()), ..Demand::default() };
    let chosen = |view: &View, demand: &Demand| -> BTreeSet<NodeId> {
        view.match_one(demand, 1, NOW).choices.iter().map(|c| c.node).collect()
    };
    assert_eq!(chosen(&view, &cpu), BTreeSet::from([card_barred, free]));
    assert_eq!(chosen(&view, &card), BTreeSet::from([free]));
    let whys: BTreeMap<NodeId, String> =
        view.explain(&card).into_iter().filter_map(|e| Some((e.node, e.verdict.err()?.first()?.to_string()))).collect();
    assert_eq!(whys[&barred], "may not be used in xx-east under the network's policy");
    assert_eq!(whys[&card_barred], "may not use its h100 in yy under the network's policy");
    assert_eq!(whys[&unknown], "may not be used in an unknown region under the network's policy");
}

#[test]
fn what_is_held_is_not_offered_again() {
    let mut view = view_of([container(1)]);
    let demand = Demand { cpu_millis: 5_000, ..Demand::default() };
    let choice = view.match_one(&demand, 1, NOW).choices.remove(0);
    assert!(view.hold(&choice.node, &choice.allocation));
    assert!(!view.hold(&choice.node, &choice.allocation), "only 3 cores are left");
    let miss = view.match_one(&demand, 1, NOW).report.nearest_miss.unwrap();
    assert_eq!((miss.sentence.as_str(), miss.busy), ("needs 5 cores; the most free is 3", true));
    assert!(view.update_free(&choice.node, Free::all_of(&container(1).capacity)));
    assert_eq!(view.match_one(&demand, 2, NOW).choices.len(), 1);
    assert!(view.remove(&choice.node));
    assert!(!view.update_free(&choice.node, Free::default()));
    assert!(view.is_empty());
}
