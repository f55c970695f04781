//! Wallets of a folder: keystores under DIR/wallets, and where their passphrase comes from.

use std::fs;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use muster_chain::keys::{KeyError, Wallet};
use muster_core::ids::Address;

use crate::cli::Global;
use crate::dirs::{Dirs, make_private, write_private};
use crate::failure::{Because, Code, Failure};

/// The file in which `muster up` keeps the passphrase that it drew for a development network's own wallets.
const OWN_PASSPHRASE: &str = "passphrase";
/// Longest passphrase file that is read, in bytes.
const PASSPHRASE_BYTES_MAX: u64 = 4_096;

/// The wallet that was named: by `--wallet`, else by the variable. `muster model chat` takes the flag without a name.
pub(crate) fn named(flag: Option<String>) -> Option<String> {
    let said = |name: &String| !name.is_empty();
    flag.filter(said).or_else(|| std::env::var("MUSTER_WALLET").ok().filter(said))
}

/// A wallet's name must be a plain file name.
fn check_name(name: &str) -> Result<(), Failure> {
    let good = !name.is_empty()
        && name.len() <= 64
        && name != OWN_PASSPHRASE
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if good {
        return Ok(());
    }
    Err(Failure::new(Code::Wallet, format!("{name:?} cannot be a wallet's name: use letters, digits, '-' and '_'")))
}

/// Where the keystore of a name, or a keystore given as a file, lies.
pub(crate) fn keystore_path(dirs: &Dirs, name_or_file: &str) -> Result<PathBuf, Failure> {
    if name_or_file.contains('/') || Path::new(name_or_file).extension().is_some_and(|e| e == "json") {
        return Ok(PathBuf::from(name_or_file));
    }
    check_name(name_or_file)?;
    Ok(dirs.wallets().join(format!("{name_or_file}.json")))
}

/// The wallet that `--wallet` names, or the folder's own: `consumer` where `muster up` made one, else `default`.
pub(crate) fn chosen(dirs: &Dirs, global: &Global) -> Result<PathBuf, Failure> {
    if let Some(name) = &global.wallet {
        return keystore_path(dirs, name);
    }
    let own = dirs.wallets().join("consumer.json");
    if own.exists() { Ok(own) } else { keystore_path(dirs, "default") }
}

/// Opens a wallet.
pub(crate) fn open(dirs: &Dirs, global: &Global, path: &Path) -> Result<Wallet, Failure> {
    if !path.exists() {
        let why = format!(
            "there is no wallet {}; make one with `muster wallet new`, or name another with --wallet (`muster wallet list`)",
            path.display()
        );
        return Err(Failure::new(Code::Wallet, why));
    }
    let passphrase = passphrase(dirs, global, path, false)?;
    Wallet::open_keystore(path, &passphrase).map_err(|e| {
        let hint = match &e {
            KeyError::WrongPassphrase { .. } => {
                "; nothing was done. Give the right one by --passphrase-file, MUSTER_PASSPHRASE or the prompt"
            }
            _ => "",
        };
        Failure::new(Code::Wallet, format!("{e}{hint}"))
    })
}

/// The passphrase: --passphrase-file; the folder's own where `muster up` made the wallet; MUSTER_PASSPHRASE; a prompt.
pub(crate) fn passphrase(dirs: &Dirs, global: &Global, wallet: &Path, twice: bool) -> Result<String, Failure> {
    if let Some(file) = &global.passphrase_file {
        return read_passphrase(file);
    }
    let own = dirs.wallets().join(OWN_PASSPHRASE);
    if (is_own(dirs, wallet) || wallet == dirs.hub_key()) && own.exists() {
        return read_passphrase(&own);
    }
    if let Ok(text) = std::env::var("MUSTER_PASSPHRASE") {
        return not_empty(text, "MUSTER_PASSPHRASE");
    }
    if !std::io::stdin().is_terminal() {
        let why =
            "no passphrase was given and there is no terminal to ask at: use --passphrase-file or MUSTER_PASSPHRASE";
        return Err(Failure::new(Code::Wallet, why));
    }
    let first = rpassword::prompt_password(format!("Passphrase of {}: ", wallet.display()))
        .because(Code::Wallet, "cannot read the passphrase")?;
    if twice {
        let again =
            rpassword::prompt_password("The same again: ").because(Code::Wallet, "cannot read the passphrase")?;
        if first != again {
            return Err(Failure::new(Code::Wallet, "the two passphrases differ; nothing was written"));
        }
    }
    not_empty(first, "the passphrase")
}

/// Whether `muster up` made this wallet, and so knows its passphrase.
pub(crate) fn is_own(dirs: &Dirs, wallet: &Path) -> bool {
    ["consumer", "provider", "indexer"].iter().any(|name| wallet == dirs.wallets().join(format!("{name}.json")))
}

fn read_passphrase(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    fs::File::open(file)
        .and_then(|f| f.take(PASSPHRASE_BYTES_MAX).read_to_string(&mut text))
        .because(Code::Wallet, format!("cannot read the passphrase file {}", file.display()))?;
    not_empty(text.trim_end_matches(['\n', '\r']).to_owned(), &file.display().to_string())
}

fn not_empty(text: String, what: &str) -> Result<String, Failure> {
    if text.is_empty() {
        return Err(Failure::new(Code::Wallet, format!("{what} is empty: a wallet needs a passphrase")));
    }
    Ok(text)
}

/// The passphrase of the folder's own wallets, drawn when the folder is new.
pub(crate) fn own_passphrase(dirs: &Dirs) -> Result<String, Failure> {
    make_private(&dirs.wallets())?;
    let path = dirs.wallets().join(OWN_PASSPHRASE);
    if !path.exists() {
        let drawn: [u8; 24] = rand::random();
        write_private(&path, format!("{}\n", hex::encode(drawn)).as_bytes())?;
    }
    read_passphrase(&path)
}

/// The wallet of a keystore, made now if there is none.
pub(crate) fn open_or_make(path: &Path, passphrase: &str) -> Result<Wallet, Failure> {
    if path.exists() {
        return Wallet::open_keystore(path, passphrase).code(Code::Wallet);
    }
    let wallet = Wallet::random();
    wallet.save_keystore(path, passphrase).code(Code::Wallet)?;
    Ok(wallet)
}

/// One of the folder's own wallets, made when it is missing.
pub(crate) fn own(dirs: &Dirs, name: &str) -> Result<(PathBuf, Wallet), Failure> {
    let passphrase = own_passphrase(dirs)?;
    let path = keystore_path(dirs, name)?;
    let wallet = open_or_make(&path, &passphrase)?;
    Ok((path, wallet))
}

/// The address of a keystore without its passphrase, where the file tells it.
pub(crate) fn address_of(path: &Path) -> Result<Option<Address>, Failure> {
    let text = fs::read_to_string(path).because(Code::Wallet, path.display())?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|_| Failure::new(Code::Wallet, format!("{} is not a keystore", path.display())))?;
    Ok(value.get("address").and_then(|a| a.as_str()).and_then(|a| a.parse().ok()))
}
