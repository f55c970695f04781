//! The child and its parent's lines.

use muster_stream::control::LINE_BYTES_MAX;

use crate::rig::{Can, Player, Rig, Stream, config};

#[test]
fn it_ends_with_its_parent() {
    let mut rig = Rig::start(|_| {});
    let _player = Player::join(&mut rig.stream, 1, Can::H264);
    rig.stream.close();
    assert!(rig.stream.ended());
    // Also one that was never told what to do.
    let mut bare = Stream::bare();
    bare.close();
    assert!(bare.ended());
}

#[test]
fn a_display_that_never_comes_is_said_so() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut stream = Stream::start(&config(&nowhere.path().join("X1")));
    let why = stream.failed();
    assert!(why.starts_with("cannot reach the display at "), "{why}");
    assert!(stream.ended());
}

#[test]
fn a_display_that_goes_away_is_said_so() {
    let Rig { mut stream, program, display, .. } = Rig::start(|_| {});
    let _player = Player::join(&mut stream, 1, Can::H264);
    drop(program);
    drop(display);
    let why = stream.failed();
    assert!(why.contains("display"), "{why}");
    assert!(stream.ended());
}

#[test]
fn a_program_that_draws_nothing_is_given_up() {
    let display = crate::rig::Xvfb::start();
    let mut config = config(&display.socket);
    config.draw_within_ms = 1_000;
    let mut stream = Stream::start(&config);
    stream.ready();
    let why = stream.failed();
    assert!(why.starts_with("the program has drawn nothing within 1 s"), "{why}");
    assert!(stream.ended());
}

#[test]
fn lines_are_bounded_and_nonsense_ends_it() {
    let mut stream = Stream::bare();
    stream.write(&vec![b'x'; LINE_BYTES_MAX + 1]);
    assert!(!stream.ended());
    let mut rig = Rig::start(|_| {});
    rig.stream.write(b"{\"t\":\"nonsense\"}");
    assert!(rig.stream.ended());
    let mut rig = Rig::start(|_| {});
    rig.stream.write(&vec![b' '; LINE_BYTES_MAX + 1]);
    assert!(rig.stream.ended());
}

#[test]
fn an_address_that_is_taken_is_said_so() {
    let display = crate::rig::Xvfb::start();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = config(&display.socket);
    config.bind = taken.local_addr().unwrap();
    let mut stream = Stream::start(&config);
    let why = stream.failed();
    assert!(why.starts_with("cannot listen for players on 127.0.0.1:"), "{why}");
}

#[test]
fn who_does_nothing_is_warned_and_then_given_up() {
    let mut rig = Rig::start(|config| config.idle_after_ms = 1_000);
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    let note = player.told("note");
    assert_eq!((&note["code"], &note["seconds"]), (&"idle".into(), &1.into()));
    rig.stream.hear("idle", |said| {
        player.step();
        matches!(said, muster_stream::control::FromStream::Idle { ms } if *ms >= 2_000).then_some(())
    });
    assert!(rig.stream.is_alive());
}
