//! Provers that cheat, each caught. Where chance takes part, the measured rate is printed beside the predicted one.

use std::convert::Infallible;

use muster_core::hardware::GpuModel;
use muster_core::ids::NodeId;
use muster_core::proof::memory::{Pad, WalkKeys};
use muster_core::proof::multiply::Matrices;
use muster_core::proof::{
    Challenge, ChallengeError, Device, Draw, Fault, Opened, Openings, Plan, Prover, Rates, Reference, Rendering, Stage,
    Transcript, Verdict, WalkShape, Work,
};
use muster_core::render::{Scene, Tile};
use muster_core::units::{Bytes, Ob};

use crate::play::{CONTAINER, Manner, as_claimed, challenge, play, play_opening, play_plainly, secrets};

fn fault(transcript: &Transcript) -> Fault {
    match transcript.verify() {
        Verdict::Fail(fault) => fault,
        other => panic!("not caught: {other}"),
    }
}

/// Whether a tile, row, chunk or walk is left out by a cheat that saves so many thousandths; spread, so that no draw
/// avoids them.
fn is_skipped(index: u32, per_mille: u32) -> bool {
    index.wrapping_mul(2_654_435_769) >> 16 < 65_536 * per_mille / 1_000
}

/// Leaves out a part of each stage, and takes what is cheap in its place.
#[derive(Default)]
struct Skipper {
    honest: Reference,
    tiles: u32,
    rows: u32,
    chains: u32,
    walks: u32,
}

impl Device for Skipper {
    type Error = Infallible;

    fn render(&mut self, scene: &Scene, plan: &Plan, tiles: &mut dyn FnMut(&Tile)) -> Result<(), Infallible> {
        let mut last: Tile = [[0; 2]; 64];
        let mut index = 0;
        self.honest.render(scene, plan, &mut |tile| {
            if !is_skipped(index, self.tiles) {
                last = *tile;
            }
            // The neighbour's picture looks much the same.
            tiles(&last);
            index += 1;
        })
    }

    fn multiply(&mut self, matrices: &Matrices, rows: &mut dyn FnMut(&[u32])) -> Result<(), Infallible> {
        for row in 0..matrices.side {
            match is_skipped(row, self.rows) {
                true => rows(&vec![1; matrices.side as usize]),
                false => rows(&matrices.row(row)),
            }
        }
        Ok(())
    }

    fn fill(&mut self, pad: &Pad, ends: &mut dyn FnMut([u32; 4])) -> Result<(), Infallible> {
        let mut index = 0;
        self.honest.fill(pad, &mut |end| {
            ends(if is_skipped(index, self.chains) { [0; 4] } else { end });
            index += 1;
        })
    }

    fn walk(
        &mut self,
        pad: &Pad,
        keys: WalkKeys,
        shape: WalkShape,
        states: &mut dyn FnMut(&[u32]),
    ) -> Result<(), Infallible> {
        let mut index = 0;
        self.honest.walk(pad, keys, shape, &mut |walked| {
            let mut walked = walked.to_vec();
            if is_skipped(index, self.walks) {
                walked[1..].fill(5);
            }
            states(&walked);
            index += 1;
        })
    }

    fn hint(&mut self) -> Result<Vec<u32>, Infallible> {
        Ok(Vec::new())
    }
}

/// Computes one challenge, and plays with its result in another.
fn replayer(old: &Challenge) -> impl Device<Error = Infallible> {
    let (plan, scene) = old.plan();
    let mut kept: Vec<Tile> = Vec::new();
    let Ok(()) = Reference::default().render(&scene, &plan, &mut |tile| kept.push(*tile));
    Rendering::new(move |_: &Scene, _: &Plan, tiles: &mut dyn FnMut(&Tile)| kept.iter().for_each(tiles))
}

/// How often a draw of 64 from a set hits a marked one, in thousandths, over many nonces.
fn hit_per_mille(plan: &Plan, marked: impl Fn(u32) -> bool) -> u32 {
    const NONCES: u32 = 4_000;
    let roots = [muster_core::ids::ContentHash([5; 32]); 4];
    let hits = (0..NONCES).filter(|nonce| {
        let draw = Draw::new(plan, blake3::hash(&nonce.to_le_bytes()).as_bytes(), &roots);
        draw.tiles.iter().any(|tile| marked(*tile))
    });
    u32::try_from(hits.count()).unwrap() * 1_000 / NONCES
}

