//! Files between two ends of a line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_client::files::{Claims, FetchError, Fetched, FilesError, Meter, SendFailed, Sent, fetch, plan, send};
use muster_core::ids::{ContentHash, LeaseId};
use muster_net::{FrameReader, FrameRules, FrameWriter, FramedStream};
use muster_wire::BoundedBytes;
use muster_wire::message::files::{Outcome, Piece};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

type Half = FramedStream<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

fn line() -> (Half, Half) {
    let (here, there) = tokio::io::duplex(256 * 1024);
    let framed = |io: DuplexStream| {
        let (read, write) = tokio::io::split(io);
        let rules = FrameRules { deadline: Duration::from_secs(10), bytes_per_second_min: 1024 };
        FramedStream::from_parts(FrameReader::new(read, rules), FrameWriter::new(write))
    };
    (framed(here), framed(there))
}

const LEASE: LeaseId = LeaseId([7; 32]);

async fn both(
    inputs: &Path,
    output: &Path,
    claims: &Claims,
) -> (Result<Sent, SendFailed>, Result<Fetched, FetchError>) {
    let source = Arc::new(plan(&[inputs.join("")]).unwrap());
    let (here, there) = line();
    tokio::join!(send(here, source, Arc::default()), fetch(there, LEASE, output, claims, Arc::default()))
}

/// Feeds the receiver these pieces as a hostile or broken Container would.
async fn receive(pieces: Vec<Piece>, output: &Path) -> (Result<Fetched, FetchError>, Option<Outcome>) {
    let (mut here, there) = line();
    let feeding = async {
        for piece in &pieces {
            if here.send(piece).await.is_err() {
                break;
            }
        }
        here.finish().await.unwrap();
        here.recv::<Outcome>().await.ok().flatten()
    };
    let claims = Claims::alone();
    let (outcome, fetched) = tokio::join!(feeding, fetch(there, LEASE, output, &claims, Arc::default()));
    (fetched, outcome)
}

fn file(name: &str, contents: &[u8]) -> [Piece; 3] {
    [
        Piece::File { path: name.to_owned(), len: contents.len() as u64, executable: false },
        Piece::Chunk(BoundedBytes::new(contents).unwrap()),
        Piece::End { hash: ContentHash(*blake3::hash(contents).as_bytes()) },
    ]
}

fn done(entries: u64, bytes: u64) -> Piece {
    Piece::Done { entries, bytes, left_out: Vec::new() }
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_tree_arrives_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to/new"));
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::create_dir_all(from.join("empty")).unwrap();
    let large: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(from.join("a/b/large"), &large).unwrap();
    fs::write(from.join("nothing"), b"").unwrap();
    fs::write(from.join("run.sh"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(from.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let (sent, fetched) = both(&from, &to, &Claims::alone()).await;
    let (sent, fetched) = (sent.unwrap(), fetched.unwrap());
    assert_eq!((sent.entries, sent.bytes), (6, 1_200_010));
    assert_eq!((fetched.entries, fetched.bytes, fetched.placed.len()), (6, 1_200_010, 3));
    assert_eq!(fs::read(to.join("a/b/large")).unwrap(), large);
    assert_eq!(fs::metadata(to.join("nothing")).unwrap().len(), 0);
    assert!(to.join("empty").is_dir());
    assert_ne!(fs::metadata(to.join("run.sh")).unwrap().permissions().mode() & 0o100, 0);
    assert_eq!(listing(&to), ["a", "empty", "nothing", "run.sh"], "nothing else is left behind");
}

#[tokio::test]
async fn many_small_files_are_counted_right() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    for n in 0..150 {
        fs::write(from.join(format!("f{n}")), n.to_string()).unwrap();
    }
    let meter = Arc::new(Meter::default());
    let source = Arc::new(plan(&[from.join("")]).unwrap());
    let (here, there) = line();
    let claims = Claims::alone();
    let (sent, fetched) = tokio::join!(
        send(here, Arc::clone(&source), Arc::clone(&meter)),
        fetch(there, LEASE, &to, &claims, Arc::default())
    );
    assert_eq!(sent.unwrap().entries, 150);
    assert_eq!(fetched.unwrap().placed.len(), 150);
    assert_eq!(meter.read(), (source.bytes, source.bytes));
}

#[tokio::test]
async fn an_input_that_vanishes_stops_everything_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("a"), b"a").unwrap();
    fs::write(from.join("b"), b"b").unwrap();
    let source = Arc::new(plan(&[from.join("")]).unwrap());
    fs::remove_file(from.join("b")).unwrap();
    let (here, there) = line();
    let claims = Claims::alone();
    let (sent, fetched) =
        tokio::join!(send(here, source, Arc::default()), fetch(there, LEASE, &to, &claims, Arc::default()));
    let sent = sent.unwrap_err();
    assert!(matches!(&sent, SendFailed::Here(FilesError::Vanished(path)) if path.ends_with("b")), "{sent}");
    assert!(matches!(fetched.unwrap_err(), FetchError::Refused(why) if why.contains("vanished")));
    assert_eq!(listing(&to), Vec::<String>::new(), "the half that came is removed");
}

