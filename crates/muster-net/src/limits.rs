//! How much a node takes from others: rates, numbers, sizes, waiting times.

use std::time::Duration;

use tokio::time::Instant;

/// So many a second, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run; at least 1.
    pub per_second: u32,
    /// At once; at least 1.
    pub burst: u32,
}

impl Rate {
    /// So many a second, and so many at once.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }

    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

/// Counts against a [`Rate`]. Holds one instant: when the last of what was taken would be due if it came evenly.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    due: Option<Instant>,
}

impl Bucket {
    /// Takes one if the rate allows it at `now`.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let interval = rate.interval();
        let due = self.due.map_or(now, |due| due.max(now)) + interval;
        let fits = due.duration_since(now) <= interval * rate.burst.max(1);
        if fits {
            self.due = Some(due);
        }
        fits
    }

    /// How long until the rate allows one more.
    pub(crate) fn wait(&self, rate: Rate, now: Instant) -> Duration {
        let due = self.due.map_or(now, |due| due.max(now)) + rate.interval();
        due.duration_since(now).saturating_sub(rate.interval() * rate.burst.max(1))
    }

    /// Whether all of the burst is there again.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }
}

/// What a node takes from its peers. [`Limits::control`] suits a node that many others are connected to and that moves
/// no bulk data (an Indexer), [`Limits::bulk`] one that does (a Container, a consumer).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Peers with an open connection.
    pub peers_max: usize,
    /// Open connections of one peer: programs that share a key each have their own, and those of one that was killed
    /// last until the idle timeout.
    pub connections_per_peer_max: usize,
    /// Streams that one connection may have open at once.
    pub streams_max: u32,
    /// Bytes of one stream that may wait here unread.
    pub stream_window_bytes: u32,
    /// Bytes of all streams of a connection that may wait here unread. Keep it at a multiple of the stream window: when
    /// it is used up by streams that nobody reads, the connection's other streams stand still too.
    pub connection_window_bytes: u32,
    /// Bytes of a connection that may wait here for the peer to take them.
    pub send_window_bytes: u32,
    /// Frames of one peer on streams that carry questions, answers and events; more is a flood.
    pub frames: Rate,
    /// Frames of one peer on streams that carry a job's data; more has to wait.
    pub data_frames: Rate,
    /// New streams of one peer.
    pub streams: Rate,
    /// New connections of one peer.
    pub connections: Rate,
    /// New connections of one network address, before its key is known.
    pub handshakes: Rate,
    /// Connections whose key is not known yet, all together.
    pub handshakes_max: usize,
    /// Time for a stream's first byte and for a connection's handshake.
    pub header_deadline: Duration,
    /// Time for a frame once its first byte is there; `frame_bytes_per_second_min` adds to it for long ones.
    pub frame_deadline: Duration,
    /// The slowest a long frame may come.
    pub frame_bytes_per_second_min: u32,
    /// Time for reaching a peer directly; twice that through a relay.
    pub connect_deadline: Duration,
    /// Time for a stream to open while the peer has as many open as it takes.
    pub open_deadline: Duration,
    /// A sign of life is sent this often.
    pub keep_alive: Duration,
    /// A peer that shows no sign of life for this long is gone. The smaller of both sides' values counts.
    pub idle: Duration,
    /// The first ban; each further one is twice as long.
    pub ban: Duration,
    /// The longest ban, and how long a peer must behave until its past is forgotten.
    pub ban_max: Duration,
}

impl Limits {
    /// For nodes with many peers and small messages.
    #[must_use]
    pub fn control() -> Self {
        Self {
            peers_max: 20_000,
            streams_max: 128,
            stream_window_bytes: 64 * 1024,
            connection_window_bytes: 1024 * 1024,
            send_window_bytes: 1024 * 1024,
            ..Self::bulk()
        }
    }

    /// For nodes that move files.
    #[must_use]
    pub fn bulk() -> Self {
        Self {
            peers_max: 1_000,
            connections_per_peer_max: 64,
            streams_max: 256,
            stream_window_bytes: 1024 * 1024,
            connection_window_bytes: 16 * 1024 * 1024,
            send_window_bytes: 4 * 1024 * 1024,
            frames: Rate::new(10_000, 20_000),
            data_frames: Rate::new(50_000, 50_000),
            streams: Rate::new(2_000, 4_000),
            connections: Rate::new(20, 200),
            handshakes: Rate::new(64, 256),
            handshakes_max: 512,
            header_deadline: Duration::from_secs(10),
            frame_deadline: Duration::from_secs(10),
            frame_bytes_per_second_min: 16 * 1024,
            connect_deadline: Duration::from_secs(5),
            open_deadline: Duration::from_secs(10),
            keep_alive: Duration::from_secs(2),
            idle: Duration::from_secs(8),
            ban: Duration::from_secs(30),
            ban_max: Duration::from_secs(3600),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::bulk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (rate, start) = (Rate::new(10, 3), Instant::now());
        let mut bucket = Bucket::default();
        assert!(bucket.is_full(start));
        assert_eq!([0; 5].map(|_| bucket.take(rate, start)), [true, true, true, false, false]);
        let later = start + Duration::from_millis(100);
        assert_eq!([0; 2].map(|_| bucket.take(rate, later)), [true, false]);
        assert!(!bucket.is_full(later));
        assert_eq!(bucket.wait(rate, later), Duration::from_millis(100));
        assert_eq!(bucket.wait(rate, later + Duration::from_millis(100)), Duration::ZERO);
        assert!(bucket.is_full(later + Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate(
            per_second in 1u32..1000,
            burst in 1u32..50,
            steps in proptest::collection::vec(0u64..200, 1..200),
        ) {
            let (rate, start) = (Rate::new(per_second, burst), Instant::now());
            let (mut bucket, mut now, mut taken) = (Bucket::default(), start, 0u64);
            for step in steps {
                now += Duration::from_millis(step);
                taken += u64::from(bucket.take(rate, now));
                let passed = u64::try_from(now.duration_since(start).as_millis()).unwrap();
                prop_assert!(taken <= u64::from(burst) + passed * u64::from(per_second) / 1000 + 1);
            }
            prop_assert!(taken >= 1);
        }
    }
}