#[test]
fn skipped_tiles_are_caught_as_often_as_predicted() {
    let own = secrets(10);
    let small = challenge(&own, 10).plan().0;
    // Production's picture, drawn from by the same code.
    let large = Plan { picture_side: 4_096, ..small };
    for percent in [1_u32, 5, 10, 50] {
        for plan in [&small, &large] {
            let skipped = (0..plan.tiles()).filter(|tile| is_skipped(*tile, percent * 10)).count();
            let share = skipped as f64 / f64::from(plan.tiles());
            let predicted = 1.0 - (1.0 - share).powi(64);
            let measured = f64::from(hit_per_mille(plan, |tile| is_skipped(tile, percent * 10))) / 1_000.0;
            println!(
                "skips {percent} % of {} tiles: caught {measured:.3} measured, {predicted:.3} predicted",
                plan.tiles()
            );
            assert!((measured - predicted).abs() < 0.04, "{percent} %: {measured} and {predicted}");
        }
    }
}

#[test]
fn a_prover_that_skips_is_caught_exactly_when_its_gaps_are_drawn() {
    let mut caught = 0;
    for (round, percent) in [1_u32, 1, 1, 1, 5, 5, 10, 50].into_iter().enumerate() {
        let own = secrets(100 + round as u64);
        let challenge = challenge(&own, 20);
        let mut device = Skipper { tiles: percent * 10, ..Skipper::default() };
        let mut drawn_gap = false;
        let transcript = play_opening(&challenge, own, &mut device, &mut |_, draw, _| {
            drawn_gap = draw.tiles.iter().any(|tile| is_skipped(*tile, percent * 10));
        });
        match transcript.verify() {
            Verdict::Fail(Fault::Wrong { what: Opened::Tiles, index }) => {
                assert!(drawn_gap && is_skipped(u32::try_from(index).unwrap(), percent * 10));
                caught += 1;
            }
            verdict => assert!(!drawn_gap && matches!(verdict, Verdict::Pass(_)), "{percent} %: {verdict}"),
        }
    }
    assert!(caught >= 3, "10 % and more do not get away: {caught}");
}

#[test]
fn other_work_that_is_skipped_is_caught() {
    let own = secrets(11);
    let challenge = challenge(&own, 11);
    for (device, what) in [
        (Skipper { rows: 500, ..Skipper::default() }, Opened::Rows),
        (Skipper { chains: 100, ..Skipper::default() }, Opened::Chunks),
        (Skipper { walks: 900, ..Skipper::default() }, Opened::Segments),
    ] {
        let mut device = device;
        let fault = fault(&play_plainly(&challenge, own, &mut device));
        assert!(matches!(fault, Fault::Wrong { what: at, .. } if at == what), "{fault}");
        assert!(fault.is_provable());
    }
}

#[test]
fn precomputed_and_borrowed_answers_are_wrong() {
    let own = secrets(12);
    let present = challenge(&own, 12);
    let earlier = challenge(&own, 11);
    let neighbour = Challenge { card: 1, ..present.clone() };
    let other_container = Challenge { container: NodeId([8; 32]), ..present.clone() };
    let other_beacon = Challenge { beacon: [4; 32], ..present.clone() };
    for borrowed in [earlier, neighbour, other_container, other_beacon] {
        let mut device = replayer(&borrowed);
        let fault = fault(&play_plainly(&present, own, &mut device));
        // The pictures may differ in size as well: their scenes cost differently.
        assert!(matches!(fault, Fault::Wrong { what: Opened::Tiles, .. }), "{fault}");
    }
}

#[test]
fn an_old_transcript_replayed_is_wrong() {
    let (old, new) = (secrets(13), secrets(14));
    let told = play_plainly(&challenge(&old, 13), old, &mut Reference::default());
    assert!(matches!(told.verify(), Verdict::Pass(_)));
    let mut replayed = play_plainly(&challenge(&new, 14), new, &mut Reference::default());
    // The cheat sends the old roots and openings.
    replayed.roots.clone_from(&told.roots);
    replayed.walk_seed =
        muster_core::proof::transcript::walk_seed(&new, &replayed.challenge.seed(), &told.roots[Stage::Fill.index()]);
    replayed.openings.clone_from(&told.openings);
    let fault = fault(&replayed);
    assert!(matches!(fault, Fault::Openings { what: Opened::Tiles, .. }), "{fault}");
}

