//! `muster wallet`: keys and tokens.

pub(super) mod paying;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use muster_chain::keys::Wallet;
use muster_chain::settle::ChainClient;
use muster_core::ids::Address;
use muster_core::units::TokenAmount;
use serde::Serialize;

use super::{Context, chain_failure};
use crate::cli::WalletCommand;
use crate::dirs::make_private;
use crate::failure::{Because, Code, Failure};
use crate::output::{table, tokens};
use crate::wallets;

/// Longest file that is taken for a key or a keystore, in bytes.
const KEY_BYTES_MAX: u64 = 64 * 1024;
/// Ether that the faucet fills an account up to, in wei; and from where on it does.
const FAUCET_WEI: u128 = 10 * WEI;
const FAUCET_BELOW_WEI: u128 = WEI;
const WEI: u128 = 1_000_000_000_000_000_000;

/// Runs one of the commands.
pub(super) async fn run(cx: &Context, command: WalletCommand) -> Result<u8, Failure> {
    match command {
        WalletCommand::New { name } => new(cx, &name)?,
        WalletCommand::Import { file, name } => import(cx, &file, &name)?,
        WalletCommand::List => list(cx)?,
        WalletCommand::Balance { who } => balance(cx, who.as_deref()).await?,
        WalletCommand::Send { to, amount, ether } => send(cx, to, amount, ether).await?,
        WalletCommand::Faucet { who, amount } => faucet(cx, who.as_deref(), amount).await?,
    }
    Ok(0)
}

/// A wallet as `new` and `import` tell of it.
#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    address: Address,
    keystore: &'a Path,
}

fn new(cx: &Context, name: &str) -> Result<(), Failure> {
    let path = free_place(cx, name)?;
    let passphrase = wallets::passphrase(&cx.dirs, &cx.global, &path, true)?;
    keep(cx, &Wallet::random(), name, &path, &passphrase)
}

fn import(cx: &Context, file: &Path, name: &str) -> Result<(), Failure> {
    let path = free_place(cx, name)?;
    let text = read_key(file)?;
    if text.trim_start().starts_with('{') {
        if file == Path::new("-") {
            let why = "a keystore is imported from a file, not from standard input: muster wallet import FILE NAME";
            return Err(Failure::new(Code::Wallet, why));
        }
        // The passphrase that opens it goes on protecting it.
        let passphrase = wallets::passphrase(&cx.dirs, &cx.global, file, false)?;
        let wallet = Wallet::open_keystore(file, &passphrase).code(Code::Wallet)?;
        return keep(cx, &wallet, name, &path, &passphrase);
    }
    let wallet = Wallet::from_hex(&text).because(Code::Wallet, shown(file))?;
    let passphrase = wallets::passphrase(&cx.dirs, &cx.global, &path, true)?;
    keep(cx, &wallet, name, &path, &passphrase)
}

fn shown(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

/// The text of a key or keystore; bounded, so that a wrong file does no harm.
fn read_key(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(KEY_BYTES_MAX).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|f| f.take(KEY_BYTES_MAX).read_to_string(&mut text))
    };
    read.because(Code::Io, format!("cannot read a key from {}", shown(file)))?;
    Ok(text)
}

/// Where a new wallet of this name will lie. Nothing is there, and this build may write into the folder.
fn free_place(cx: &Context, name: &str) -> Result<std::path::PathBuf, Failure> {
    let path = wallets::keystore_path(&cx.dirs, name)?;
    if path.exists() {
        let why = format!("there is a wallet {} already; choose another name. Nothing was changed", path.display());
        return Err(Failure::new(Code::Wallet, why));
    }
    if cx.dirs.root().exists() {
        cx.dirs.prepare()?;
    }
    Ok(path)
}

fn keep(cx: &Context, wallet: &Wallet, name: &str, path: &Path, passphrase: &str) -> Result<(), Failure> {
    if path.starts_with(cx.dirs.wallets()) {
        cx.dirs.prepare()?;
        make_private(&cx.dirs.wallets())?;
    }
    wallet.save_keystore(path, passphrase).code(Code::Wallet)?;
    let address = wallet.address();
    cx.output.result(&Made { name, address, keystore: path }, || {
        format!("{address}\nkept in {}; without the file or its passphrase the key is lost", path.display())
    });
    Ok(())
}

/// A wallet in the list.
#[derive(Serialize)]
struct Listed {
    name: String,
    /// Absent where only the passphrase would tell.
    address: Option<Address>,
    keystore: std::path::PathBuf,
    /// Whether commands take it when none is named.
    chosen: bool,
    /// Why it cannot be used, if so.
    problem: Option<String>,
}

fn list(cx: &Context) -> Result<(), Failure> {
    let folder = cx.dirs.wallets();
    let chosen = wallets::chosen(&cx.dirs, &cx.global)?;
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().because(Code::Io, folder.display())?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Failure::new(Code::Io, format!("{}: {e}", folder.display()))),
    };
    let mut paths: Vec<_> = entries.into_iter().map(|e| e.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    for keystore in paths {
        let name = keystore.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (address, problem) = match wallets::address_of(&keystore) {
            Ok(address) => (address, None),
            Err(failure) => (None, Some(failure.why)),
        };
        found.push(Listed { name, address, chosen: keystore == chosen, keystore, problem });
    }
    let text = || {
        if found.is_empty() {
            return format!("no wallets in {}; make one with `muster wallet new`", folder.display());
        }
        let row = |w: &Listed| {
            let address = w.address.map(|a| a.to_string());
            let said = address.or_else(|| w.problem.clone()).unwrap_or_else(|| "not told by the file".to_owned());
            vec![w.name.clone(), said, if w.chosen { "*".to_owned() } else { String::new() }]
        };
        table(&["name", "address", "chosen"], found.iter().map(row).collect())
    };
    cx.output.result(&serde_json::json!({ "wallets": found }), text);
    Ok(())
}

