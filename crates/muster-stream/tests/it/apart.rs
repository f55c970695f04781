//! Sessions side by side on one machine: what one player does, hears and loses is no other's.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;
use x11rb::protocol::Event as XEvent;

use crate::rig::{Can, Player, Rig};
use crate::sound::{STEP, loudness, open, pipe, step};

#[test]
fn three_sessions_do_not_touch_each_other() {
    let place = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..3).map(|at| place.path().join(format!("sound{at}"))).collect();
    paths.iter().for_each(|path| pipe(path));
    let mut rigs: Vec<Rig> =
        paths.iter().map(|path| Rig::start(|config| config.sound_pipe = Some(path.clone()))).collect();
    let mut ports: Vec<u16> = rigs.iter().map(|rig| rig.listens.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
    // The same number in each: numbers of players are a session's own.
    let mut players: Vec<Player> = rigs.iter_mut().map(|rig| Player::join(&mut rig.stream, 1, Can::H264)).collect();

    // Each program draws at a place of its own, and each player sees that one and no other.
    for (at, rig) in (0..).zip(&rigs) {
        rig.program.fill(0x00ff_ffff, 100 + at * 150, 20, 60, 60);
    }
    for (at, player) in players.iter_mut().enumerate() {
        player.until("its own square", |player| {
            let Some(picture) = &player.picture else { return false };
            (0..3).all(|other| (picture.at(130 + other * 150, 50) > 200) == (other == at))
        });
    }

    // What one does reaches its program only.
    let keys = [("KeyA", 38), ("KeyS", 39), ("KeyD", 40)];
    for (player, (code, _)) in players.iter_mut().zip(keys) {
        player.act(json!({"t": "key", "code": code, "key": "x", "down": true}));
    }
    for ((rig, player), (_, wanted)) in rigs.iter().zip(&mut players).zip(keys) {
        let mut pressed = Vec::new();
        player.until("key", |_| {
            let key = |event: &XEvent| if let XEvent::KeyPress(key) = event { Some(key.detail) } else { None };
            pressed.extend(rig.program.events().iter().filter_map(key));
            !pressed.is_empty()
        });
        player.ping();
        assert_eq!(pressed, [wanted]);
    }

    // One program after another is loud: its player hears it, and the others hear nothing.
    let mut files: Vec<_> = paths.iter().map(|path| open(path)).collect();
    for loud in 0..3 {
        players.iter_mut().for_each(|player| player.sound.clear());
        let (begin, mut steps) = (Instant::now(), 0);
        while players[loud].sound.len() < 40 {
            while begin + STEP * steps <= Instant::now() {
                for (at, file) in files.iter_mut().enumerate() {
                    let _ = file.write(&step(at == loud));
                }
                steps += 1;
            }
            players.iter_mut().for_each(Player::step);
            assert!(begin.elapsed() < Duration::from_secs(60), "no sound");
        }
        let heard: Vec<bool> =
            players.iter().map(|player| loudness(&player.sound[10.min(player.sound.len())..]) > 1_000).collect();
        assert_eq!(heard, (0..3).map(|at| at == loud).collect::<Vec<_>>());
        // What is still on its way of this one is not the next one's.
        players.iter_mut().for_each(Player::ping);
    }

    // One is killed, and the others play on.
    drop((rigs.remove(0), players.remove(0)));
    for (rig, player) in rigs.iter_mut().zip(&mut players) {
        let before = player.frames;
        player.until("pictures after another's end", |player| {
            rig.program.draw();
            player.frames > before + 10
        });
        assert!(rig.stream.is_alive());
    }
}