#[test]
fn openings_that_are_not_the_draw_are_refused() {
    type Change = fn(&mut Openings, &Draw, &Work);
    let own = secrets(15);
    let challenge = challenge(&own, 15);
    let changes: [(&str, Change); 8] = [
        ("empty", |o, _, _| o.tiles = Default::default()),
        ("all empty", |o, _, _| *o = Openings::default()),
        ("short", |o, _, _| drop(o.tiles.leaves.pop())),
        ("long", |o, draw, work| {
            let more = (0..).find(|tile| !draw.tiles.contains(tile)).unwrap();
            let mut draw = draw.clone();
            draw.tiles.push(more);
            draw.tiles.sort_unstable();
            o.tiles = work.open::<Infallible>(&draw).unwrap().tiles;
        }),
        ("duplicated", |o, _, _| o.tiles.leaves[1] = o.tiles.leaves[0].clone()),
        ("reordered", |o, _, _| o.tiles.leaves.swap(0, 1)),
        ("rows empty", |o, _, _| o.rows = Default::default()),
        ("walks reordered", |o, _, _| o.walks.leaves.swap(0, 1)),
    ];
    for (name, change) in changes {
        let mut change = change;
        let fault = fault(&play_opening(&challenge, own, &mut Reference::default(), &mut change));
        assert!(matches!(fault, Fault::Openings { .. }) && fault.is_provable(), "{name}: {fault}");
    }
}

#[test]
fn valid_paths_to_other_tiles_and_bent_paths_are_refused() {
    let own = secrets(16);
    let challenge = challenge(&own, 16);
    // True tiles with true paths, but not the drawn ones, under the drawn ones' names.
    let fault_of = |opens: &mut dyn FnMut(&mut Openings, &Draw, &Work)| {
        fault(&play_opening(&challenge, own, &mut Reference::default(), opens))
    };
    let fault = fault_of(&mut |o, draw, work| {
        let mut other = draw.clone();
        other.tiles = (0..64).map(|at| draw.tiles[at] ^ 1).collect();
        other.tiles.sort_unstable();
        other.tiles.dedup();
        o.tiles = work.open::<Infallible>(&other).unwrap().tiles;
    });
    assert!(matches!(fault, Fault::Openings { .. }), "{fault}");
    let fault = fault_of(&mut |o, draw, work| {
        let mut other = draw.clone();
        other.tiles = (0..64).collect();
        o.tiles = work.open::<Infallible>(&other).unwrap().tiles;
        o.tiles.leaves.iter_mut().zip(&draw.tiles).for_each(|(leaf, index)| leaf.index = *index);
    });
    assert!(matches!(fault, Fault::Path { what: Opened::Tiles }), "{fault}");
    let fault = fault_of(&mut |o, _, _| o.tiles.path[3][0] ^= 1);
    assert!(matches!(fault, Fault::Path { what: Opened::Tiles }), "{fault}");
    // A tile computed after the draw is right, but it is not under the root.
    let fault = fault_of(&mut |o, _, _| o.chunks.leaves[0].data[0] ^= 1);
    assert!(matches!(fault, Fault::Path { what: Opened::Chunks }), "{fault}");
}

/// Plays with these times for the stages.
fn timed(challenge: &Challenge, number: u64, stage_ms: [u64; 4]) -> Verdict {
    let opens = &mut |_: &mut _, _: &_, _: &_| {};
    let mut manner = Manner { stage_ms, silent_from: 5, instead: None, opens, opening_ms: 1 };
    play(challenge, secrets(number), &mut Reference::default(), &mut manner).verify()
}

#[test]
fn one_card_that_serves_many_takes_as_many_times_as_long() {
    // All are challenged at the same instant; the card works them off together.
    for shared_by in 1..=4_u64 {
        let own = secrets(17);
        let challenge = challenge(&own, 17);
        let stage_ms = as_claimed(&challenge.plan().0).map(|ms| ms * shared_by);
        let verdict = timed(&challenge, 17, stage_ms);
        println!("one card as {shared_by}: {verdict}");
        assert_eq!(matches!(verdict, Verdict::Pass(_)), shared_by == 1, "{verdict}");
        assert_eq!(matches!(verdict, Verdict::Fail(_)), shared_by > 1, "{verdict}");
    }
}

#[test]
fn a_claim_of_twice_the_memory_is_slow_or_wrong() {
    let own = secrets(18);
    let mut challenge = challenge(&own, 18);
    // Walks long enough to be judged by their time.
    challenge.rates.reads_per_ob = 2;
    let plan = challenge.plan().0;
    assert!(plan.predicted_ms[3] > 20, "{plan:?}");
    // Half of the reads miss and write a chain again: 8,192 steps one after the other, each at least as long as 1/100
    // of a read from the card's memory. A quarter of that already fails.
    let miss = 8_192 / 100;
    let mut stage_ms = as_claimed(&plan);
    stage_ms[3] = (stage_ms[3] + stage_ms[3] * miss) / 2;
    let verdict = timed(&challenge, 18, stage_ms);
    assert!(
        matches!(
            verdict,
            Verdict::Fail(Fault::Slow { stage: Stage::Walk, .. } | Fault::Late { stage: Stage::Walk, .. })
        ),
        "{verdict}"
    );
    // Making the missing words up instead is wrong: of each walk half of the reads are.
    let mut device = Skipper { walks: 1_000, ..Skipper::default() };
    let fault = fault(&play_plainly(&challenge, own, &mut device));
    assert!(matches!(fault, Fault::Wrong { what: Opened::Segments, .. }), "{fault}");
}

