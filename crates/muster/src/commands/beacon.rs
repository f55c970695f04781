//! The beacon of a development network: drand's API over a key of the network's own.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use muster_chain::beacon::{InfoAnswer, RoundAnswer};
use muster_core::beacon::BeaconSchedule;
use muster_wire::beacon::{Beacon, BeaconSecret};
use tokio::net::TcpListener;

use super::Context;
use super::roles::begin;
use crate::cli::BeaconCommand;
use crate::dirs::{make_private, write_private};
use crate::failure::{Because, Code, Failure};

/// The secret's file in the beacon's folder, 32 bytes in hex.
const KEY_FILE: &str = "beacon.key";

/// The secret of a folder's beacon; made on the first call, readable by its owner only.
pub(crate) fn secret(dir: &Path) -> Result<BeaconSecret, Failure> {
    make_private(dir)?;
    let path = dir.join(KEY_FILE);
    if !path.exists() {
        let fresh = BeaconSecret::generate(&rand::random());
        write_private(&path, format!("{}\n", hex::encode(fresh.to_bytes())).as_bytes())?;
    }
    let text = std::fs::read_to_string(&path).because(Code::Io, format!("cannot read {}", path.display()))?;
    let mut bytes = [0; 32];
    let what = || format!("{} holds no beacon key: 64 digits of hex are expected", path.display());
    hex::decode_to_slice(text.trim(), &mut bytes).because(Code::Data, what())?;
    BeaconSecret::from_bytes(&bytes).because(Code::Data, what())
}

struct Served {
    beacon: Beacon,
    secret: BeaconSecret,
    chain: String,
}

/// `muster beacon run`.
pub(super) async fn run(cx: &Context, command: BeaconCommand) -> Result<u8, Failure> {
    let BeaconCommand::Run { role, listen, allow_remote, genesis, period } = command;
    let dir = cx.dirs.root().to_owned();
    let begun = begin("beacon", &dir, &role).await?;
    if !listen.ip().is_loopback() && !allow_remote {
        let why = format!("--listen {listen}: the beacon is for this machine only unless --allow-remote is given too");
        return Err(Failure::new(Code::Config, why));
    }
    let secret = secret(&dir)?;
    let schedule = BeaconSchedule { genesis_s: genesis, period_s: period };
    let beacon = Beacon::new(&secret.public_key(), schedule).code(Code::Config)?;
    let listener = TcpListener::bind(listen)
        .await
        .because(Code::InUse, format!("cannot listen on {listen}; name another port with --listen"))?;
    let bound = listener.local_addr().because(Code::Internal, "the beacon's listener has no address")?;
    begun.health.set(|h| {
        h.ready = true;
        h.listen = Some(bound.to_string());
    });
    serve(listener, beacon, secret, begun.stop.clone().cancelled_owned()).await?;
    Ok(0)
}

async fn serve(
    listener: TcpListener,
    beacon: Beacon,
    secret: BeaconSecret,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let app = router(beacon, secret);
    axum::serve(listener, app).with_graceful_shutdown(stop).await.because(Code::Internal, "the beacon stopped serving")
}

fn router(beacon: Beacon, secret: BeaconSecret) -> Router {
    let chain = hex::encode(beacon.chain_hash());
    Router::new()
        .route("/{chain}/info", get(info))
        .route("/{chain}/public/{round}", get(round))
        .with_state(Arc::new(Served { beacon, secret, chain }))
}

/// Seconds since 1970.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

type Refusal = (StatusCode, String);

async fn info(State(served): State<Arc<Served>>, UrlPath(chain): UrlPath<String>) -> Result<Json<InfoAnswer>, Refusal> {
    known(&served, &chain)?;
    Ok(Json(InfoAnswer::new(&served.beacon)))
}

