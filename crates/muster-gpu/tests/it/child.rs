//! Whatever happens to the child, the parent gets an error and goes on.

use std::path::Path;
use std::time::Duration;

use muster_core::proof::{Draw, Reference, Stage, Work};
use muster_gpu::{CardProver, ProveError};

use crate::setup::{LAVAPIPE, WITHIN, challenge, open, secrets, start};

#[test]
fn without_any_driver_the_processor_proves() {
    let none = [("VK_DRIVER_FILES".into(), "/no/such/driver.json".into())];
    let mut prover = CardProver::start(Path::new(env!("CARGO_BIN_EXE_muster-prove")), &none).unwrap();
    let adapters = prover.adapters(WITHIN).unwrap();
    assert_eq!(adapters.len(), 1, "{adapters:?}");
    assert!(!adapters[0].vulkan && adapters[0].software);
    prover.open(0, WITHIN).unwrap();
    let challenge = challenge(&secrets(1), 1);
    prover.begin(&challenge, WITHIN).unwrap();
    let (plan, scene) = challenge.plan();
    let mut work = Work::new(plan);
    let right = work.compute(&mut Reference::default(), &scene, Stage::Render, &[0; 32]).unwrap();
    assert_eq!(prover.compute(Stage::Render, [0; 32], WITHIN).unwrap().0, right);
}

#[test]
fn what_is_asked_too_early_or_too_much_is_an_error_and_no_end() {
    let mut prover = open(LAVAPIPE);
    let is_card = |error: ProveError| assert!(matches!(error, ProveError::Card { .. }), "{error}");
    is_card(prover.compute(Stage::Render, [0; 32], WITHIN).unwrap_err());
    is_card(prover.open(99, WITHIN).unwrap_err());
    let mut challenge = challenge(&secrets(2), 2);
    prover.begin(&challenge, WITHIN).unwrap();
    is_card(prover.compute(Stage::Walk, [0; 32], WITHIN).unwrap_err());
    let draw = Draw { tiles: vec![0], rows: vec![0], chunks: vec![0], segments: vec![(0, 0)] };
    is_card(prover.open_draw(&draw, WITHIN).unwrap_err());
    challenge.scale.picture_side = 3;
    is_card(prover.begin(&challenge, WITHIN).unwrap_err());
}

#[test]
fn a_child_that_is_gone_is_told_from_one_that_hangs() {
    let gone = CardProver::start(Path::new("/bin/true"), &[]).unwrap().adapters(WITHIN).unwrap_err();
    assert!(matches!(gone, ProveError::Ended), "{gone}");
    let absent = CardProver::start(Path::new("/no/such/program"), &[]).unwrap_err();
    assert!(matches!(absent, ProveError::Start { .. }), "{absent}");
    let mut prover = start(LAVAPIPE);
    let hung = prover.adapters(Duration::ZERO).unwrap_err();
    assert!(matches!(hung, ProveError::TimedOut { .. }), "{hung}");
}
