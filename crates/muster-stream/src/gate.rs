//! Which packets are looked at at all: those from where a player is, and first words of one that knows a session's name.
//!
//! A flood of others is thrown away by the kernel, before it wakes this process or takes the place of a player's packets in
//! the socket's queue. The kernel's filter is coarse; what it lets through is judged once more here, exactly.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

/// Letters of an ICE user name that are compared; shorter ones do not exist (RFC 8839: 4 at least).
pub(crate) const NAME: usize = 4;
/// Attributes of a request that are looked at for its user name. Everybody sends it among the first five.
const ATTRIBUTES: u32 = 8;
/// Places at once, over all players.
const PLACES_MAX: usize = 64;

/// In front of a packet's own bytes, as the kernel shows a packet to a filter of a UDP socket.
const UDP: u32 = 8;
const STUN_HEADER: u32 = 20;
const BINDING: u32 = 0x0001;
const COOKIE: u32 = 0x2112_a442;
const USERNAME: u32 = 0x0006;

/// Who is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gate {
    /// How the user names of connections begin that may be asked for.
    names: Vec<[u8; NAME]>,
    /// From where packets of players come.
    places: Vec<SocketAddr>,
}

impl Gate {
    pub(crate) fn new(names: Vec<[u8; NAME]>, places: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { names, places: places.into_iter().map(plain).take(PLACES_MAX).collect() }
    }

    /// Whether a packet may be meant for somebody.
    pub(crate) fn admits(&self, source: SocketAddr, bytes: &[u8]) -> bool {
        self.places.contains(&plain(source)) || named(bytes).is_some_and(|name| self.names.contains(&name))
    }

    /// Has the kernel throw away what is not admitted.
    pub(crate) fn close(&self, socket: &UdpSocket) -> io::Result<()> {
        let mut program = self.program();
        let len = u16::try_from(program.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
        let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
        // SAFETY: the socket is open; the option takes exactly this struct, whose pointer and length are those of a vector
        // that lives until the call returns. The kernel checks the program and copies it.
        #[allow(unsafe_code, reason = "the option has no safe wrapper")]
        let code = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size,
            )
        };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The filter, in the kernel's classic language: one accumulator, one index, jumps forward only.
    fn program(&self) -> Vec<libc::sock_filter> {
        let mut code = Vec::new();
        for place in &self.places {
            let (port, words) = (u32::from(place.port()), words(place.ip()));
            // From its port, and then each word of its address; any difference jumps over the rest.
            let mut left = u8::try_from(words.len() * 2 + 1).unwrap_or(u8::MAX);
            code.extend([load(HALF, 0), unless(port, left)]);
            for (at, word) in words {
                left -= 2;
                code.extend([load(WORD, at), unless(word, left)]);
            }
            code.push(ACCEPT);
        }
        // A binding request of STUN with a user name that is known.
        code.extend([load(HALF, UDP), unless(BINDING, 3), load(WORD, UDP + 4), unless(COOKIE, 1), SKIP, DROP]);
        code.push(op(libc::BPF_LDX | libc::BPF_IMM, UDP + STUN_HEADER));
        for attribute in (0..ATTRIBUTES).rev() {
            // Found: over the rest of this step and all of the steps to come, and over the end of the search.
            let found = u8::try_from(7 + attribute * 8 + 1).unwrap_or(u8::MAX);
            code.extend([
                op(libc::BPF_LD | HALF | libc::BPF_IND, 0),
                jump(USERNAME, found - 1, 0),
                op(libc::BPF_LD | HALF | libc::BPF_IND, 2),
                op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, 4 + 3),
                op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, !3),
                op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
                op(libc::BPF_MISC | libc::BPF_TAX, 0),
                // So that each step has eight.
                SKIP_NONE,
            ]);
        }
        code.extend([DROP, op(libc::BPF_LD | WORD | libc::BPF_IND, 4)]);
        for name in &self.names {
            code.extend([unless(u32::from_be_bytes(*name), 1), ACCEPT]);
        }
        code.push(DROP);
        code
    }
}

/// The same place, however the system writes it.
fn plain(place: SocketAddr) -> SocketAddr {
    SocketAddr::new(place.ip().to_canonical(), place.port())
}

/// How the user name begins that a binding request of STUN carries.
pub(crate) fn named(bytes: &[u8]) -> Option<[u8; NAME]> {
    let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if half(0)? != 1 || bytes.get(4..8)? != COOKIE.to_be_bytes() {
        return None;
    }
    let mut at = 20;
    for _ in 0..ATTRIBUTES {
        if u32::from(half(at)?) == USERNAME {
            return bytes.get(at + 4..at + 4 + NAME)?.try_into().ok();
        }
        at += (usize::from(half(at + 2)?) + 4).next_multiple_of(4);
    }
    None
}

/// Where a source address stands in a packet, and what has to stand there.
fn words(ip: IpAddr) -> Vec<(u32, u32)> {
    /// Offsets from here on count from the IP header.
    const IP: u32 = 0xfff0_0000;
    match ip {
        IpAddr::V4(ip) => vec![(IP + 12, ip.to_bits())],
        IpAddr::V6(ip) => {
            let words = ip.octets();
            let words = words.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word));
            (0..).map(|at| IP + 8 + at * 4).zip(words).collect()
        }
    }
}

