//! Measurements: one object with the figures that are promised. How good they are depends on the machine, so that is not
//! tested.

use serde_json::Value;

use crate::world::User;

/// Measures something small; every figure must be there and above zero.
fn check(args: &[&str], name: &str, figures: &[&str]) -> Value {
    let user = User::of_network();
    let report = user.json(&[&["bench"], args].concat());
    assert_eq!(report["bench"], name);
    let machine = &report["machine"];
    assert!(machine["cores"].as_u64().is_some_and(|cores| cores > 0), "{report}");
    assert!(machine["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()), "{report}");
    assert!(report["parameters"].is_object(), "{report}");
    for figure in figures {
        assert!(report["figures"][figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {report}");
    }
    assert!(!user.dir().exists(), "nothing is left");
    report
}

#[test]
fn chain_and_matching_are_measured() {
    check(&["chain", "--transfers", "100"], "chain", &["transfers_per_second", "single_ms_p50"]);
    let report = check(
        &["match", "--containers", "2000", "--matches", "2000"],
        "match",
        &["matches_per_second", "p99_us", "matched"],
    );
    assert!(report["figures"]["matched"].as_u64().unwrap() > 1_000, "most demands are met: {report}");
}

#[test]
fn leases_and_jobs_are_measured() {
    let times = ["p50_ms", "p90_ms", "p99_ms"];
    let figures = [&times[..], &["leases_per_second", "cpu_ms_per_lease"]].concat();
    let report = check(&["lease", "--leases", "40", "--concurrency", "8"], "lease", &figures);
    // The consumer, the chain, the beacon, an Indexer, two Containers and the Gateway.
    assert_eq!(report["figures"]["roles"].as_array().unwrap().len(), 7, "{report}");
    let report = check(&["job", "--jobs", "3"], "job", &times);
    let figure = |name: &str| report["figures"][name].as_f64().unwrap();
    let steps = ["matched_p50_ms", "opened_p50_ms", "running_p50_ms", "p50_ms", "settled_p50_ms"].map(figure);
    assert!(steps.is_sorted(), "one step follows the other: {report}");
}

#[test]
fn an_idle_network_is_measured() {
    let figures = ["indexer_rss_mib", "container_rss_mib_max", "total_rss_mib", "total_pss_mib", "second_start_s"];
    let report = check(&["idle", "--containers", "1"], "idle", &figures);
    assert_eq!(report["figures"]["roles"].as_array().unwrap().len(), 5, "{report}");
}

#[test]
fn a_gateway_is_measured() {
    let few = ["--rounds", "1", "--seconds", "1", "--connections", "4", "--streams", "8", "--tokens", "5"];
    let figures = ["requests_per_second", "peak_rss_bytes", "played_requests_per_second"];
    let report = check(&[&["gateway"], &few[..]].concat(), "gateway", &figures);
    let ways: Vec<&str> =
        report["figures"]["ways"].as_array().unwrap().iter().filter_map(|way| way["way"].as_str()).collect();
    assert_eq!(ways, ["upstream", "gateway", "gateway_played"]);
}

#[test]
fn impossible_measurements_are_refused() {
    let user = User::new();
    user.refused(&["bench", "match", "--containers", "0"], 101, &["--containers"]);
    user.refused(&["bench", "lease", "--concurrency", "0"], 101, &["--concurrency"]);
    user.refused(&["bench", "job", "--jobs", "0"], 101, &["--jobs"]);
    user.refused(&["bench", "idle", "--containers", "0"], 101, &["--containers"]);
    user.refused(&["bench", "gateway", "--rounds", "0"], 101, &["--rounds"]);
    user.refused(&["bench", "gateway", "--peer", "nginx"], 2, &["NAME=HOST:PORT"]);
    user.refused(&["bench", "nothing"], 2, &["nothing", "--help"]);
    assert!(!user.dir().exists(), "nothing was made");
}

#[test]
fn proofs_and_cards_are_measured() {
    let figures = ["verify_ms_p50", "proof_bytes", "verify_over_prove", "prove_card_s_extrapolated"];
    let report = check(&["proof", "--proofs", "1"], "proof", &figures);
    // These two do not depend on how fast the machine is.
    assert!(report["figures"]["proof_bytes"].as_u64().unwrap() <= 300_000, "{report}");
    assert!(report["figures"]["verify_peak_bytes"].as_u64().unwrap() <= 64 << 20, "{report}");
    let report = check(&["gpu", "--quick"], "gpu", &[]);
    let cards = report["figures"]["cards"].as_array().unwrap();
    assert!(!cards.is_empty(), "where there is no card, a software driver or the processor: {report}");
    for card in cards {
        assert!(card["proof_bytes"].as_u64().unwrap() > 0, "{report}");
        assert!(card["ob"].as_f64().unwrap() <= 110.0, "what the table does not know is never fast: {report}");
    }
}
