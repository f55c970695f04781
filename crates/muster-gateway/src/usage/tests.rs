use super::*;
use crate::keys::{KeyStore, KeyTerms, now_s};

fn key(dir: &Path, terms: KeyTerms) -> Arc<Key> {
    let store = KeyStore::open(&dir.join("keys.json")).unwrap();
    let key = store.create_with("k", terms).unwrap();
    store.find(&key).unwrap()
}

fn counts(input: u64, output: u64) -> TokenCounts {
    TokenCounts { input, cached: 0, output }
}

const NOW_S: u64 = 1_795_000_000;

#[test]
fn months_are_those_of_the_calendar() {
    for (at, shown) in [
        (0, "1970-01"),
        (951_782_399, "2000-02"),
        (951_868_799, "2000-02"),
        (951_868_800, "2000-03"),
        (1_798_761_599, "2026-12"),
        (1_798_761_600, "2027-01"),
        (4_107_542_400, "2100-03"),
    ] {
        assert_eq!(Month::at(at).to_string(), shown, "{at}");
    }
    assert_eq!(Month::at(1_798_761_599).next(), Month::at(1_798_761_600));
}

#[test]
fn many_at_once_spend_no_more_than_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), crate::keys::now_s(), false).unwrap();
    let budget = UsdMicro(10_000);
    let key = key(dir.path(), KeyTerms { budget_month_usd_micro: Some(budget), ..KeyTerms::default() });
    let wanted = Estimate { tokens: 10, cost: UsdMicro(30) };
    let let_in = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for turn in 0..250_u64 {
                    let (_, bill) = ledger.admit(&key, wanted, crate::keys::now_s() * 1_000);
                    if let Ok(bill) = bill {
                        let_in.fetch_add(1, Ordering::Relaxed);
                        match turn % 3 {
                            0 => drop(bill),
                            _ => bill.settle("m", counts(5, 5), UsdMicro(30 - turn % 7)),
                        }
                    }
                }
            });
        }
    });
    let (month, ever, reserved) = ledger.account(&key).spent();
    assert!(month <= budget && month > UsdMicro(9_900), "{month}");
    assert_eq!((ever, reserved), (month, UsdMicro(0)));
    let (_, denied) = ledger.admit(&key, Estimate { tokens: 1, cost: budget }, crate::keys::now_s() * 1_000);
    let Err(Denied::Budget(why)) = denied else { panic!("let in") };
    assert!(why.contains("$0.01") && why.contains("spent") && why.contains("-01, 00:00 UTC"), "{why}");
}

#[test]
fn what_turns_out_to_cost_more_is_held_against_the_budget_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), crate::keys::now_s(), false).unwrap();
    let key = key(dir.path(), KeyTerms { budget_usd_micro: Some(UsdMicro(100)), ..KeyTerms::default() });
    let (_, bill) = ledger.admit(&key, Estimate { tokens: 1, cost: UsdMicro(10) }, crate::keys::now_s() * 1_000);
    let mut bill = bill.unwrap();
    bill.raise(UsdMicro(90)).unwrap();
    bill.raise(UsdMicro(20)).unwrap();
    assert_eq!(ledger.account(&key).spent().2, UsdMicro(90), "it is never lowered");
    assert!(matches!(bill.raise(UsdMicro(101)), Err(Denied::Budget(_))));
    assert_eq!(ledger.account(&key).spent().2, UsdMicro(90), "what does not fit changes nothing");
    bill.settle("m", counts(1, 1), UsdMicro(50));
    assert_eq!(ledger.account(&key).spent(), (UsdMicro(50), UsdMicro(50), UsdMicro(0)));
}

#[test]
fn limits_by_the_minute_fill_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), NOW_S, false).unwrap();
    let terms = KeyTerms { requests_per_minute: Some(60), tokens_per_minute: Some(6_000), ..KeyTerms::default() };
    let key = key(dir.path(), terms);
    let ask = |tokens, at_ms| ledger.admit(&key, Estimate { tokens, cost: UsdMicro(0) }, at_ms);
    let mut held = Vec::new();
    for left in (0..60).rev() {
        let (standing, bill) = ask(1, NOW_S * 1_000);
        held.push(bill.unwrap());
        assert_eq!((standing.limit_requests, standing.left_requests), (60, left));
    }
    let (standing, denied) = ask(1, NOW_S * 1_000);
    assert_eq!(denied.unwrap_err(), Denied::Requests { limit: 60, retry_after_s: 1 });
    assert_eq!(standing.reset_requests_ms, 60_000);
    held.clear();
    let (standing, bill) = ask(1, NOW_S * 1_000 + 2_000);
    assert_eq!(standing.left_requests, 1);
    bill.unwrap().settle("m", counts(0, 1), UsdMicro(0));
    // What was reserved and not used comes back.
    let (_, denied) = ask(6_001, NOW_S * 1_000 + 120_000);
    assert!(matches!(denied, Err(Denied::Tokens { wanted: 6_001, .. })), "{denied:?}");
    assert!(ask(6_000, NOW_S * 1_000 + 240_000).1.is_ok());
}