#[tokio::test]
async fn an_input_that_grows_shrinks_or_becomes_a_link_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    for change in 0..3 {
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a"), b"before").unwrap();
        let source = Arc::new(plan(&[from.join("")]).unwrap());
        match change {
            0 => fs::write(from.join("a"), b"longer than before").unwrap(),
            1 => fs::write(from.join("a"), b"-").unwrap(),
            _ => {
                fs::remove_file(from.join("a")).unwrap();
                std::os::unix::fs::symlink("/etc/hostname", from.join("a")).unwrap();
            }
        }
        let (here, mut there) = line();
        let taking = async { while there.recv::<Piece>().await.unwrap().is_some() {} };
        let (sent, ()) = tokio::join!(send(here, source, Arc::default()), taking);
        let sent = sent.unwrap_err();
        assert!(matches!(&sent, SendFailed::Here(FilesError::Changed(_))), "change {change}: {sent}");
        fs::remove_dir_all(&from).unwrap();
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_reaches_the_sender() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("big"), vec![1; 4 * 1024 * 1024]).unwrap();
    let source = Arc::new(plan(&[dir.path().join("big")]).unwrap());
    let (here, mut there) = line();
    let refusing = async {
        there.recv::<Piece>().await.unwrap();
        there.send(&Outcome::Refused { why: "the rented disk is too small".to_owned() }).await.unwrap();
        there.finish().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let (sent, ()) = tokio::join!(send(here, source, Arc::default()), refusing);
    assert!(matches!(sent.unwrap_err(), SendFailed::Refused(why) if why.contains("too small")));
}

#[tokio::test]
async fn hostile_names_and_lies_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let to = dir.path().join("to");
    let mut wrong_hash = file("a", b"abc").to_vec();
    wrong_hash[2] = Piece::End { hash: ContentHash([0; 32]) };
    let mut short = file("a", b"abc").to_vec();
    short[0] = Piece::File { path: "a".to_owned(), len: 4, executable: false };
    let mut long = file("a", b"abc").to_vec();
    long[0] = Piece::File { path: "a".to_owned(), len: 2, executable: false };
    let twice = [file("a", b"1").to_vec(), file("a", b"2").to_vec(), vec![done(2, 2)]].concat();
    let both_kinds = [file("a", b"1").to_vec(), file("a/b", b"2").to_vec(), vec![done(2, 2)]].concat();
    let totals = [file("a", b"1").to_vec(), vec![done(2, 1)]].concat();
    let order = vec![Piece::Chunk(BoundedBytes::new(*b"x").unwrap())];
    for (what, mut pieces) in [
        ("hash", wrong_hash),
        ("short", short),
        ("long", long),
        ("twice", twice),
        ("file and folder", both_kinds),
        ("totals", totals),
        ("order", order),
    ] {
        pieces.push(done(1, 3));
        let (fetched, outcome) = receive(pieces, &to).await;
        assert!(matches!(fetched, Err(FetchError::Wrong(_))), "{what}: {fetched:?}");
        assert!(matches!(outcome, Some(Outcome::Refused { .. })), "{what}: {outcome:?}");
        assert_eq!(listing(&to), Vec::<String>::new(), "{what}");
    }
    // Names that lead out do not even pass the encoder of this side; the decoder's own tests cover bytes.
    for name in ["../outside", "/etc/passwd", "a/../../outside", "", "a\nb"] {
        let (fetched, _) = receive(vec![Piece::Folder { path: name.to_owned() }], &to).await;
        assert!(fetched.is_err(), "{name:?}");
    }
    assert!(!outside.exists());
}

