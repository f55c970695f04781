//! Sound in step with the picture: a program that flashes and clicks at the same instant, and who sees and hears it.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use crate::rig::{Can, HEIGHT, Player, Rig, WIDTH};
use crate::sound::{STEP, open, pipe, step};

const FLASHES: u32 = 15;
const EVERY: u32 = 20;
/// Promised to players.
const SKEW: Duration = Duration::from_millis(80);

/// When a flash or a click came, and when it was made as the sender's reports say.
type Came = (Instant, Option<SystemTime>);

fn middle(mut values: Vec<i64>) -> i64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// How much later the second is, in milliseconds.
fn later(first: SystemTime, second: SystemTime) -> i64 {
    let ms = |of: Duration| i64::try_from(of.as_millis()).unwrap();
    second.duration_since(first).map_or_else(|earlier| -ms(earlier.duration()), ms)
}

#[test]
fn sound_is_in_step_with_the_picture() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("sound");
    pipe(&path);
    let mut rig = Rig::start(|config| config.sound_pipe = Some(path.clone()));
    let mut file = open(&path);
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    let mut decoder = opus::Decoder::new(48_000, opus::Channels::Stereo).unwrap();
    let (quiet, click) = (step(false), step(true));
    let (mut flashes, mut clicks): (Vec<Came>, Vec<Came>) = (Vec::new(), Vec::new());
    let (begin, mut steps, mut bright, mut loud) = (Instant::now(), 0u32, false, false);
    player.until("flashes and clicks", |player| {
        while begin + STEP * steps <= Instant::now() {
            // A second in which sound begins to flow; then a flash and a click of 20 ms, 20 steps apart, together.
            let at_once = steps >= 50 && steps.is_multiple_of(EVERY);
            if at_once || (steps >= 50 && steps % EVERY == EVERY / 2) {
                rig.program.fill(if at_once { 0x00ff_ffff } else { 0 }, 0, 0, WIDTH, HEIGHT);
            }
            let _ = file.write(if at_once { &click } else { &quiet });
            steps += 1;
        }
        let now = Instant::now();
        for (_, packet) in player.sound.drain(..) {
            let mut samples = [0; 5_760 * 2];
            let count = decoder.decode(&packet, &mut samples, false).unwrap();
            let is = samples[..count * 2].iter().any(|sample| sample.unsigned_abs() > 2_000);
            if is && !loud {
                clicks.push((now, player.made[0]));
            }
            loud = is;
        }
        if let Some(picture) = player.picture.take() {
            let is = picture.at(picture.width / 2, picture.height / 2) > 125;
            if is && !bright && steps > 50 {
                flashes.push((now, player.made[1]));
            }
            bright = is;
        }
        flashes.len() >= FLASHES as usize && clicks.len() >= FLASHES as usize
    });
    // One of each is about as old as the other: no flash and no click was missed on a way without losses.
    let pairs: Vec<(Came, Came)> = flashes.into_iter().zip(clicks).collect();
    let arrival = pairs.iter().map(|((flash, _), (click, _))| {
        let ms = |of: Duration| i64::try_from(of.as_millis()).unwrap();
        if click >= flash { ms(*click - *flash) } else { -ms(*flash - *click) }
    });
    let arrival = middle(arrival.collect());
    let told: Vec<i64> =
        pairs.iter().filter_map(|((_, flash), (_, click))| Some(later((*flash)?, (*click)?))).collect();
    assert!(told.len() >= 5, "reports of the sender are missing: {told:?}");
    let told = middle(told);
    eprintln!("sound comes {arrival} ms after its picture, and is said to have been made {told} ms after it");
    // Browsers play them by what the reports say, others as they come: both are in step.
    assert!(i128::from(arrival.abs()) <= i128::try_from(SKEW.as_millis()).unwrap(), "{arrival} ms");
    assert!(i128::from(told.abs()) <= i128::try_from(SKEW.as_millis()).unwrap(), "{told} ms");
}
