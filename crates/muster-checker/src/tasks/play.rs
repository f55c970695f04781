//! A Checker as a player: rents a live session like anybody, from a wallet that is known for nothing else, and sees for
//! itself what is delivered.
//!
//! When it comes, and whether it comes at all, is this Checker's own chance: who is tested knows the draw, and shall not
//! know this.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster_client::Renter;
use muster_client::job::{JobControl, JobRequest};
use muster_client::live;
use muster_core::delivery::{Asked, Delivered, Promise, Watched, judge};
use muster_core::demand::{Demand, Reach};
use muster_core::ids::NodeId;
use muster_core::live::SessionSpec;
use muster_core::pricing::UsdPerHour;
use muster_core::units::Bytes;
use muster_stream::guest::{Guest, Plan};

use super::Job;
use crate::node::House;

/// What is played, and how it is looked at.
const PROMISE: Promise = Promise { width: 640, height: 360, fps: 30 };
/// The meter of the Sandbox's own program, at the rate of the promise.
const COMMAND: [&str; 4] = ["/.muster/init", muster_stream::METER, "--fps", "30"];
/// The shortest and longest that it is watched, in milliseconds.
const WATCH_MS: (u64, u64) = (4_500, 15_000);
/// What opening and starting may take, once there is room.
const START_WITHIN: Duration = Duration::from_secs(12);
/// Left over at the end for the result.
const GRACE: Duration = Duration::from_millis(500);
/// What is left of the tests must hold a start of the usual length and the shortest watch.
const NEEDS: Duration = Duration::from_millis(3_000 + WATCH_MS.0);
/// The lease's time limit in seconds: what is paid for at most if this Checker dies.
const LIMIT_S: u64 = 60;
/// Codes come no faster than this, in milliseconds, so that each is seen for itself.
const APART_MS: u64 = 700;

/// How a Checker plays.
#[derive(Clone, Debug)]
pub struct PlayConfig {
    /// Rents for it, from a wallet of its own.
    pub renter: Renter,
    /// One in so many looks at a Container's work is played.
    pub every: NonZeroU32,
    /// The most that an hour may cost.
    pub price_max: UsdPerHour,
}

/// Stops what it started, whatever becomes of whoever waits.
struct Stopping(JobControl, Arc<AtomicBool>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        self.0.stop();
    }
}

/// Plays, if chance wants it and there is time. `None`: nothing can be said.
pub(super) async fn play(house: &Arc<House>, job: &Job) -> Option<(Delivered, String)> {
    let player = house.player.as_ref()?;
    if rand::random_range(0..player.every.get()) != 0 {
        return None;
    }
    let spare = job.left(house.clock.now()).checked_sub(NEEDS + GRACE)?;
    tokio::time::sleep(spare.mul_f64(rand::random_range(0.0..0.5))).await;
    // One at a time: two pictures to decode would make either look slow.
    let _turn = house.playing.acquire().await.ok()?;
    let left = job.left(house.clock.now()).checked_sub(GRACE)?;
    match tokio::time::timeout(left, visit(player, job.subject, left)).await {
        Ok(Ok(watched)) => {
            let delivered = judge(&watched, &PROMISE);
            metrics::counter!("muster_checker_played_total").increment(1);
            Some((delivered, sentence(&delivered, &watched)))
        }
        Ok(Err(why)) => {
            tracing::info!(container = %job.subject.short(), %why, "not played");
            None
        }
        Err(_) => {
            tracing::info!(container = %job.subject.short(), "not played: it did not begin in time");
            None
        }
    }
}

