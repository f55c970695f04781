//! Frames over any stream of bytes: whole, cancelled, stalled, cut short.

use std::time::Duration;

use muster_net::{FrameReader, FrameRules, FrameWriter, NetError};
use muster_wire::{WireError, frame};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, timeout};

use crate::support::{Note, note};

const RULES: FrameRules = FrameRules { deadline: Duration::from_secs(10), bytes_per_second_min: 1_000 };

fn reader(io: DuplexStream) -> FrameReader<DuplexStream> {
    FrameReader::new(io, RULES)
}

#[tokio::test]
async fn frames_arrive_whole_whatever_the_pieces() {
    for room in [1, 2, 3, 7, 64, 4096] {
        let (near, far) = duplex(room);
        let sending = tokio::spawn(async move {
            let mut writer = FrameWriter::new(near);
            for number in 0..200 {
                writer.send(&note(number)).await.unwrap();
            }
            writer.finish().await.unwrap();
        });
        let mut reader = reader(far);
        for number in 0..200 {
            assert_eq!(reader.recv::<Note>().await.unwrap(), Some(note(number)));
        }
        assert_eq!(reader.recv::<Note>().await.unwrap(), None);
        sending.await.unwrap();
    }
}

/// Polls the call a few times and drops it if it is not done by then.
async fn hurried<T>(call: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = call => Some(done),
        () = tokio::task::yield_now() => None,
    }
}

#[tokio::test]
async fn cancelled_calls_lose_nothing() {
    // A pipe so narrow that both sides are interrupted inside frames all the time.
    let (near, far) = duplex(3);
    let sending = tokio::spawn(async move {
        let mut writer = FrameWriter::new(near);
        let mut cancelled = 0;
        for number in 0..50 {
            cancelled += u32::from(hurried(writer.send(&note(number))).await.is_none());
        }
        writer.finish().await.unwrap();
        cancelled
    });
    let (mut reader, mut got, mut cancelled) = (reader(far), Vec::new(), 0);
    loop {
        match hurried(reader.recv::<Note>()).await {
            None => cancelled += 1,
            Some(message) => match message.unwrap() {
                Some(message) => got.push(message),
                None => break,
            },
        }
    }
    let cancelled_sends = sending.await.unwrap();
    assert!(cancelled > 10 && cancelled_sends > 10, "{cancelled} and {cancelled_sends} cancelled");
    // A cancelled send may drop its own message when the one before is still under way, but never a part of one.
    assert!(got.windows(2).all(|pair| pair[0].number < pair[1].number), "{got:?}");
    assert_eq!(got.first(), Some(&note(0)));
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_stalls_is_given_up_also_when_it_trickles() {
    let frame = frame::encode(&note(7)).unwrap();
    for pause in [Duration::from_secs(3600), Duration::from_secs(3)] {
        let (mut near, far) = duplex(64);
        let frame = frame.clone();
        let sending = tokio::spawn(async move {
            for byte in frame {
                if near.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        });
        let (mut reader, start) = (reader(far), Instant::now());
        // Cancelling again and again does not turn the clock back.
        let error = loop {
            if let Ok(result) = timeout(Duration::from_millis(700), reader.recv::<Note>()).await {
                break result.unwrap_err();
            }
        };
        assert!(matches!(error, NetError::Stalled(_)), "{error}");
        // Virtual time, so exact: ten seconds, and a little for the frame's length.
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(12), "{took:?}");
        assert!(matches!(reader.recv::<Note>().await, Err(NetError::StreamClosed)));
        drop(reader);
        sending.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_frame_to_begin_has_no_end() {
    let (mut near, far) = duplex(64);
    let sending = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        near.write_all(&frame::encode(&note(1)).unwrap()).await.unwrap();
        near
    });
    let mut reader = reader(far);
    assert!(matches!(reader.recv_within::<Note>(Duration::from_secs(60)).await, Err(NetError::Timeout { .. })));
    assert_eq!(reader.recv::<Note>().await.unwrap(), Some(note(1)));
    drop(sending.await.unwrap());
    assert_eq!(reader.recv::<Note>().await.unwrap(), None);
}

#[tokio::test]
async fn wrong_bytes_end_the_stream_with_their_reason() {
    let good = frame::encode(&note(7)).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    type Expected = fn(&NetError) -> bool;
    let cases: [(Vec<u8>, Expected); 5] = [
        (with(2, 1), |e| matches!(e, NetError::Frame(WireError::TooLong { len: 65_543, max: 1101 }))),
        (vec![0; 4], |e| matches!(e, NetError::Frame(WireError::Empty))),
        (with(4, 9), |e| matches!(e, NetError::Frame(WireError::Version { got: 9 }))),
        (with(5, 0xff), |e| matches!(e, NetError::Frame(WireError::Malformed(_)))),
        (good[..good.len() - 1].to_vec(), |e| matches!(e, NetError::Truncated)),
    ];
    for (bytes, expected) in cases {
        let (mut near, far) = duplex(4096);
        near.write_all(&good).await.unwrap();
        near.write_all(&bytes).await.unwrap();
        drop(near);
        let mut reader = reader(far);
        assert_eq!(reader.recv::<Note>().await.unwrap(), Some(note(7)));
        let error = reader.recv::<Note>().await.unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert!(matches!(reader.recv::<Note>().await, Err(NetError::StreamClosed)));
    }
}

#[tokio::test]
async fn a_message_that_may_not_be_sent_leaves_the_stream_usable() {
    let (near, far) = duplex(4096);
    let (mut writer, mut reader) = (FrameWriter::new(near), reader(far));
    assert!(matches!(writer.send(&note(1_000_001)).await, Err(NetError::Encode(WireError::Field { .. }))));
    writer.send(&note(1)).await.unwrap();
    assert_eq!(reader.recv::<Note>().await.unwrap(), Some(note(1)));
}
