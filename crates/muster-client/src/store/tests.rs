use std::os::unix::fs::PermissionsExt;

use muster_core::brain::consumer::Rented;
use muster_core::hardware::Allocation;
use muster_core::ids::{Address, NodeId, RequestId};
use muster_core::lease::LeaseTerms;
use muster_core::protocol::{JobSpec, NodeAddr};
use muster_core::units::{TimeMs, TokenAmount};

use super::*;

pub(crate) fn record(first_byte: u8) -> LeaseRecord {
    let terms = LeaseTerms {
        lease: LeaseId([first_byte; 32]),
        salt: [1; 32],
        request: RequestId(7),
        consumer: Address([2; 20]),
        session_key: Address([3; 20]),
        container: NodeId([4; 32]),
        indexer: NodeId([5; 32]),
        rate_per_second: TokenAmount(u128::MAX >> 40),
        deposit: TokenAmount(u128::MAX >> 20),
        max_seconds: 60,
        interval_ms: 2000,
        open_within_ms: 15_000,
        allocation: Allocation::default(),
        egress: false,
        tokens: None,
    };
    let at = NodeAddr { id: NodeId([4; 32]), direct: vec!["127.0.0.1:9".parse().unwrap()], relay: None };
    let rented = Rented::new(terms, at, TimeMs(1));
    let plan = LeasePlan {
        created_at: TimeMs(1),
        network: "0123456789abcdef".to_owned(),
        session_key: SessionSecret([9; 32]),
        spec: JobSpec { command: vec!["true".to_owned()], env: Vec::new(), stdin: false, session: None, model: None },
        inputs: vec!["/tmp/x y".into()],
        output: Some("/tmp/out".into()),
        keep_logs: true,
        job: "job".to_owned(),
        task: Some(TaskPlace { index: 3, count: 24 }),
        attempt: 1,
    };
    LeaseRecord { plan, state: LeaseState::new(rented) }
}

#[test]
fn a_lease_survives_and_its_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClientDir::open(dir.path()).unwrap();
    let mut file = store.create(&record(0xab)).unwrap();
    let mut state = file.record().state.clone();
    state.out_seen = 12;
    file.save(state.clone()).unwrap();
    let id = file.record().id();
    assert_eq!(store.leases().unwrap(), [id]);
    assert_eq!(store.read(id).unwrap().state, state);
    assert_eq!(store.read(id).unwrap().plan, record(0xab).plan);
    let path = store.lease_folder(id).join("record");
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(store.lease_folder(id)).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn one_process_drives_a_lease() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClientDir::open(dir.path()).unwrap();
    let file = store.create(&record(1)).unwrap();
    let id = file.record().id();
    assert!(store.is_driven(id).unwrap());
    match store.drive(id) {
        Err(StoreError::Driven { lease, pid }) => assert_eq!((lease, pid), (id, Some(std::process::id()))),
        other => panic!("driven twice: {other:?}"),
    }
    drop(file);
    assert!(!store.is_driven(id).unwrap());
    assert_eq!(store.drive(id).unwrap().record().state, record(1).state);
}

#[test]
fn leases_are_found_by_the_beginning_of_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClientDir::open(dir.path()).unwrap();
    for byte in [0xaa, 0xab, 0x11] {
        drop(store.create(&record(byte)).unwrap());
    }
    assert_eq!(store.find("0x11").unwrap(), LeaseId([0x11; 32]));
    assert_eq!(store.find("AB").unwrap(), LeaseId([0xab; 32]));
    assert!(matches!(store.find("a"), Err(StoreError::Ambiguous { count: 2, .. })));
    assert!(matches!(store.find("ff"), Err(StoreError::Unknown(_))));
    assert!(matches!(store.find(""), Err(StoreError::Unknown(_))));
}

#[test]
fn wishes_wait_until_they_are_fulfilled() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClientDir::open(dir.path()).unwrap();
    let stop = Wish { lease: LeaseId([1; 32]), kind: WishKind::Stop };
    let look = Wish { lease: LeaseId([1; 32]), kind: WishKind::Look };
    store.wish(stop).unwrap();
    store.wish(stop).unwrap();
    assert!(store.has_wish(stop) && !store.has_wish(look));
    store.wish(look).unwrap();
    assert_eq!(store.wishes().unwrap(), [stop, look]);
    store.fulfilled(stop).unwrap();
    store.fulfilled(stop).unwrap();
    assert_eq!(store.wishes().unwrap(), [look]);
}

#[test]
fn a_folder_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    ClientDir::open(dir.path()).unwrap();
    fs::write(dir.path().join("version"), "2\n").unwrap();
    assert!(matches!(ClientDir::open(dir.path()), Err(StoreError::Newer { found: 2, .. })));
}

#[test]
fn only_old_leases_that_are_over_are_removed_and_only_when_there_are_many() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClientDir::open(dir.path()).unwrap();
    for byte in 1..=4u8 {
        let mut new = record(byte);
        new.plan.created_at = TimeMs(u64::from(byte) * 100);
        if byte != 1 {
            new.state.rented.lease.phase = muster_core::lease::Phase::Void;
        }
        drop(store.create(&new).unwrap());
    }
    let left = |store: &ClientDir| store.leases().unwrap().iter().map(|id| id.0[0]).collect::<Vec<_>>();
    assert_eq!(store.prune(TimeMs(10_000), 0, 4).unwrap(), 0, "there are not many");
    assert_eq!(store.prune(TimeMs(450), 100, 1).unwrap(), 2);
    assert_eq!(left(&store), [1, 4], "the first is not over, the last is not old");
    assert_eq!(store.prune(TimeMs(10_000), 0, 1).unwrap(), 1);
    assert_eq!(left(&store), [1]);
}
