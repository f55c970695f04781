//! OpenAI's own clients, and x402's, unmodified. Installed from their registries by `tests/clients/install.sh`.

use std::path::PathBuf;
use std::process::Stdio;

use muster_core::inference::{Finish, InferenceErrorKind, InferenceEvent, ToolCallPiece};

use crate::rig::{Rig, Scripted, Step, finished, hello, text};

/// This crate's folder, asked for at run time: a binary kept from another checkout must not look there.
fn here() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the folder to tests"))
}

/// A Gateway with what the clients ask for.
async fn served() -> Rig {
    let rig = Rig::new().await;
    rig.add("tiny", Scripted::new(|_| hello()));
    rig.add(
        "tools",
        Scripted::new(|_| {
            let call = |id: Option<&str>, arguments: &str| {
                let (id, name) = (id.map(str::to_owned), id.map(|_| "weather".to_owned()));
                let piece = ToolCallPiece { index: 0, id, name, arguments: arguments.to_owned() };
                Step::Say(InferenceEvent::ToolCall { choice: 0, piece })
            };
            vec![call(Some("call_a"), "{\"city\":"), call(None, "\"Rome\"}"), finished(0, Finish::ToolCalls)]
        }),
    );
    rig.add(
        "vectors",
        Scripted::new(|_| vec![Step::Say(InferenceEvent::Embedding { index: 0, vector: vec![1.0, 0.25] })]),
    );
    rig.add("broken", Scripted::new(|_| vec![text("Hel"), Step::Fail(InferenceErrorKind::EngineLost)]));
    rig
}

async fn run(program: PathBuf, script: PathBuf) {
    let rig = served().await;
    talk(program, script, &[&format!("http://{}/v1", rig.at), &rig.key]).await;
}

/// Runs a script of `tests/clients` in JavaScript, beside the clients that it uses.
pub(crate) async fn run_client(script: &str, args: &[&str]) {
    talk(PathBuf::from("node"), installed().await.join("js").join(script), args).await;
}

async fn talk(program: PathBuf, script: PathBuf, args: &[&str]) {
    let output = tokio::process::Command::new(program)
        .arg(script)
        .args(args)
        .env_remove("OPENAI_BASE_URL")
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", told(&output.stdout), told(&output.stderr));
    assert!(told(&output.stdout).contains("is content"));
}

async fn installed() -> PathBuf {
    let install = here().join("tests/clients/install.sh");
    let output = tokio::process::Command::new(install).stderr(Stdio::inherit()).output().await.unwrap();
    assert!(output.status.success(), "the clients are not installed");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_s_client_for_python_is_content() {
    let target = installed().await;
    run(target.join("venv/bin/python"), here().join("tests/clients/client.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_s_client_for_javascript_is_content() {
    run(PathBuf::from("node"), installed().await.join("js/client.mjs")).await;
}
