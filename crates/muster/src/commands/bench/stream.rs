//! Live sessions as a player sees them: in a real browser, with the meter's clock read back from the picture.

use std::path::PathBuf;
use std::process::Stdio;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use super::Measured;
use super::own::OwnNetwork;
use crate::cli::AtGateway;
use crate::commands::live::Customer;
use crate::commands::setup::Plan;
use crate::commands::{Context, apps};
use crate::failure::{Because, Code, Failure};

/// What runs in Node.js.
const SCRIPT: &str = include_str!("stream.mjs");
/// Names of the browser, the likeliest first.
const BROWSERS: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/// Neverball in the size that is asked for, in a level from its start on.
const LEVEL: &str = "mkdir -p ~/.neverball
printf 'fullscreen 0\nwidth %s\nheight %s\n' \"$MUSTER_WIDTH\" \"$MUSTER_HEIGHT\" > ~/.neverball/neverballrc
exec neverball --level map-easy/easy.sol";

/// What to measure with.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) seconds: u32,
    pub(super) clicks: u32,
    pub(super) starts: u32,
    pub(super) game: bool,
    pub(super) modules: PathBuf,
}

pub(super) async fn run(cx: &Context, choice: Choice) -> Result<Measured, Failure> {
    let modules = choice.modules.canonicalize().map_err(|e| {
        let why = format!(
            "{}: {e}; a browser is driven by playwright-core, which scripts/console.sh installs: name its node_modules with --modules",
            choice.modules.display()
        );
        Failure::new(Code::Missing, why)
    })?;
    let browser = BROWSERS.iter().find(|path| std::path::Path::new(path).exists()).ok_or_else(|| {
        Failure::new(Code::Missing, "there is no Chromium here; install it: apt-get install chromium")
    })?;
    // One Container with the whole machine: the figures are those of a session, not of a share of a core.
    let network = Box::pin(OwnNetwork::start(cx, &Plan::single())).await?;
    cx.output.note("playing in a browser …");
    let played = play(&network, &choice, &modules, browser).await;
    network.stop().await?;
    let figures = played?;
    let parameters = json!({
        "width": 1280, "height": 720, "fps": 60, "seconds": choice.seconds, "clicks": choice.clicks,
        "starts": choice.starts, "network": "loopback", "codec": "h264", "encoder": "muster-h264",
    });
    Ok(("stream", parameters, figures))
}

async fn play(
    network: &OwnNetwork,
    choice: &Choice,
    modules: &std::path::Path,
    browser: &str,
) -> Result<Value, Failure> {
    let own = network.context();
    let customer = Customer::find(&own, &AtGateway { gateway: None, key_file: None }).await?;
    // Meters of the measurement alone: 59 times a second, since a program in step with the screen shows how old a picture is
    // at one place of the screen's beat only, a different one in each run.
    let mut meter = customer.call(Method::GET, "/api/v1/apps/latency", None).await?["app"].take();
    for (name, motion) in [("latency-light", "box"), ("latency-scroll", "full")] {
        meter["name"] = json!(name);
        meter["command"] = json!(["/.muster/init", muster_stream::METER, "--fps", "59", "--motion", motion]);
        let app = serde_json::from_value(meter.clone()).because(Code::Internal, "the meter's file")?;
        Box::pin(apps::publish(&own, &customer, &app, true)).await?;
    }
    if choice.game {
        let mut game = customer.call(Method::GET, "/api/v1/apps/neverball", None).await?["app"].take();
        game["name"] = json!("neverball-level");
        game["command"] = json!(["sh", "-c", LEVEL]);
        let app = serde_json::from_value(game).because(Code::Internal, "the game's file")?;
        Box::pin(apps::publish(&own, &customer, &app, true)).await?;
    }
    let script = network.path().join("stream.mjs");
    std::fs::write(&script, SCRIPT).because(Code::Io, format!("cannot write {}", script.display()))?;
    let ask = json!({
        "url": customer.url(), "key": customer.key(), "modules": modules, "browser": browser,
        "seconds": choice.seconds, "clicks": choice.clicks, "starts": choice.starts, "cpu_millis": 1_000,
        "game": choice.game.then_some("neverball-level"),
    });
    let output = Command::new("node")
        .arg(&script)
        .arg(ask.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .because(Code::Missing, "cannot start Node.js, which drives the browser")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = why.trim().lines().rev().take(6).collect();
        let why = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        return Err(Failure::new(Code::Internal, format!("playing failed: {why}")));
    }
    serde_json::from_slice(&output.stdout).because(Code::Internal, "the figures cannot be read")
}