/// What an account holds.
#[derive(Serialize)]
struct Holding {
    address: Address,
    tokens: TokenAmount,
    ether_wei: String,
}

impl Holding {
    async fn of(client: &ChainClient, address: Address) -> Result<Self, Failure> {
        let tokens = client.token_balance(address).await.map_err(|e| chain_failure(&e))?;
        let wei = client.eth_balance(address).await.map_err(|e| chain_failure(&e))?;
        Ok(Self { address, tokens, ether_wei: wei.to_string() })
    }

    fn text(&self) -> String {
        let wei = self.ether_wei.parse().unwrap_or(0);
        format!("{} holds {} and {} ether", self.address, tokens(self.tokens), TokenAmount(wei))
    }
}

async fn balance(cx: &Context, who: Option<&str>) -> Result<(), Failure> {
    let address = account(cx, who)?;
    let holding = Holding::of(&cx.chain().await?, address).await?;
    cx.output.result(&holding, || holding.text());
    Ok(())
}

/// The account that somebody means: an address, a wallet's name, or the chosen wallet. The passphrase is asked for only
/// where the keystore does not tell its address.
fn account(cx: &Context, who: Option<&str>) -> Result<Address, Failure> {
    let path = match who {
        Some(text) if text.starts_with("0x") && !Path::new(text).exists() => {
            return text.parse().because(Code::Wallet, format!("{text:?} is no address (0x and 40 hex digits)"));
        }
        Some(name) => wallets::keystore_path(&cx.dirs, name)?,
        None => wallets::chosen(&cx.dirs, &cx.global)?,
    };
    if path.exists()
        && let Some(address) = wallets::address_of(&path)?
    {
        return Ok(address);
    }
    Ok(wallets::open(&cx.dirs, &cx.global, &path)?.address())
}

/// What was sent.
#[derive(Serialize)]
struct Sent {
    from: Address,
    to: Address,
    /// `tokens` or `ether`.
    what: &'static str,
    amount: TokenAmount,
    tx: String,
    block: u64,
}

async fn send(cx: &Context, to: Address, amount: TokenAmount, ether: bool) -> Result<(), Failure> {
    if amount == TokenAmount::ZERO {
        return Err(Failure::new(Code::Balance, "an amount of 0 moves nothing; nothing was sent"));
    }
    let network = cx.network()?;
    let wallet = cx.wallet()?;
    let client = cx.chain().await?;
    let from = wallet.address();
    let what = if ether { "ether" } else { "tokens" };
    let have = if ether { client.eth_balance(from).await.map(TokenAmount) } else { client.token_balance(from).await };
    let have = have.map_err(|e| chain_failure(&e))?;
    if have < amount {
        let why = format!(
            "wallet {from} holds {have} {what}, less than the {amount} to be sent; nothing was sent. On a development \
             network `muster wallet faucet` gives more"
        );
        return Err(Failure::new(Code::Balance, why));
    }
    let outbox = paying::outbox(cx, &network, from)?;
    let intent = format!("by hand {:032x}", rand::random::<u128>());
    let mined = paying::pay(&outbox, wallet, &client, |settlement| async move {
        if ether {
            paying::decided(cx, || settlement.send_ether(&intent, to, amount.0)).await
        } else {
            paying::decided(cx, || settlement.send_tokens(&intent, to, amount)).await
        }
    })
    .await?;
    let sent = Sent { from, to, what, amount, tx: mined.tx.to_string(), block: mined.block };
    cx.output
        .result(&sent, || format!("sent {amount} {what} to {to}: transaction {} in block {}", sent.tx, sent.block));
    Ok(())
}

/// What the faucet gave, and what the account then holds.
#[derive(Serialize)]
struct Given {
    #[serde(flatten)]
    holding: Holding,
    given: TokenAmount,
    token_tx: String,
    /// Absent where there was ether enough.
    ether_tx: Option<String>,
}

async fn faucet(cx: &Context, who: Option<&str>, amount: TokenAmount) -> Result<(), Failure> {
    let key = cx.faucet_key()?;
    let to = account(cx, who)?;
    let client = cx.chain().await?;
    let have = client.token_balance(key.address()).await.map_err(|e| chain_failure(&e))?;
    if have < amount {
        let why = format!(
            "the faucet holds {have} tokens, less than {amount}; ask for less with --amount, and check that the network \
             is the development network of this folder"
        );
        return Err(Failure::new(Code::Balance, why));
    }
    let fills_ether = client.eth_balance(to).await.map_err(|e| chain_failure(&e))? < FAUCET_BELOW_WEI;
    // The folder that `muster up` uses for the same key.
    let outbox = cx.dirs.at("faucet-outbox");
    let intent = format!("faucet {:032x}", rand::random::<u128>());
    let (token_tx, ether_tx) = paying::pay(&outbox, key, &client, |settlement| async move {
        let given = paying::decided(cx, || settlement.send_tokens(&intent, to, amount)).await?;
        let ether = if fills_ether {
            Some(paying::decided(cx, || settlement.send_ether(&intent, to, FAUCET_WEI)).await?)
        } else {
            None
        };
        Ok((given.tx.to_string(), ether.map(|mined| mined.tx.to_string())))
    })
    .await?;
    let given = Given { holding: Holding::of(&client, to).await?, given: amount, token_tx, ether_tx };
    cx.output.result(&given, || format!("gave {}; {}", tokens(amount), given.holding.text()));
    Ok(())
}
