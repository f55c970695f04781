//! The first rental, as `make up` does it.

use serde_json::Value;

use crate::network::{code, muster, shown};

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

/// What the consumer lost is what was billed; what was billed is fee plus what Containers gained: to the last unit.
#[test]
fn the_first_rental_adds_up_and_a_second_start_keeps_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let up = || {
        let mut command = muster();
        command.arg("--json").arg("--dir").arg(dir.path());
        command.args(["up", "--once", "--rpc-port", "0", "--containers", "3", "--picture-width", "96"]);
        command.output().unwrap()
    };
    let first = up();
    assert_eq!(code(&first), 0, "{}", shown(&first));
    let receipt: Value = serde_json::from_slice(&first.stdout).unwrap();
    let leases = receipt["leases"].as_array().unwrap();
    assert!(leases.len() >= 24);
    let mut billed = 0;
    for lease in leases {
        billed += amount(&lease["billed"]);
        assert!(lease["ran_seconds"].as_f64().unwrap() > 0.0, "{lease}");
        assert!(lease["vouchers"].as_u64().unwrap() > 0, "{lease}");
        assert!(lease["id"].as_str().unwrap().starts_with("0x"));
    }
    let tasks: std::collections::BTreeSet<u64> = leases.iter().filter_map(|l| l["task"].as_u64()).collect();
    assert_eq!(tasks, (0..24).collect());
    let b = &receipt["balances"];
    let lost = amount(&b["consumer_before"]) - amount(&b["consumer_after"]);
    let gained = amount(&b["container_after"]) - amount(&b["container_before"]);
    assert_eq!(lost, billed);
    assert_eq!(billed, amount(&b["fee"]) + gained);
    assert!(amount(&b["fee"]) > 0);
    for output in receipt["outputs"].as_array().unwrap() {
        let length = std::fs::metadata(output.as_str().unwrap()).unwrap().len();
        assert!(length > 1_000, "{output} has {length} bytes");
    }

    // The same folder again: what was there is there, and the balances go on from where they were.
    let second = up();
    assert_eq!(code(&second), 0, "{}", shown(&second));
    let again: Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_eq!(again["balances"]["consumer_before"], b["consumer_after"]);
}