#[tokio::test]
async fn links_in_the_output_folder_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (to, secret) = (dir.path().join("to"), dir.path().join("secret"));
    fs::create_dir(&to).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("kept"), b"kept").unwrap();
    std::os::unix::fs::symlink(&secret, to.join("sub")).unwrap();
    std::os::unix::fs::symlink(secret.join("kept"), to.join("direct")).unwrap();
    let through = [file("sub/kept", b"overwritten").to_vec(), vec![done(1, 11)]].concat();
    let (fetched, _) = receive(through, &to).await;
    assert!(matches!(fetched, Err(FetchError::Here(FilesError::InTheWay { .. }))), "{fetched:?}");
    let onto = [file("direct", b"new").to_vec(), vec![done(1, 3)]].concat();
    receive(onto, &to).await.0.unwrap();
    assert_eq!(fs::read(secret.join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read(to.join("direct")).unwrap(), b"new", "the link gave way to the file");
}

#[tokio::test]
async fn what_was_there_before_gives_way_and_a_folder_does_not() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("old"), b"old").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    let pieces = [file("old", b"new").to_vec(), vec![done(1, 3)]].concat();
    receive(pieces, dir.path()).await.0.unwrap();
    assert_eq!(fs::read(dir.path().join("old")).unwrap(), b"new");
    let pieces = [file("folder", b"new").to_vec(), vec![done(1, 3)]].concat();
    assert!(matches!(receive(pieces, dir.path()).await.0, Err(FetchError::Here(FilesError::InTheWay { .. }))));
    let onto_file = dir.path().join("old");
    let pieces = [file("x", b"new").to_vec(), vec![done(1, 3)]].concat();
    assert!(matches!(receive(pieces, &onto_file).await.0, Err(FetchError::Here(FilesError::InTheWay { .. }))));
}

#[tokio::test]
async fn a_line_that_breaks_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (fetched, _) = receive(file("a", b"abc").to_vec(), dir.path()).await;
    assert!(matches!(fetched, Err(FetchError::Line(_))), "{fetched:?}");
    assert_eq!(listing(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn tasks_share_a_folder_and_the_second_of_a_name_goes_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (to, list) = (dir.path().join("to"), dir.path().join("claims/job"));
    let bring = async |claims: &Claims, task: u32, contents: &[u8]| {
        let from = dir.path().join(format!("from{task}"));
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join(format!("frame{task}.png")), contents).unwrap();
        fs::write(from.join("log.txt"), contents).unwrap();
        fs::write(from.join("same.inc"), b"same").unwrap();
        both(&from, &to, &claims.of_task(task)).await.1.unwrap()
    };
    let claims = Claims::shared(&list).unwrap();
    bring(&claims, 0, b"zero").await;
    let second = bring(&claims, 1, b"one").await;
    assert_eq!(second.placed.iter().filter(|p| p.aside).map(|p| p.name.as_str()).collect::<Vec<_>>(), ["log.txt"]);
    // Another process, later: the claims were kept.
    let third = bring(&Claims::shared(&list).unwrap(), 2, b"two").await;
    assert!(third.placed.iter().any(|p| p.aside && p.path.ends_with("task-2/log.txt")));
    assert_eq!(listing(&to), ["frame0.png", "frame1.png", "frame2.png", "log.txt", "same.inc", "task-1", "task-2"]);
    assert_eq!(fs::read(to.join("log.txt")).unwrap(), b"zero");
    assert_eq!(fs::read(to.join("task-1/log.txt")).unwrap(), b"one");
    // A task that is fetched again (after a crash, say) replaces its own.
    bring(&claims, 0, b"zero again").await;
    assert_eq!(fs::read(to.join("log.txt")).unwrap(), b"zero again");
}

#[tokio::test]
async fn a_full_disk_says_so_and_keeps_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&small)
        .output()
        .is_ok_and(|o| o.status.success());
    if !mounted {
        eprintln!("skipped: only root can mount the small file system that this test fills");
        return;
    }
    let _mount = Unmount(small.clone());
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("big"), vec![1; 3 * 1024 * 1024]).unwrap();
    let (_, fetched) = both(&from, &small.join("out"), &Claims::alone()).await;
    match fetched {
        Err(FetchError::Here(why @ FilesError::Full { .. })) => {
            let said = why.to_string();
            assert!(said.contains("is full") && said.contains("free some space"), "{said}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(listing(&small.join("out")), Vec::<String>::new());
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let done = std::process::Command::new("umount").arg(&self.0).status();
        assert!(done.is_ok_and(|s| s.success()), "the test's file system could not be unmounted");
    }
}