const HALF: u32 = libc::BPF_H;
const WORD: u32 = libc::BPF_W;
const ACCEPT: libc::sock_filter = op(libc::BPF_RET | libc::BPF_K, u32::MAX);
const DROP: libc::sock_filter = op(libc::BPF_RET | libc::BPF_K, 0);
/// Over the next one.
const SKIP: libc::sock_filter = op(libc::BPF_JMP | libc::BPF_JA, 1);
/// To the next one.
const SKIP_NONE: libc::sock_filter = op(libc::BPF_JMP | libc::BPF_JA, 0);

#[allow(clippy::cast_possible_truncation, reason = "codes have sixteen bits")]
const fn op(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn load(size: u32, at: u32) -> libc::sock_filter {
    op(libc::BPF_LD | size | libc::BPF_ABS, at)
}

const fn jump(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    let op = op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k);
    libc::sock_filter { jt, jf, ..op }
}

/// Jumps so far where it is something else.
const fn unless(k: u32, far: u8) -> libc::sock_filter {
    jump(k, 0, far)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A binding request with these attributes.
    fn request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut packet = vec![0, 1];
        packet.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        packet.extend(COOKIE.to_be_bytes());
        packet.extend([7; 12]);
        packet.extend(body);
        packet
    }

    /// What comes through of what is sent from one socket to another.
    fn through(from: &UdpSocket, to: &UdpSocket, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        to.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut came = Vec::new();
        for packet in packets {
            from.send_to(packet, to.local_addr().unwrap()).unwrap();
            let mut bytes = vec![0; 2_000];
            // On the loopback a packet is there, or thrown away, when it has been sent.
            to.set_nonblocking(true).unwrap();
            if let Ok(length) = to.recv(&mut bytes) {
                came.push(bytes[..length].to_vec());
            }
        }
        came
    }

    fn packets() -> Vec<Vec<u8>> {
        let (priority, controlling) = ((0x0024u16, &[1u8, 2, 3, 4][..]), (0x802au16, &[9u8; 8][..]));
        let mut packets = vec![
            request(&[(6, b"goodname:player"), priority, controlling]),
            request(&[priority, controlling, (0x25, b""), (6, b"gooder:player")]),
            request(&[(0x8022, b"five!"), (6, b"good")]),
            request(&[(6, b"bad:player"), priority]),
            request(&[(6, b"goo")]),
            request(&[priority, controlling]),
            request(&[(0x1234, &[0; 700]), (6, b"goodname:player")]),
            request(&[(1, b""), (2, b""), (3, b""), (4, b""), (5, b""), (7, b""), (8, b""), (6, b"good")]),
            request(&[(1, b""), (2, b""), (3, b""), (4, b""), (5, b""), (7, b""), (8, b""), (9, b""), (6, b"good")]),
            request(&[]),
            Vec::new(),
            vec![0, 1],
            vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0],
            vec![0x80; 1_200],
        ];
        let good = request(&[priority, (6, b"goodname:player")]);
        // Each length of a cut one, each bit of its beginning turned.
        packets.extend((0..good.len()).map(|length| good[..length].to_vec()));
        packets.extend((0..48 * 8).map(|bit| {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        }));
        let mut seed = 1u32;
        packets.extend((1..1_400).step_by(31).map(|length| {
            let mut byte = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_be_bytes()[0]
            };
            (0..length).map(|_| byte()).collect()
        }));
        packets
    }

    #[test]
    fn the_kernel_lets_through_what_is_admitted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let bind = || UdpSocket::bind(address).unwrap();
            let (player, stranger, us) = (bind(), bind(), bind());
            let place = player.local_addr().unwrap();
            let gate = Gate::new(vec![*b"nope", *b"good"], [place]);
            gate.close(&us).unwrap();
            let packets = packets();
            let came = through(&stranger, &us, &packets);
            let from = stranger.local_addr().unwrap();
            let wanted: Vec<_> = packets.iter().filter(|packet| gate.admits(from, packet)).cloned().collect();
            assert_eq!(came, wanted, "{address}");
            assert!((8..packets.len() - 100).contains(&wanted.len()), "{} of {}", wanted.len(), packets.len());
            // Everything from where a player is.
            assert_eq!(through(&player, &us, &packets), packets, "{address}");
            // With nobody there nothing comes through, and a new filter takes the place of the old one.
            Gate::default().close(&us).unwrap();
            assert!(through(&stranger, &us, &packets).is_empty());
            assert!(through(&player, &us, &packets).is_empty());
        }
    }

    #[test]
    fn a_player_of_the_older_protocol_is_known_on_a_socket_for_both() {
        let Ok(us) = UdpSocket::bind("[::]:0") else {
            eprintln!("this machine has no IPv6: a socket for both protocols is not tested");
            return;
        };
        let player = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), player.local_addr().unwrap().port());
        let gate = Gate::new(Vec::new(), [mapped]);
        assert!(gate.admits(mapped, b"x") && gate.admits(player.local_addr().unwrap(), b"x"));
        gate.close(&us).unwrap();
        player.send_to(b"x", (std::net::Ipv4Addr::LOCALHOST, us.local_addr().unwrap().port())).unwrap();
        us.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(us.recv(&mut [0; 10]).unwrap(), 1);
    }

    #[test]
    fn a_full_house_fits_into_a_filter() {
        let places = (0..100).map(|port| SocketAddr::new("2001:db8::1".parse().unwrap(), port));
        let gate = Gate::new(vec![*b"name"; 8], places);
        gate.close(&UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    }
}
