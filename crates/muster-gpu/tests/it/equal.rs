//! The kernels equal the reference bit for bit: their Merkle roots over everything that was computed are equal.

use muster_core::proof::{Reference, Seal, Stage, Verdict, Work};
use muster_gpu::prove_locally;

use crate::setup::{Driver, LAVAPIPE, SWIFTSHADER, WITHIN, challenge, open, secrets};

/// Compares all stages of some challenges, whose scenes, samples, bounces, matrices, pads and walks all differ.
fn check(driver: Driver, numbers: std::ops::Range<u64>) {
    let mut prover = open(driver);
    for number in numbers {
        let challenge = challenge(&secrets(number), number);
        let (plan, scene) = challenge.plan();
        let mut work = Work::new(plan);
        let mut reference = Reference::default();
        prover.begin(&challenge, WITHIN).unwrap();
        for stage in Stage::ALL {
            let walk_seed = [u8::try_from(number).unwrap_or(0); 32];
            let right = work.compute(&mut reference, &scene, stage, &walk_seed).unwrap();
            let (root, _) = prover.compute(stage, walk_seed, WITHIN).unwrap();
            assert_eq!(root, right, "{} differs in {stage} of challenge {number}: {plan:?}", driver.name);
        }
        if number % 4 == 0 {
            let (side, rgb) = prover.picture(WITHIN).unwrap();
            assert_eq!((side, Some(rgb)), (plan.picture_side, work.picture()));
        }
    }
}

#[test]
fn lavapipe_equals_the_reference() {
    check(LAVAPIPE, 0..6);
}

#[test]
fn swiftshader_equals_the_reference() {
    check(SWIFTSHADER, 100..106);
}

#[test]
fn proofs_of_both_drivers_hold() {
    for driver in [LAVAPIPE, SWIFTSHADER] {
        let own = secrets(200);
        let challenge = challenge(&own, 200);
        let seal = |digest: &[u8; 32]| Seal(*digest, [0; 32]);
        let transcript = prove_locally(&mut open(driver), &challenge, own, &seal).unwrap();
        // How fast this machine is today is not the test's business; that the work is right is.
        let verdict = transcript.verify();
        let slow = matches!(&verdict, Verdict::Fail(fault) if !fault.is_provable());
        assert!(slow || !matches!(verdict, Verdict::Fail(_)), "{}: {verdict}", driver.name);
        let openings = transcript.openings.as_ref().unwrap();
        assert_eq!(openings.hint.len(), 48);
    }
}
