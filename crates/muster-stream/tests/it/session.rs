//! What a player sees and does.

use std::time::{Duration, Instant};

use serde_json::json;
use x11rb::protocol::Event as XEvent;
use x11rb::protocol::xproto::ConnectionExt as _;

use crate::rig::{Can, HEIGHT, Player, Rig, WIDTH};
use muster_stream::control::{Keyboard, ToStream};

/// Waits until the program has got something.
fn until_got<T>(rig: &Rig, player: &mut Player, what: &str, mut wanted: impl FnMut(&XEvent) -> Option<T>) -> T {
    let mut got = None;
    player.until(what, |_| {
        got = got.take().or_else(|| rig.program.events().iter().find_map(&mut wanted));
        got.is_some()
    });
    got.unwrap()
}

fn pressed(event: &XEvent) -> Option<u8> {
    if let XEvent::KeyPress(key) = event { Some(key.detail) } else { None }
}

fn released(event: &XEvent) -> Option<u8> {
    if let XEvent::KeyRelease(key) = event { Some(key.detail) } else { None }
}

fn moved(event: &XEvent) -> Option<(i16, i16)> {
    if let XEvent::MotionNotify(motion) = event { Some((motion.root_x, motion.root_y)) } else { None }
}

#[test]
fn a_player_sees_what_is_drawn_and_reads_its_code() {
    let mut rig = Rig::start(|_| {});
    let mut player = Player::join(&mut rig.stream, 1, Can::Both);
    let hello = player.told("hello");
    assert_eq!(hello, json!({"t": "hello", "width": WIDTH, "height": HEIGHT, "fps": 30, "codec": "h264"}));
    player.until("picture", |player| player.picture.is_some());
    // A white square where the program drew it, and its ground beside it.
    rig.program.fill(0x00ff_ffff, 560, 20, 60, 60);
    player.until("square", |player| {
        let picture = player.picture.as_ref().unwrap();
        let scale = |v: usize, of: usize, full: u16| v * of / usize::from(full);
        let at = |x, y| picture.at(scale(x, picture.width, WIDTH), scale(y, picture.height, HEIGHT));
        at(590, 50) > 200 && at(520, 50) < 100
    });
    for code in [0xdead_beef, 1, u32::MAX] {
        player.ask(json!({"t": "code", "n": code}));
        player.until("code", |player| player.picture.as_ref().unwrap().code() == Some(code));
    }
    // It goes away again, though nothing else is drawn.
    player.until("end of the code", |player| player.picture.as_ref().unwrap().code().is_none());
    // The times of frames are those that frames had.
    let mut known = Vec::new();
    rig.program.draw();
    player.until("times", |player| {
        known.extend(player.told.drain(..).filter(|message| message["t"] == "frames"));
        let times = known.iter().flat_map(|message| message["f"].as_array().unwrap());
        let times: Vec<u64> = times.map(|pair| pair[0].as_u64().unwrap()).collect();
        times.iter().any(|time| player.video_times.contains(time))
    });
    player.told.clear();
    let stats = player.told("stats");
    assert_eq!((&stats["width"], &stats["height"]), (&json!(WIDTH), &json!(HEIGHT)));
}

