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