#[test]
fn a_better_model_than_there_is_does_not_pass() {
    let own = secrets(19);
    let mut challenge = challenge(&own, 19);
    challenge.claim.model = GpuModel::new("RTX 4090").unwrap();
    let rates = Rates { table_ob: Ob::points(1_270), uncertainty_percent: 10, ..challenge.rates };
    challenge.rates = rates;
    challenge.claim.ob = Ob::points(1_270);
    // An RTX 4070 (590 points) answers for it.
    let stage_ms = as_claimed(&challenge.plan().0).map(|ms| ms * 1_270 / 590);
    let verdict = timed(&challenge, 19, stage_ms);
    assert!(matches!(verdict, Verdict::Fail(Fault::Slow { stage: Stage::Render, .. })), "{verdict}");
    // And nobody claims more than a tenth above the table.
    challenge.claim.ob = Ob::points(1_400);
    let verdict = timed(&challenge, 19, as_claimed(&challenge.plan().0));
    assert!(matches!(verdict, Verdict::Fail(Fault::Claim { .. })), "{verdict}");
    challenge.claim = muster_core::proof::Claim { ob: Ob::points(1_397), vram: Bytes(1 << 30), ..challenge.claim };
    let verdict = timed(&challenge, 19, as_claimed(&challenge.plan().0));
    assert!(matches!(verdict, Verdict::Pass(_)), "{verdict}");
}

#[test]
fn late_and_stalling_provers_fail() {
    let own = secrets(20);
    let challenge = challenge(&own, 20);
    let plan = challenge.plan().0;
    for stage in Stage::ALL {
        let mut stage_ms = as_claimed(&plan);
        stage_ms[stage.index()] = u64::from(plan.deadline_ms[stage.index()]) + 1;
        let verdict = timed(&challenge, 20, stage_ms);
        assert!(matches!(verdict, Verdict::Fail(Fault::Late { stage: at, .. }) if at == stage), "{verdict}");
    }
    for silent_from in 0..5 {
        let opens = &mut |_: &mut _, _: &_, _: &_| {};
        let mut manner = Manner { stage_ms: as_claimed(&plan), silent_from, instead: None, opens, opening_ms: 1 };
        let fault = fault(&play(&challenge, own, &mut Reference::default(), &mut manner));
        match Stage::ALL.get(silent_from) {
            Some(stage) => assert!(matches!(fault, Fault::Silent { stage: at, .. } if at == *stage), "{fault}"),
            None => assert!(matches!(fault, Fault::Withheld { .. }), "{fault}"),
        }
    }
    // After the draw it is too late to have broken down: everything that is opened lies outside of the card.
    for instead in [crate::play::broken("the card fell out"), muster_core::proof::CheckerEvent::Lost] {
        let opens = &mut |_: &mut _, _: &_, _: &_| {};
        let mut manner =
            Manner { stage_ms: as_claimed(&plan), silent_from: 4, instead: Some(instead), opens, opening_ms: 1 };
        let fault = fault(&play(&challenge, own, &mut Reference::default(), &mut manner));
        assert!(matches!(fault, Fault::Withheld { .. }), "{fault}");
    }
    let opens = &mut |_: &mut _, _: &_, _: &_| {};
    let opening_ms = u64::from(challenge.scale.opening_ms) + 1;
    let mut manner = Manner { stage_ms: as_claimed(&plan), silent_from: 5, instead: None, opens, opening_ms };
    let fault = fault(&play(&challenge, own, &mut Reference::default(), &mut manner));
    assert!(matches!(fault, Fault::Withheld { .. }), "{fault}");
}

#[test]
fn somebody_else_s_challenge_is_not_begun() {
    let own = secrets(21);
    let challenge = Challenge { container: NodeId([8; 32]), ..challenge(&own, 21) };
    let refused = Prover::begin(&challenge, &CONTAINER).unwrap_err();
    assert!(matches!(refused, ChallengeError::Container { .. }), "{refused}");
}
