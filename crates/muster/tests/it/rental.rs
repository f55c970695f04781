//! The first rental, as `make up` does it.

use serde_json::Value;

use crate::network::{code, muster, shown};

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

/// So many hexadecimal digits behind this beginning.
fn hex_of(value: &Value, beginning: &str, digits: usize) {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no text"));
    let rest = text.strip_prefix(beginning).unwrap_or_else(|| panic!("{text} does not begin with {beginning}"));
    assert!(rest.len() == digits && rest.bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
}

/// What the consumer lost is what was billed; what was billed is fee plus what Containers gained: to the last unit.
#[test]
fn the_first_rental_adds_up_and_a_second_start_keeps_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let up = || {
        let mut command = muster();
        command.arg("--json").arg("--dir").arg(dir.path());
        command.args([
            "up",
            "--once",
            "--rpc-port",
            "0",
            "--gateway-port",
            "0",
            "--containers",
            "3",
            "--checkers",
            "0",
            "--picture-width",
            "96",
        ]);
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
        hex_of(&lease["id"], "0x", 64);
        hex_of(&lease["container"], "", 64);
        hex_of(&lease["redeem_tx"], "0x", 64);
    }
    let tasks: std::collections::BTreeSet<u64> = leases.iter().filter_map(|l| l["task"].as_u64()).collect();
    assert_eq!(tasks, (0..24).collect());
    let b = &receipt["balances"];
    let lost = amount(&b["consumer_before"]) - amount(&b["consumer_after"]);
    let gained = amount(&b["container_after"]) - amount(&b["container_before"]);
    assert_eq!(lost, billed);
    assert_eq!(billed, amount(&b["fee"]) + gained);
    assert!(amount(&b["fee"]) > 0);
    let outputs: Vec<&str> = receipt["outputs"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
    assert_eq!(outputs.iter().filter(|o| o.contains("/frames/")).count(), 24, "{outputs:?}");
    assert!(outputs[0].ends_with(".mp4") && outputs[1].ends_with("still.png"), "{outputs:?}");
    for output in outputs {
        let length = std::fs::metadata(output).unwrap().len();
        assert!(length > 1_000, "{output} has {length} bytes");
    }
    // The same is kept in the folder.
    let kept: Value = serde_json::from_slice(&std::fs::read(dir.path().join("first-rental.json")).unwrap()).unwrap();
    assert_eq!(kept, receipt);

    // The same folder again: what was there is there, and the balances go on from where they were.
    let second = up();
    assert_eq!(code(&second), 0, "{}", shown(&second));
    let again: Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_eq!(again["balances"]["consumer_before"], b["consumer_after"]);
}
