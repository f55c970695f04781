//! Sound to the player, and the player's voice to the program.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

use crate::rig::{Can, Player, Rig};

pub(crate) const STEP: Duration = Duration::from_millis(20);

pub(crate) fn pipe(path: &Path) {
    mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).unwrap();
}

/// For both ways, like sound servers do.
pub(crate) fn open(path: &Path) -> File {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// 20 ms of a tone of 500 Hz in both channels, or of nothing.
pub(crate) fn step(loud: bool) -> Vec<u8> {
    let sample = |at: u16| (f64::from(at) * 500.0 * std::f64::consts::TAU / 48_000.0).sin() * 8_000.0;
    #[expect(clippy::cast_possible_truncation, reason = "8000 at the most")]
    let sample = |at: u16| if loud { sample(at) as i16 } else { 0 };
    (0..960).flat_map(|at| [sample(at), sample(at)]).flat_map(i16::to_le_bytes).collect()
}

/// Plays as a server with a clock does, until it is so.
fn play(player: &mut Player, file: &mut File, loud: bool, mut is: impl FnMut(&Player) -> bool) {
    let (begin, mut steps, bytes) = (Instant::now(), 0, step(loud));
    player.until("sound", |player| {
        while begin + STEP * steps <= Instant::now() {
            // What finds no room is lost, there as here.
            let _ = file.write(&bytes);
            steps += 1;
        }
        is(player)
    });
}

/// The loudest sample.
pub(crate) fn loudness(packets: &[(u64, Vec<u8>)]) -> u16 {
    let mut decoder = opus::Decoder::new(48_000, opus::Channels::Stereo).unwrap();
    let mut loudest = 0;
    for (_, packet) in packets {
        let mut samples = [0; 5_760 * 2];
        let count = decoder.decode(packet, &mut samples, false).unwrap();
        assert_eq!(count, 480);
        loudest = samples[..count * 2].iter().map(|sample| sample.unsigned_abs()).max().unwrap().max(loudest);
    }
    loudest
}

#[test]
fn the_player_hears_the_program_and_silence_costs_nothing() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("sound");
    let mut rig = Rig::start(|config| config.sound_pipe = Some(path.clone()));
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    // The sound's server comes later than the player.
    pipe(&path);
    let mut file = open(&path);
    play(&mut player, &mut file, true, |player| player.sound.len() >= 60);
    assert!((6_000..=12_000).contains(&loudness(&player.sound)), "{}", loudness(&player.sound));
    let follow = player.sound.windows(2).filter(|pair| pair[1].0 == pair[0].0 + 480).count();
    assert!(follow * 10 >= player.sound.len() * 8, "of {} only {follow} follow", player.sound.len());
    // Silence is sent for a second, and then nothing is, though the server goes on.
    let (mut known, mut since) = (0, Instant::now());
    play(&mut player, &mut file, false, |player| {
        if player.sound.len() > known {
            (known, since) = (player.sound.len(), Instant::now());
        }
        since.elapsed() > Duration::from_millis(400)
    });
    player.sound.clear();
    // The server goes, and another comes.
    drop(file);
    player.ping();
    let mut file = open(&path);
    play(&mut player, &mut file, true, |player| player.sound.len() >= 20);
    assert!(loudness(&player.sound) > 6_000);
}

#[test]
fn the_program_hears_the_player() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("microphone");
    pipe(&path);
    let mut rig = Rig::start(|config| config.microphone_pipe = Some(path.clone()));
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    let mut encoder = opus::Encoder::new(48_000, opus::Channels::Stereo, opus::Application::Voip).unwrap();
    let samples: Vec<i16> = step(true).as_chunks::<2>().0.iter().copied().map(i16::from_le_bytes).collect();
    let mut at = 0;
    let mut speak = |player: &mut Player| {
        at += 960;
        player.speak(at, &encoder.encode_vec(&samples, 1_275).unwrap());
    };
    // Nobody reads yet; nothing waits for a reader.
    for _ in 0..30 {
        speak(&mut player);
    }
    player.ping();
    let mut file = open(&path);
    let mut heard = Vec::new();
    player.until("voice", |player| {
        speak(player);
        let mut some = [0; 1 << 14];
        if let Ok(count) = file.read(&mut some) {
            heard.extend_from_slice(&some[..count]);
        }
        heard.as_chunks::<2>().0.iter().any(|two| i16::from_le_bytes(*two) > 6_000)
    });
    // Nonsense in place of Opus is left out.
    player.speak(at + 960, &[0xff; 40]);
    player.speak(at + 1_920, &[]);
    player.ping();
}
