//! Answers audited in a whole network: Checkers ask a model through a Gateway like anybody, have the answers replayed by
//! Containers that they rent, and a Container that answers with another model is found out by many answers together, judged by
//! a larger committee, and slashed.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;

use muster_engine::tiny::{self, Numbers, Shape};
use serde_json::Value;

use crate::checkers::{Up, configure, json, page_of, run, told, wait_for};
use crate::network::{code, shown};

/// The model that `calibration/models.toml` calls "generated".
const GENERATED: Shape = Shape { seed: 11, width: 128, layers: 4, left_out: 0, peak: 0.8, numbers: Numbers::F16 };

/// Has the Checkers audit the generated model, at every look, through the Gateway at this port, and play nothing.
fn audit(dir: &Path, model: &Path, port: &str) {
    configure(dir, "answers_every", "1");
    configure(dir, "play_every", "1000000");
    for index in 0..3 {
        let path = dir.join(format!("checker-{index}")).join("checker.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let table = format!(
            "\n[[answers]]\nname = \"generated\"\nquantisation = \"F16\"\npath = {:?}\ncontext = 1536\ncpu_millis = 100\n\n\
             [[answers_through]]\nurl = \"http://127.0.0.1:{port}\"\nkey_file = {:?}\nown = true\n",
            model.display().to_string(),
            dir.join("gateway.key").display().to_string()
        );
        std::fs::write(&path, text + &table).unwrap();
    }
}

/// What Checkers found that was about answers.
fn answered(dir: &Path) -> Vec<(String, String, String)> {
    told(dir, "generated: ")
}

/// How many answers a Checker has had, and through what.
fn answers_by_way(metrics: &str) -> Vec<(String, f64)> {
    let of = |line: &str| {
        let (way, count) = line.strip_prefix("muster_checker_answers_total{way=\"")?.split_once("\"} ")?;
        Some((way.to_owned(), count.parse().ok()?))
    };
    metrics.lines().filter_map(of).collect()
}

#[test]
fn a_container_that_answers_with_another_model_is_found_out_and_slashed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let model = dir.join("generated.gguf");
    tiny::write_shaped(&model, &GENERATED).unwrap();
    // The Gateway is where the Checkers were told that it is.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let args = ["--containers", "3", "--with-cheat", "answers", "--checkers", "3", "--gateway-port", port.as_str()];
    // Made, and stopped, so that every look asks from the next start on.
    drop(Up::start_with(dir, &args));
    audit(dir, &model, &port);
    let _up = Up::start_with(dir, &args);
    let nodes = json(dir, &["container", "status"]);
    let nodes = nodes["containers"].as_array().unwrap().clone();
    let id = |node: &Value| node["status"]["id"].as_str().unwrap().to_owned();
    let cheat = id(nodes.iter().find(|node| node["dir"].as_str().unwrap().ends_with("/cheat")).unwrap());
    // Served by each, for anybody who asks at the Gateway.
    let file = format!("file:{}", model.display());
    let deployed = run(
        dir,
        &[
            "--json",
            "model",
            "deploy",
            &file,
            "--name",
            "for-all",
            "--replicas",
            "4",
            "--cpus",
            "0.1",
            "--context",
            "1536",
        ],
    );
    assert_eq!(code(&deployed), 0, "{}", shown(&deployed));
    let lies = wait_for("a look that shows another model", || {
        answered(dir).into_iter().find(|(_, finding, _)| finding.contains("substituted"))
    });
    assert_eq!(lies.0, cheat, "{lies:?}");
    assert!(lies.2.contains("not the model's"), "{lies:?}");
    let honest = wait_for("a look that shows the model itself", || {
        answered(dir).into_iter().find(|(_, _, why)| why.contains("the model's own"))
    });
    assert_ne!(honest.0, cheat, "{honest:?}");
    // The larger committee, each by answers of its own.
    let (_, _, why) = wait_for("the larger committee to uphold it", || {
        answered(dir).into_iter().find(|(subject, finding, _)| *subject == cheat && finding.contains("upheld"))
    });
    assert!(why.contains("not the model's"), "{why}");
    let status = |of: &str| {
        let nodes = json(dir, &["container", "status"]);
        let node = nodes["containers"].as_array()?.iter().find(|node| node["status"]["id"] == of)?.clone();
        node["status"]["standing"].as_str().map(str::to_ascii_lowercase)
    };
    wait_for("it to be jailed", || status(&cheat)?.contains("jailed").then_some(()));
    let accused: BTreeSet<String> = answered(dir)
        .into_iter()
        .filter(|(_, finding, _)| finding.contains("substituted"))
        .map(|found| found.0)
        .collect();
    assert_eq!(accused, BTreeSet::from([cheat.clone()]), "nobody else is accused: {:#?}", answered(dir));
    for node in nodes.iter().map(id).filter(|node| *node != cheat) {
        assert!(!status(&node).unwrap_or_default().contains("jailed"), "{node} is honest");
    }
    // A Container that is asked sees the Gateway, and no wallet of a Checker's.
    let asked = (0..3).map(|index| page_of(&dir.join(format!("checker-{index}")), "/metrics", None).1);
    let counted: Vec<(String, f64)> = asked.flat_map(|page| answers_by_way(&page)).collect();
    let through = |way: &str| counted.iter().filter(|(known, _)| known == way).map(|(_, count)| count).sum::<f64>();
    // Before a replica is ready there one may have rented.
    assert!(through("gateway") >= 8.0, "{counted:?}");
}
