//! The data folder: in use, newer, damaged, another chain's.

use std::fs;
use std::path::Path;

use alloy::primitives::Address;
use muster_chain::embedded::{Chain, ChainConfig, ChainError, SignedTx, open_development};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::txs::{Draft, signer};
use crate::world::CHAIN_ID;

fn config() -> ChainConfig {
    ChainConfig::development(CHAIN_ID)
}

/// A folder with a chain of one transaction.
async fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_development(dir.path(), config()).unwrap();
    let tx = Draft::transfer(CHAIN_ID, 0, Address::repeat_byte(3), 5).sign(&signer(&opened.faucet));
    let tx = SignedTx::decode(&tx.raw, CHAIN_ID).unwrap();
    opened.chain.submit(vec![tx]).await.remove(0).unwrap();
    opened.chain.close().await;
    dir
}

fn edit(dir: &Path, table: TableDefinition<'_, &'static str, &'static [u8]>, key: &str, change: impl Fn(&mut Vec<u8>)) {
    let db = Database::open(dir.join("chain.redb")).unwrap();
    let mut value = {
        let read = db.begin_read().unwrap();
        read.open_table(table).unwrap().get(key).unwrap().unwrap().value().to_vec()
    };
    change(&mut value);
    let write = db.begin_write().unwrap();
    write.open_table(table).unwrap().insert(key, value.as_slice()).unwrap();
    write.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_the_same_after_it_was_closed() {
    let dir = folder().await;
    let opened = open_development(dir.path(), config()).unwrap();
    assert_eq!(opened.chain.block_number(), 1);
    assert_eq!(fs::metadata(dir.path().join("faucet.key")).map(|m| mode(&m)).unwrap(), 0o600);
}

fn mode(meta: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_user_of_the_folder_is_told_so() {
    let dir = folder().await;
    let first = open_development(dir.path(), config()).unwrap();
    let second = Chain::open(dir.path(), config());
    let Err(error @ ChainError::Busy { .. }) = second else { panic!("{second:?}") };
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(first);
    Chain::open(dir.path(), config()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_chain_id_is_refused() {
    let dir = folder().await;
    let error = Chain::open(dir.path(), ChainConfig::development(5)).unwrap_err();
    assert!(matches!(error, ChainError::OtherChain { found: CHAIN_ID, wanted: 5, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_is_refused() {
    let dir = folder().await;
    edit(dir.path(), TableDefinition::new("meta"), "layout", |value| {
        let newer = 2u32.to_be_bytes();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[6]).update(b"layout").update(&newer);
        *value = newer.to_vec();
        value.extend_from_slice(&hasher.finalize().as_bytes()[..8]);
    });
    let error = Chain::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, ChainError::Newer { found: 2, known: 1, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_setting_is_noticed() {
    let dir = folder().await;
    edit(dir.path(), TableDefinition::new("meta"), "chain_id", |value| value[7] ^= 1);
    let error = Chain::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, ChainError::Corrupted { .. }), "{error}");
    assert!(error.to_string().contains("checksum") && error.to_string().contains("restore"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_account_is_noticed_before_it_is_used() {
    let dir = folder().await;
    let faucet = open_development(dir.path(), config()).unwrap().faucet;
    {
        let table: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("accounts");
        let db = Database::open(dir.path().join("chain.redb")).unwrap();
        let write = db.begin_write().unwrap();
        {
            let mut table = write.open_table(table).unwrap();
            let key = faucet.address().0;
            let mut value = table.get(&key).unwrap().unwrap().value().to_vec();
            value[12] ^= 0x10;
            table.insert(&key, value.as_slice()).unwrap();
        }
        write.commit().unwrap();
    }
    let opened = open_development(dir.path(), config()).unwrap();
    let tx = Draft::transfer(CHAIN_ID, 1, Address::repeat_byte(3), 5).sign(&signer(&faucet));
    let tx = SignedTx::decode(&tx.raw, CHAIN_ID).unwrap();
    let error = opened.chain.submit(vec![tx]).await.remove(0).unwrap_err();
    assert!(error.code == -32603 && error.message.contains("does not match its checksum"), "{error}");
    assert_eq!(opened.chain.block_number(), 1, "nothing was built on it");
}

#[test]
fn a_file_that_is_no_chain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("chain.redb"), vec![0x5a; 100_000]).unwrap();
    let error = Chain::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, ChainError::Corrupted { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_refused() {
    let dir = folder().await;
    let path = dir.path().join("chain.redb");
    let length = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 3).unwrap();
    let error = Chain::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, ChainError::Corrupted { .. } | ChainError::Storage { .. }), "{error:?}");
}
