//! Honest provers pass, whatever goes wrong around them.

use muster_core::proof::{CheckerEvent, End, Gap, Reference, Stage, Transcript, Verdict};
use muster_core::units::Ob;

use crate::play::{Manner, as_claimed, broken, challenge, play, play_plainly, secrets};

#[test]
fn an_honest_card_passes_with_its_speed() {
    let secrets = secrets(1);
    let challenge = challenge(&secrets, 1);
    let transcript = play_plainly(&challenge, secrets, &mut Reference::default());
    let verdict = transcript.verify();
    let Verdict::Pass(measured) = &verdict else { panic!("{verdict}") };
    let off = i64::from(measured.ob.0) - i64::from(challenge.claim.ob.0);
    assert!(off.abs() < 200, "as claimed, to the millisecond's rounding: {verdict}");
    assert!(transcript.sealed().is_some());
}

#[test]
fn a_faster_card_is_capped_at_a_tenth_above_its_model() {
    let secrets = secrets(2);
    let challenge = challenge(&secrets, 1);
    let (plan, _) = challenge.plan();
    let stage_ms = as_claimed(&plan).map(|ms| ms / 3);
    let opens = &mut |_: &mut _, _: &_, _: &_| {};
    let mut manner = Manner { stage_ms, silent_from: 5, instead: None, opens, opening_ms: 1 };
    let verdict = play(&challenge, secrets, &mut Reference::default(), &mut manner).verify();
    let Verdict::Pass(measured) = verdict else { panic!("{verdict}") };
    assert_eq!(measured.ob, Ob::points(110));
}

#[test]
fn transcripts_survive_their_bytes_and_nothing_else_does() {
    let secrets = secrets(3);
    let challenge = challenge(&secrets, 1);
    let transcript = play_plainly(&challenge, secrets, &mut Reference::default());
    let bytes = transcript.bytes();
    let read = Transcript::from_bytes(&bytes).unwrap();
    assert_eq!(read, transcript);
    assert_eq!(read.hash(), transcript.hash());
    assert_eq!(read.verify(), transcript.verify());
    assert!(Transcript::from_bytes(&bytes[1..]).is_none());
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(Transcript::from_bytes(&longer).is_none(), "one form");
    assert!(bytes.len() < 100_000, "{}", bytes.len());
}

#[test]
fn a_card_that_resets_before_the_draw_is_interrupted_not_lying() {
    for (instead, silent_from) in [(broken("the device was lost"), 0), (CheckerEvent::Lost, 2), (broken("x"), 3)] {
        let secrets = secrets(4);
        let challenge = challenge(&secrets, 1);
        let stage_ms = as_claimed(&challenge.plan().0);
        let opens = &mut |_: &mut _, _: &_, _: &_| {};
        let mut manner = Manner { stage_ms, silent_from, instead: Some(instead), opens, opening_ms: 1 };
        let transcript = play(&challenge, secrets, &mut Reference::default(), &mut manner);
        let verdict = transcript.verify();
        let stage = Stage::ALL[silent_from];
        match &verdict {
            Verdict::Inconclusive(Gap::Interrupted { stage: at, .. } | Gap::Lost { stage: at }) => {
                assert_eq!(*at, stage)
            }
            other => panic!("{other}"),
        }
        assert!(matches!(transcript.end, End::Broken { .. } | End::Lost { .. }));
    }
}

#[test]
fn a_checker_that_breaks_the_rules_convicts_nobody() {
    let own = secrets(5);
    let challenge = challenge(&own, 1);
    let good = play_plainly(&challenge, own, &mut Reference::default());
    let convicts = |change: &dyn Fn(&mut Transcript)| {
        let mut transcript = good.clone();
        change(&mut transcript);
        let verdict = transcript.verify();
        !matches!(verdict, Verdict::Inconclusive(Gap::Checker { .. }))
    };
    assert!(!convicts(&|t| t.secrets.nonce[0] ^= 1), "a nonce chosen afterwards");
    assert!(!convicts(&|t| t.walk_seed[0] ^= 1), "walks from somewhere else");
    assert!(!convicts(&|t| t.challenge.version += 1));
    assert!(!convicts(&|t| t.challenge.scale.tiles_opened = 0), "nothing to open");
    assert!(!convicts(&|t| t.challenge.scale.picture_side = 100));
    assert!(!convicts(&|t| t.roots.push(t.roots[0])));
    // What is under the Container's signature cannot be changed without it.
    let mut bent = good.clone();
    bent.openings.as_mut().unwrap().tiles.leaves[0].data[0] ^= 1;
    assert_ne!(bent.sealed().unwrap().0, good.sealed().unwrap().0);
}

#[test]
fn a_slower_card_is_unclear_first_and_fails_then() {
    let verdict = |percent: u64| {
        let secrets = secrets(6);
        let challenge = challenge(&secrets, 1);
        let stage_ms = as_claimed(&challenge.plan().0).map(|ms| ms * 100 / percent);
        let opens = &mut |_: &mut _, _: &_, _: &_| {};
        let mut manner = Manner { stage_ms, silent_from: 5, instead: None, opens, opening_ms: 1 };
        play(&challenge, secrets, &mut Reference::default(), &mut manner).verify()
    };
    assert!(matches!(verdict(94), Verdict::Pass(_)));
    assert!(matches!(verdict(87), Verdict::Inconclusive(Gap::Slower { stage: Stage::Render, .. })));
    assert!(matches!(verdict(75), Verdict::Fail(_)));
}