#[test]
fn keys_and_the_pointer_reach_the_program() {
    let mut rig = Rig::start(|_| {});
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    // Place of A on every keyboard, whatever it writes.
    player.act(json!({"t": "key", "code": "KeyA", "key": "q", "down": true}));
    assert_eq!(until_got(&rig, &mut player, "press", pressed), 38);
    player.act(json!({"t": "key", "code": "KeyA", "key": "q", "down": false}));
    assert_eq!(until_got(&rig, &mut player, "release", released), 38);

    player.act(json!({"t": "move", "x": 0.5, "y": 0.25}));
    assert_eq!(until_got(&rig, &mut player, "motion", moved), (320, 90));
    player.act(json!({"t": "rel", "dx": 7, "dy": -5}));
    assert_eq!(until_got(&rig, &mut player, "relative motion", moved), (327, 85));
    player.act(json!({"t": "move", "x": 1, "y": 1}));
    assert_eq!(until_got(&rig, &mut player, "the last corner", moved), (639, 359));

    player.act(json!({"t": "button", "b": 2, "down": true, "x": 0.1, "y": 0.1}));
    let button = |event: &XEvent| match event {
        XEvent::ButtonPress(press) => Some((true, press.detail, press.root_x, press.root_y)),
        XEvent::ButtonRelease(press) => Some((false, press.detail, press.root_x, press.root_y)),
        _ => None,
    };
    assert_eq!(until_got(&rig, &mut player, "button", button), (true, 3, 64, 36));
    player.act(json!({"t": "button", "b": 2, "down": false}));
    assert_eq!(until_got(&rig, &mut player, "button", button), (false, 3, 64, 36));
    // Half a notch is kept for the next half.
    player.act(json!({"t": "wheel", "dx": 0, "dy": 0.5}));
    player.act(json!({"t": "wheel", "dx": 0, "dy": 0.5}));
    assert_eq!(until_got(&rig, &mut player, "wheel", button), (true, 5, 64, 36));
    player.act(json!({"t": "wheel", "dx": -1, "dy": 0}));
    let sideways = |event: &XEvent| button(event).filter(|(_, number, ..)| *number != 5);
    assert_eq!(until_got(&rig, &mut player, "wheel", sideways), (true, 6, 64, 36));
    // The first finger is the pointer, the second is not.
    player.act(json!({"t": "touch", "id": 4, "phase": "start", "x": 0.5, "y": 0.5}));
    player.act(json!({"t": "touch", "id": 5, "phase": "start", "x": 0.9, "y": 0.9}));
    player.act(json!({"t": "touch", "id": 4, "phase": "end", "x": 0.25, "y": 0.5}));
    let left = |event: &XEvent| button(event).filter(|(_, number, ..)| *number == 1);
    let mut fingers = Vec::new();
    player.until("finger", |_| {
        fingers.extend(rig.program.events().iter().filter_map(left));
        fingers.len() >= 2
    });
    assert_eq!(fingers, [(true, 1, 320, 180), (false, 1, 160, 180)]);
}

#[test]
fn what_is_held_is_let_go() {
    let mut rig = Rig::start(|_| {});
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    player.act(json!({"t": "key", "code": "KeyW", "key": "w", "down": true}));
    player.act(json!({"t": "release"}));
    assert_eq!(until_got(&rig, &mut player, "release", released), 25);
    player.act(json!({"t": "key", "code": "KeyD", "key": "d", "down": true}));
    assert_eq!(until_got(&rig, &mut player, "press", pressed), 40);
    rig.stream.tell(&ToStream::Drop { player: 1 });
    rig.stream.connected(1, false);
    let mut other = Player::join(&mut rig.stream, 2, Can::H264);
    assert_eq!(until_got(&rig, &mut other, "release", released), 40);
    // One who only looked on and leaves takes no keys along.
    let looker = Player::join(&mut rig.stream, 3, Can::H264);
    other.act(json!({"t": "key", "code": "KeyS", "key": "s", "down": true}));
    assert_eq!(until_got(&rig, &mut other, "press", pressed), 39);
    drop(looker);
    rig.stream.tell(&ToStream::Drop { player: 3 });
    rig.stream.connected(3, false);
    other.ping();
    assert!(!rig.program.events().iter().any(|event| released(event).is_some()));
    // One whose network is gone says nothing more, and lets go all the same.
    let mut third = Player::join(&mut rig.stream, 4, Can::H264);
    assert_eq!(until_got(&rig, &mut third, "release", released), 39);
}

#[test]
fn text_is_what_the_players_keyboard_writes() {
    let mut rig = Rig::start(|config| config.keyboard = Keyboard::Text);
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    for (code, key, sym) in
        [("Semicolon", "ö", 0xf6), ("Quote", "ä", 0xe4), ("KeyZ", "y", 0x79), ("KeyF", "ф", 0x0100_0444)]
    {
        player.act(json!({"t": "key", "code": code, "key": key, "down": true}));
        let number = until_got(&rig, &mut player, "press", pressed);
        assert_eq!(rig.program.keysym(number), sym, "{key}");
        player.act(json!({"t": "key", "code": code, "key": key, "down": false}));
        assert_eq!(until_got(&rig, &mut player, "release", released), number);
    }
}