#[test]
fn what_was_counted_is_there_again_and_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let now_s = crate::keys::now_s();
    let key = key(dir.path(), KeyTerms { requests_at_once: Some(1), ..KeyTerms::default() });
    let wanted = Estimate { tokens: 100, cost: UsdMicro(500) };
    let ledger = Ledger::open(dir.path(), now_s, false).unwrap();
    assert!(matches!(Ledger::open(dir.path(), now_s, false), Err(UsageError::InUse { .. })));
    for (model, input) in [("a", 3), ("b/c", 5), ("a", 7)] {
        let (_, bill) = ledger.admit(&key, wanted, now_s * 1_000);
        let (_, second) = ledger.admit(&key, wanted, now_s * 1_000);
        assert_eq!(second.unwrap_err(), Denied::AtOnce { limit: 1 });
        bill.unwrap().settle(model, counts(input, 1), UsdMicro(input));
    }
    ledger.close();
    drop(ledger);
    let rows = read_snapshot(dir.path()).unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.model.as_str(), row.used.requests, row.used.input)).collect();
    assert_eq!(told, [("a", 2, 10), ("b/c", 1, 5)]);
    // The key forgets its account with its store; the new ledger finds the rows by its name.
    let again = Key { shown: key.shown.clone(), account: std::sync::OnceLock::new() };
    let ledger = Ledger::open(dir.path(), now_s, false).unwrap();
    assert_eq!(ledger.account(&again).spent(), (UsdMicro(15), UsdMicro(15), UsdMicro(0)));
    assert_eq!(ledger.account(&again).rows(now_s), rows);
    drop(ledger);
    std::fs::write(dir.path().join("usage.redb"), b"not a database").unwrap();
    let error = Ledger::open(dir.path(), now_s, false).unwrap_err();
    assert!(error.to_string().contains("usage.redb"), "{error}");
}

fn transfer(tx: &str, account: &str, usd: u64) -> Credit {
    Credit {
        tx: tx.to_owned(),
        from: muster_core::ids::Address([7; 20]),
        account: account.to_owned(),
        tokens: muster_core::units::TokenAmount(u128::from(usd) << 70),
        usd: UsdMicro(usd),
        at_s: NOW_S,
    }
}

#[test]
fn a_transfer_is_credited_once_and_what_is_counted_is_taken_off_once() {
    let dir = tempfile::tempdir().unwrap();
    let key = key(dir.path(), KeyTerms { account: Some("studio".into()), ..KeyTerms::default() });
    let other = KeyStore::open(&dir.path().join("keys.json")).unwrap();
    let other = other.find(&other.create_with("n", key.shown.terms.clone()).unwrap()).unwrap();
    let open = || Ledger::open(dir.path(), now_s(), true).unwrap();
    let wanted = Estimate { tokens: 1, cost: UsdMicro(400) };
    let ask = |ledger: &Arc<Ledger>, key: &Key| ledger.admit(key, wanted, now_s() * 1_000).1;
    let ledger = open();
    let nothing =
        Denied::Purse { account: "studio".into(), cost: UsdMicro(400), left: UsdMicro(0), reserved: UsdMicro(0) };
    assert_eq!(ask(&ledger, &key).unwrap_err(), nothing);
    assert_eq!(ledger.credit(&transfer("0x1", "studio", 1_000)).unwrap().left(), UsdMicro(1_000));
    let twice = ledger.credit(&transfer("0x1", "somebody", 1_000)).unwrap_err();
    assert!(matches!(&twice, CreditError::Taken { account, .. } if account == "studio"), "{twice}");
    // Two keys of an account share its purse, and each reserves what it may cost.
    let (first, second) = (ask(&ledger, &key).unwrap(), ask(&ledger, &other).unwrap());
    let Err(Denied::Purse { left, reserved, .. }) = ask(&ledger, &other) else { panic!("it spends what is reserved") };
    assert_eq!((left, reserved), (UsdMicro(200), UsdMicro(800)));
    first.settle("m", counts(3, 4), UsdMicro(123));
    drop(second);
    assert_eq!(ledger.purse("studio").balance(), Balance { credited: 1_000, spent: 123, reserved: 0 });
    ask(&ledger, &key).unwrap().settle("m", counts(1, 1), UsdMicro(77));
    ledger.close();
    drop(ledger);
    // The process after that knows it all; usage and purse agree.
    let fresh = |key: &Key| Key { shown: key.shown.clone(), account: OnceLock::new() };
    let (key, other) = (fresh(&key), fresh(&other));
    let ledger = open();
    assert_eq!(ledger.purse("studio").balance(), Balance { credited: 1_000, spent: 200, reserved: 0 });
    assert!(matches!(ledger.credit(&transfer("0x1", "studio", 1_000)), Err(CreditError::Taken { .. })));
    ledger.credit(&transfer("0x2", "studio", 5)).unwrap();
    ledger.credit(&transfer("0x3", "somebody", 9)).unwrap();
    ask(&ledger, &other).unwrap().settle("m", counts(1, 1), UsdMicro(300));
    ask(&ledger, &key).unwrap().settle("m", counts(1, 1), UsdMicro(300));
    ledger.close();
    drop(ledger);
    let ledger = open();
    assert_eq!(ledger.purse("studio").balance(), Balance { credited: 1_005, spent: 800, reserved: 0 });
    let credits = ledger.credits("studio").unwrap();
    assert_eq!(credits, [transfer("0x1", "studio", 1_000), transfer("0x2", "studio", 5)]);
    let used: u64 = [&fresh(&key), &fresh(&other)].iter().map(|key| ledger.account(key).spent().1.0).sum();
    assert_eq!(used, 800, "what keys have used is what the purse has lost");
}

#[test]
fn who_need_not_pay_beforehand_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let key = key(dir.path(), KeyTerms::default());
    let ledger = Ledger::open(dir.path(), now_s(), false).unwrap();
    let wanted = Estimate { tokens: 1, cost: UsdMicro(400) };
    ledger.admit(&key, wanted, now_s() * 1_000).1.unwrap().settle("m", counts(1, 1), UsdMicro(300));
    ledger.close();
    assert_eq!(ledger.purse("k").balance(), Balance::default());
}