async fn round(State(served): State<Arc<Served>>, UrlPath((chain, which)): UrlPath<(String, String)>) -> Response {
    match answer(&served, &chain, &which, now_s()) {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn known(served: &Served, chain: &str) -> Result<(), Refusal> {
    if chain == served.chain {
        return Ok(());
    }
    Err((StatusCode::NOT_FOUND, format!("this beacon is {}, not {chain:.64}", served.chain)))
}

/// A round that is due, or the last one that is.
fn answer(served: &Served, chain: &str, which: &str, now_s: u64) -> Result<RoundAnswer, Refusal> {
    known(served, chain)?;
    let last = served.beacon.round_at(now_s);
    let number = if which == "latest" { last } else { which.parse().ok() };
    let Some(number) = number.filter(|number| *number != 0) else {
        return Err((StatusCode::NOT_FOUND, "a round is a number from 1 on, or latest".to_owned()));
    };
    if last.is_none_or(|last| number > last) {
        return Err((StatusCode::TOO_EARLY, format!("round {number} is not due yet")));
    }
    let signature = served.secret.sign(number);
    let randomness = served
        .beacon
        .verify(number, &signature)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(RoundAnswer::new(number, &signature, &randomness))
}

#[cfg(test)]
mod tests {
    use muster_chain::beacon::{BeaconClient, FetchError};

    use super::*;

    fn served() -> Served {
        let secret = BeaconSecret::generate(&[5; 32]);
        let schedule = BeaconSchedule { genesis_s: 1_000, period_s: 3 };
        let beacon = Beacon::new(&secret.public_key(), schedule).unwrap();
        let chain = hex::encode(beacon.chain_hash());
        Served { beacon, secret, chain }
    }

    fn refused(which: &str, now_s: u64) -> StatusCode {
        let served = served();
        answer(&served, &served.chain, which, now_s).unwrap_err().0
    }

    #[test]
    fn no_round_is_told_before_its_time() {
        assert_eq!(refused("1", 999), StatusCode::TOO_EARLY);
        assert_eq!(refused("3", 1_005), StatusCode::TOO_EARLY);
        assert_eq!(refused("latest", 999), StatusCode::NOT_FOUND);
        assert_eq!(refused("0", 2_000), StatusCode::NOT_FOUND);
        assert_eq!(refused("18446744073709551615", 2_000), StatusCode::TOO_EARLY);
        assert_eq!(refused("one", 2_000), StatusCode::NOT_FOUND);
        let served = served();
        assert_eq!(answer(&served, &served.chain, "latest", 1_006).unwrap().round, 3);
        assert_eq!(answer(&served, "ab", "latest", 1_006).unwrap_err().0, StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_key_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let first = secret(dir.path()).unwrap();
        assert_eq!(secret(dir.path()).unwrap().to_bytes(), first.to_bytes());
        let path = dir.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "nonsense").unwrap();
        assert!(secret(dir.path()).unwrap_err().to_string().contains("64 digits of hex"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_gets_verified_rounds_from_whoever_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = format!("http://{}", listener.local_addr().unwrap());
        let Served { beacon, secret, .. } = served();
        tokio::spawn(serve(listener, beacon.clone(), secret, std::future::pending()));
        // A server with another key: its answers are refused, not believed.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bad = format!("http://{}", listener.local_addr().unwrap());
        let lies = Arc::new(Served { secret: BeaconSecret::generate(&[6; 32]), ..self::served() });
        let liar = Router::new().route(
            "/{chain}/public/{round}",
            get(move |UrlPath((_, round)): UrlPath<(String, u64)>| {
                let signature = lies.secret.sign(round);
                async move { Json(RoundAnswer::new(round, &signature, &[0; 32])) }
            }),
        );
        tokio::spawn(async move { axum::serve(listener, liar).await });

        let client = BeaconClient::new(beacon.clone(), &[bad.clone(), good]).unwrap();
        let round = client.round(7, now_s()).await.unwrap();
        assert_eq!(beacon.verify(7, &round.signature), Ok(round.randomness));
        let only_bad = BeaconClient::new(beacon, &[bad]).unwrap();
        let Err(FetchError::Nobody { reasons, .. }) = only_bad.round(7, now_s()).await else { panic!("believed") };
        assert!(reasons[0].contains("is not the beacon's"), "{reasons:?}");
    }
}