#[test]
fn two_look_on_and_one_comes_back() {
    let mut rig = Rig::start(|_| {});
    let mut first = Player::join(&mut rig.stream, 1, Can::H264);
    first.until("picture", |player| player.picture.is_some());
    let mut second = Player::join(&mut rig.stream, 2, Can::Both);
    second.until("picture", |player| player.picture.is_some());
    let before = first.frames;
    first.until("a frame after the second came", |player| {
        rig.program.draw();
        player.frames > before
    });
    // The same player from another place: the old connection is not served any more, the new one is.
    first.act(json!({"t": "key", "code": "KeyX", "key": "x", "down": true}));
    until_got(&rig, &mut first, "press", pressed);
    let mut again = Player::join(&mut rig.stream, 1, Can::H264);
    again.until("picture", |player| player.picture.is_some());
    assert_eq!(until_got(&rig, &mut again, "release of what was held", released), 53);
    again.ask(json!({"t": "code", "n": 7}));
    // The code is gone again after a moment, so who saw it first must not make the other miss it.
    let shows = |player: &Player| player.picture.as_ref().is_some_and(|picture| picture.code() == Some(7));
    let mut second_saw = false;
    again.until("code", |player| {
        second.step();
        second_saw |= shows(&second);
        shows(player)
    });
    if !second_saw {
        second.until("code", |player| shows(player));
    }
}

#[test]
fn players_are_told_notes_and_the_end() {
    let mut rig = Rig::start(|_| {});
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    rig.stream.tell(&ToStream::Note { code: "time".into(), text: "One minute is left.".into(), seconds: Some(60) });
    let note = player.told("note");
    assert_eq!(note, json!({"t": "note", "code": "time", "text": "One minute is left.", "seconds": 60}));
    rig.stream.tell(&ToStream::End { text: "The time is over.".into() });
    assert_eq!(player.told("end"), json!({"t": "end", "text": "The time is over."}));
    assert!(rig.stream.ended());
}