/// One session, from the request to what was seen. An error is this Checker's own, or that there was nothing to be had.
async fn visit(player: &PlayConfig, container: NodeId, left: Duration) -> Result<Watched, String> {
    let mut request = JobRequest::new(
        Demand {
            cpu_millis: 500,
            memory: Bytes(128 * Bytes::MIB),
            disk: Bytes(16 * Bytes::MIB),
            time_limit_s: LIMIT_S,
            price_max: Some(player.price_max),
            only: vec![Reach { node: container, round_trip_us: None }],
            ..Demand::default()
        },
        COMMAND.map(str::to_owned).to_vec(),
    )
    .with_session(SessionSpec {
        width: PROMISE.width,
        height: PROMISE.height,
        fps: PROMISE.fps,
        sound: false,
        ..SessionSpec::default()
    });
    request.keep_logs = false;
    // Its work may be over soon. Half of what is left is for others, who wait for this Checker's turn.
    let patience = left.saturating_sub(NEEDS) / 2;
    request.busy_patience = patience;
    let begun = Instant::now();
    let (guest, offer) = Guest::offer().map_err(|e| e.to_string())?;
    let live = live::start(player.renter.clone(), request).map_err(|e| e.to_string())?;
    let gone = Arc::new(AtomicBool::new(false));
    let stopping = Stopping(live.control(), Arc::clone(&gone));
    let (line, state) = (live.line(), live.state());
    // Settled on its own, when this look is long over.
    tokio::spawn(live.over());
    let answer = tokio::time::timeout(patience + START_WITHIN, line.offer(0, &offer)).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(refusal)) => return Err(state.borrow().why.clone().unwrap_or(refusal.why)),
        Err(_) => return Err(format!("it did not start within {} s", begun.elapsed().as_secs())),
    };
    let watch = left.saturating_sub(begun.elapsed()).min(left / 3);
    let watch = u64::try_from(watch.as_millis()).unwrap_or(u64::MAX);
    let plan = plan(watch.clamp(WATCH_MS.0, WATCH_MS.1), &mut rand::random_range);
    let playing = tokio::task::spawn_blocking(move || guest.play(&answer, &plan, &gone));
    let watched = playing.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string());
    drop(stopping);
    watched
}

/// Codes and keys at instants that nobody can foretell.
fn plan(watch_ms: u64, draw: &mut impl FnMut(std::ops::Range<u64>) -> u64) -> Plan {
    let mut plan = Plan { watch_ms, ..Plan::default() };
    let mut at = 200;
    while at + 1_000 < watch_ms {
        plan.codes.push((at, u32::try_from(draw(0..1 << 32)).unwrap_or(0)));
        plan.keys.push(at + draw(100..400));
        at += APART_MS + draw(0..APART_MS);
    }
    plan
}

fn sentence(delivered: &Delivered, watched: &Watched) -> String {
    match delivered {
        Delivered::Poor(shortcoming) => format!("as a player: {shortcoming}"),
        Delivered::Unknown => "as a player: seen for too short a time".to_owned(),
        Delivered::Good => {
            let Watched { first_frame_ms, frames, ms, codes: Asked { ms_p95: code, .. }, inputs, .. } = watched;
            let fps_tenths = frames.saturating_mul(10_000) / (*ms).max(1);
            format!(
                "as a player: first picture after {} ms, {}.{} frames/s, codes seen within {code} ms, inputs answered within {} ms",
                first_frame_ms.unwrap_or(0),
                fps_tenths / 10,
                fps_tenths % 10,
                inputs.ms_p95
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_leave_time_to_answer() {
        for (watch, chance) in [(WATCH_MS.0, 0), (WATCH_MS.0, u64::MAX), (WATCH_MS.1, 7)] {
            let plan = plan(watch, &mut |range| (range.start + chance % (range.end - range.start)).min(range.end - 1));
            assert!(plan.codes.len() >= 3, "{plan:?}");
            assert!(plan.codes.windows(2).all(|two| two[1].0 - two[0].0 >= APART_MS));
            assert!(plan.codes.iter().all(|(at, _)| *at + 1_000 < watch));
            assert!(plan.keys.iter().all(|at| *at + 500 < watch));
        }
    }

    #[test]
    fn what_was_seen_reads_well() {
        let watched = Watched {
            ms: 10_000,
            first_frame_ms: Some(412),
            frames: 298,
            codes: Asked { asked: 3, seen: 3, ms_p95: 80 },
            inputs: Asked { asked: 3, seen: 3, ms_p95: 45 },
            ..Watched::default()
        };
        assert_eq!(
            sentence(&Delivered::Good, &watched),
            "as a player: first picture after 412 ms, 29.8 frames/s, codes seen within 80 ms, inputs answered within 45 ms"
        );
    }
}
