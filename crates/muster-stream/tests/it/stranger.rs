//! Packets of people who were not asked.

use std::net::UdpSocket;
use std::time::Duration;

use crate::rig::{Can, Player, Rig};

/// A binding request with this user, as ICE sends it but for the integrity, which a stranger cannot make.
fn binding(user: &str) -> Vec<u8> {
    let mut attributes = Vec::new();
    let mut add = |kind: u16, value: &[u8]| {
        attributes.extend(kind.to_be_bytes());
        attributes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        attributes.extend(value);
        attributes.resize(attributes.len().next_multiple_of(4), 0);
    };
    add(0x0006, user.as_bytes());
    add(0x0024, &[0x6e, 0, 0, 1]);
    add(0x802a, &[7; 8]);
    add(0x0025, &[]);
    add(0x0008, &[9; 20]);
    let mut packet = vec![0, 1];
    packet.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    packet.extend(0x2112_a442u32.to_be_bytes());
    packet.extend([5; 12]);
    packet.extend(attributes);
    packet
}

#[test]
fn a_flood_holds_up_no_picture_and_is_not_answered() {
    let mut rig = Rig::start(|_| {});
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    player.until("picture", |player| player.picture.is_some());
    let strangers: Vec<UdpSocket> = (0..8)
        .map(|_| {
            let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
            stranger.connect(rig.listens).unwrap();
            stranger.set_nonblocking(true).unwrap();
            stranger
        })
        .collect();
    let junk = [binding("nobody:stranger"), vec![22; 60], vec![0x80; 1_200], vec![0x41; 300]];
    let ticks = rig.stream.ticks();
    // Between two pictures come more packets than the socket has room for, if they were let in.
    for round in 0..20 {
        for at in 0..1_000 {
            strangers[at % 8].send(&junk[at % 4]).unwrap();
        }
        let before = player.frames;
        rig.program.draw();
        player.until("a picture under siege", |player| player.frames > before);
        player.act(serde_json::json!({"t": "move", "x": 0.5, "y": f64::from(round) / 20.0}));
    }
    player.ping();
    eprintln!(
        "20,000 strange packets: {} hundredths of a second in the child, pictures included",
        rig.stream.ticks() - ticks
    );
    for stranger in &strangers {
        assert!(stranger.recv(&mut [0; 2_000]).is_err(), "a stranger got an answer");
    }
    // Nothing was missed: what the player did last is what the program got last.
    let moved = |event: &x11rb::protocol::Event| matches!(event, x11rb::protocol::Event::MotionNotify(at) if at.root_y == 360 * 19 / 20);
    player.until("the last motion", |_| rig.program.events().iter().any(moved));
}

#[test]
fn strangers_get_no_answer_and_disturb_nobody() {
    let mut rig = Rig::start(|_| {});
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.connect(rig.listens).unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut packets = vec![
        Vec::new(),
        vec![0],
        vec![22],
        vec![0x80],
        binding("nobody:stranger"),
        binding(""),
        binding("a:b")[..20].to_vec(),
        binding("a:b")[..25].to_vec(),
        // A greeting of DTLS 1.2, and what looks like the rest of it.
        [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 50, 1, 0, 0, 38][..], &[0; 46]].concat(),
        [&[23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 30][..], &[3; 30]].concat(),
        // RTP and RTCP.
        [&[0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2][..], &[1; 40]].concat(),
        [&[0x80, 200, 0, 6, 0, 0, 0, 1][..], &[0; 20]].concat(),
        vec![0xff; 1_999],
        vec![0x41; 9_000],
    ];
    let mut seed = 1u32;
    for length in (1..1_500).step_by(37) {
        packets.push(
            (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    seed.to_be_bytes()[0]
                })
                .collect(),
        );
    }
    let silence = |packets: &[Vec<u8>]| {
        for packet in packets {
            stranger.send(packet).unwrap();
        }
        let answer = stranger.recv(&mut [0; 2_000]);
        assert!(answer.is_err(), "a stranger got an answer of {answer:?} bytes");
    };
    // While nobody plays, while somebody joins, and while somebody plays.
    silence(&packets);
    let (_waiting, _, offer) = Player::offers(Can::H264);
    let answer = rig.stream.offer(7, offer).unwrap();
    silence(&packets);
    // A name that is right does not help without the password.
    let name = answer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).unwrap();
    silence(&[binding(&format!("{name}:stranger"))]);
    let mut player = Player::join(&mut rig.stream, 1, Can::H264);
    player.until("picture", |player| player.picture.is_some());
    silence(&packets);
    // Also from the place where the player is, as a network could bring it.
    for packet in packets.iter().filter(|packet| packet.len() < 1_400) {
        player.socket.send_to(packet, rig.listens).unwrap();
        player.step();
    }
    player.ping();
    let before = player.frames;
    player.until("frames", |player| {
        rig.program.draw();
        player.frames > before + 3
    });
    assert!(rig.stream.is_alive());
}