#[test]
fn the_session_has_room_for_eight() {
    let mut rig = Rig::start(|_| {});
    for id in 1..=8 {
        assert!(rig.stream.offer(id, Player::offers(Can::H264).2).is_ok());
    }
    let (code, why) = rig.stream.offer(9, Player::offers(Can::H264).2).unwrap_err();
    assert_eq!(code, "too_many_players", "{why}");
    // One that is known replaces its own.
    assert!(rig.stream.offer(3, Player::offers(Can::H264).2).is_ok());
    let (code, _) = rig.stream.offer(4, "v=0 and nonsense".to_owned()).unwrap_err();
    assert_eq!(code, "no_codec");
    let nonsense = "m=video\na=rtpmap:5 H264/90000\na=fmtp:5 packetization-mode=1".to_owned();
    let (code, _) = rig.stream.offer(4, nonsense).unwrap_err();
    assert_eq!(code, "bad_offer");
    // None of the eight says anything, as pages that were closed: their places are given away.
    let end = Instant::now() + Duration::from_secs(60);
    while rig.stream.offer(9, Player::offers(Can::H264).2).is_err() {
        assert!(Instant::now() < end, "nobody makes room");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_browser_without_h264_gets_vp8() {
    let mut rig = Rig::start(|_| {});
    let mut first = Player::join(&mut rig.stream, 1, Can::Vp8);
    assert_eq!(first.told("hello")["codec"], "vp8");
    first.until("frame", |player| player.frames > 0);
    assert_eq!(first.codec, Some(str0m::format::Codec::Vp8));
    // A key frame of VP8 says so in its first bit, and its size after a mark.
    let bytes = first.raw.take().unwrap();
    assert_eq!((bytes[0] & 1, &bytes[3..6]), (0, &[0x9d, 0x01, 0x2a][..]));
    assert_eq!(u16::from_le_bytes([bytes[6], bytes[7]]) & 0x3fff, WIDTH);
    let before = first.frames;
    first.until("more frames", |player| {
        rig.program.draw();
        player.frames > before + 3
    });
    // One picture goes to all: who cannot have it is told so, who can is let in.
    let (code, why) = rig.stream.offer(2, Player::offers(Can::H264).2).unwrap_err();
    assert_eq!(code, "no_codec", "{why}");
    let mut both = Player::join(&mut rig.stream, 3, Can::Both);
    assert_eq!(both.told("hello")["codec"], "vp8");
    both.until("frame", |player| player.frames > 0);
    // Once all have left, the next decides anew.
    for player in [1, 3] {
        rig.stream.tell(&ToStream::Drop { player });
        rig.stream.connected(player, false);
    }
    let mut last = Player::join(&mut rig.stream, 4, Can::Both);
    assert_eq!(last.told("hello")["codec"], "h264");
    last.until("picture", |player| player.picture.is_some());
}

#[test]
fn the_page_draws_the_programs_pointer() {
    let mut rig = Rig::start(|_| {});
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    // The cross of a display on which no program has said anything.
    let shape = player.told("cursor");
    assert!(shape["png"].as_str().is_some_and(|png| png.starts_with("iVBOR")), "{shape}");
    let program = &rig.program;
    // A pointer without a pixel, over the program's window.
    let ids: Vec<u32> =
        (0..2).map(|_| x11rb::connection::Connection::generate_id(&program.connection).unwrap()).collect();
    program.connection.create_pixmap(1, ids[0], program.root, 16, 16).unwrap();
    let gc = x11rb::connection::Connection::generate_id(&program.connection).unwrap();
    program.connection.create_gc(gc, ids[0], &Default::default()).unwrap();
    let whole = x11rb::protocol::xproto::Rectangle { x: 0, y: 0, width: 16, height: 16 };
    program.connection.poly_fill_rectangle(ids[0], gc, &[whole]).unwrap();
    program.connection.create_cursor(ids[1], ids[0], ids[0], 0, 0, 0, 0, 0, 0, 3, 4).unwrap();
    let over = x11rb::protocol::xproto::ChangeWindowAttributesAux::new().cursor(ids[1]);
    program.connection.change_window_attributes(program.window, &over).unwrap().check().unwrap();
    assert_eq!(player.told("cursor"), json!({"t": "cursor", "hidden": true}));
    // Who comes later is told how it is, not how it was.
    let mut later = Player::join(&mut rig.stream, 2, Can::H264);
    assert_eq!(later.told("cursor"), json!({"t": "cursor", "hidden": true}));
}

#[test]
fn the_clipboard_goes_both_ways_for_who_agreed() {
    let mut rig = Rig::start(|_| {});
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    let mut other = Player::join(&mut rig.stream, 2, Can::H264);
    player.ask(json!({"t": "clip", "text": "Käse, 5 €"}));
    // The pong says that the clip was read, and not yet that the display has it.
    player.ping();
    let pasted = loop {
        if let Some(pasted) = rig.program.paste("CLIPBOARD", "UTF8_STRING") {
            break pasted;
        }
    };
    assert_eq!(pasted, "Käse, 5 €".as_bytes());
    assert_eq!(rig.program.paste("PRIMARY", "UTF8_STRING").unwrap(), "Käse, 5 €".as_bytes());
    assert_eq!(rig.program.paste("CLIPBOARD", "STRING").unwrap(), b"K\xe4se, 5 ?");
    assert_eq!(rig.program.paste("CLIPBOARD", "image/png"), None);
    assert!(rig.program.paste("CLIPBOARD", "TARGETS").unwrap().len() >= 8);

    // Nobody agreed yet: the program is not even asked.
    rig.program.copy();
    player.ping();
    other.ping();
    assert!(!rig.program.events().iter().any(|event| matches!(event, XEvent::SelectionRequest(_))));
    player.ask(json!({"t": "clipwanted", "on": true}));
    let gives = |text: &'static str| {
        move |rig: &Rig| {
            for event in rig.program.events() {
                rig.program.give(&event, text.as_bytes());
            }
        }
    };
    let has = |player: &Player, text: &str| player.told.contains(&json!({"t": "clip", "text": text}));
    player.until("what was copied", |player| {
        gives("ß from the program")(&rig);
        has(player, "ß from the program")
    });
    // A change is told, to who agreed and to nobody else.
    rig.program.copy();
    player.until("what was copied after it", |player| {
        gives("another")(&rig);
        has(player, "another")
    });
    other.ping();
    assert!(!other.told.iter().any(|message| message["t"] == "clip"));
    // Too much is a note.
    let long = "x".repeat(60 * 1024 + 1);
    rig.program.copy();
    player.told.clear();
    player.until("a note", |player| {
        for event in rig.program.events() {
            rig.program.give(&event, long.as_bytes());
        }
        player.told.iter().any(|message| message["t"] == "note" && message["code"] == "clip")
    });
    player.ask(json!({"t": "clipwanted", "on": false}));
    player.ping();
    rig.program.copy();
    player.ping();
    assert!(!rig.program.events().iter().any(|event| matches!(event, XEvent::SelectionRequest(_))));
}
