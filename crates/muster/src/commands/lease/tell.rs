//! How a lease is shown: the stable JSON object of docs/json.md, and words for people.

use muster_client::job::AttemptReport;
use muster_client::leases::{LeaseSummary, Reclaimed};
use muster_core::hardware::Cores;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::inference::TokenCounts;
use muster_core::lease::End;
use muster_core::units::{Bytes, TimeMs, TokenAmount};
use serde::Serialize;

use crate::output::{length, table, tokens};

/// Characters of a command in a table.
const COMMAND_SHOWN: usize = 40;

/// A lease, for programs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LeaseObject {
    pub(crate) id: LeaseId,
    /// `accepted`, `open`, `starting`, `running`, `ended`, `settling`, `closed` or `void`.
    pub(crate) phase: String,
    pub(crate) container: NodeId,
    pub(crate) indexer: NodeId,
    pub(crate) job: String,
    pub(crate) task_index: Option<u32>,
    pub(crate) task_count: Option<u32>,
    pub(crate) attempt: u32,
    pub(crate) command: Vec<String>,
    pub(crate) created_at: f64,
    pub(crate) started_at: Option<f64>,
    pub(crate) ended_at: Option<f64>,
    pub(crate) ran_seconds: f64,
    /// How the job ended, as a sentence.
    pub(crate) end: Option<String>,
    /// Its own exit code, where it had one.
    pub(crate) exit_code: Option<i32>,
    /// Whether the Container failed it.
    pub(crate) interrupted: bool,
    pub(crate) billed: TokenAmount,
    pub(crate) deposit: TokenAmount,
    /// How much more running the deposit pays for, while something can run.
    pub(crate) deposit_left_seconds: Option<f64>,
    pub(crate) refunded: TokenAmount,
    pub(crate) rate_per_second: TokenAmount,
    /// A model's tokens, where it is one.
    pub(crate) tokens: Option<TokensObject>,
    pub(crate) vouchers: u32,
    pub(crate) redeem_tx: Option<String>,
    pub(crate) cpu_millis: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) gpus: u8,
    pub(crate) output: Option<String>,
    /// Why outputs are not (all) here, if so.
    pub(crate) outputs_note: Option<String>,
    /// Why the lease was given up, if so.
    pub(crate) gone: Option<String>,
    /// What a person must do for it to go on, if anything.
    pub(crate) needs: Option<String>,
    /// Nothing is left to be done for it.
    pub(crate) over: bool,
    /// A process drives it just now.
    pub(crate) driven: bool,
    /// A stop was asked for.
    pub(crate) stopping: bool,
    /// The network that it belongs to, in sixteen hex digits.
    pub(crate) network: String,
}

/// A model's tokens: how many, and what a million of each kind costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TokensObject {
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) output: u64,
    pub(crate) input_rate: TokenAmount,
    pub(crate) cached_rate: TokenAmount,
    pub(crate) output_rate: TokenAmount,
}

/// Milliseconds as seconds.
#[allow(clippy::cast_precision_loss, reason = "times of this age are far below 2^53 milliseconds")]
pub(crate) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

impl From<&LeaseSummary> for LeaseObject {
    fn from(summary: &LeaseSummary) -> Self {
        let lease = &summary.lease;
        let time = |at: Option<TimeMs>| at.map(|at| seconds(at.0));
        Self {
            id: lease.lease,
            phase: lease.phase.to_string(),
            container: lease.container,
            indexer: lease.indexer,
            job: summary.job.clone(),
            task_index: summary.task.map(|t| t.index),
            task_count: summary.task.map(|t| t.count),
            attempt: summary.attempt,
            command: summary.command.clone(),
            created_at: seconds(summary.created_at.0),
            started_at: time(lease.started_at),
            ended_at: time(lease.ended_at),
            ran_seconds: seconds(lease.ran_ms),
            end: lease.end.as_ref().map(ToString::to_string),
            exit_code: match lease.end {
                Some(End::Exited(code)) => Some(code),
                _ => None,
            },
            interrupted: lease.end.as_ref().is_some_and(End::is_interruption),
            billed: lease.billed,
            deposit: lease.deposit,
            deposit_left_seconds: deposit_left_ms(lease).map(seconds),
            refunded: lease.refunded,
            rate_per_second: lease.rate_per_second,
            tokens: lease.tokens.map(|(rates, counts)| TokensObject {
                input: counts.input,
                cached: counts.cached,
                output: counts.output,
                input_rate: rates.input,
                cached_rate: rates.cached,
                output_rate: rates.output,
            }),
            vouchers: lease.vouchers,
            redeem_tx: lease.redeem_tx.clone(),
            cpu_millis: lease.allocation.cpu_millis,
            memory_bytes: lease.allocation.memory.0,
            disk_bytes: lease.allocation.disk.0,
            gpus: lease.allocation.gpus.len(),
            output: summary.output.as_ref().map(|o| o.display().to_string()),
            outputs_note: lease.outputs_note.clone(),
            gone: lease.gone.clone(),
            needs: summary.needs.clone(),
            over: summary.over,
            driven: summary.driven,
            stopping: summary.stopping,
            network: summary.network.clone(),
        }
    }
}

/// How much more running the deposit pays for, as last heard; `None` where nothing will run any more.
fn deposit_left_ms(lease: &AttemptReport) -> Option<u64> {
    if lease.end.is_some() || lease.phase.is_final() {
        return None;
    }
    Some(lease.deposit.ms_at_rate(lease.rate_per_second)?.saturating_sub(lease.ran_ms))
}

/// Leases in a table, as they come.
pub(crate) fn list(leases: &[LeaseSummary], now_ms: u64) -> String {
    let row = |s: &LeaseSummary| {
        let task = s.task.map_or_else(String::new, |t| t.index.to_string());
        let mut phase = s.lease.phase.to_string();
        if s.needs.is_some() {
            phase.push_str(" (!)");
        } else if s.stopping && !s.over {
            phase.push_str(" (stopping)");
        }
        vec![
            s.lease.lease.short(),
            task,
            phase,
            s.lease.container.short(),
            length(now_ms.saturating_sub(s.created_at.0)),
            length(s.lease.ran_ms),
            tokens(s.lease.billed),
            command_line(&s.command),
        ]
    };
    let header = ["lease", "task", "phase", "container", "age", "ran", "billed", "command"];
    let mut text = table(&header, leases.iter().map(row).collect());
    if leases.iter().any(|s| s.needs.is_some()) {
        text.push_str(
            "\n\n(!) needs you: `muster lease show` says why; `muster lease reclaim` brings its deposit back",
        );
    }
    text
}

/// A command in one short line; characters that would move the cursor are not shown.
fn command_line(command: &[String]) -> String {
    let text: String = command.join(" ").chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().count() <= COMMAND_SHOWN {
        return text;
    }
    let cut: String = text.chars().take(COMMAND_SHOWN).collect();
    format!("{cut}…")
}

/// Everything about one lease, a line each.
pub(crate) fn show(s: &LeaseSummary, now_ms: u64) -> String {
    let l = &s.lease;
    let mut lines: Vec<(&str, String)> = vec![("lease", l.lease.to_string()), ("phase", l.phase.to_string())];
    let mut line = |name: &'static str, text: Option<String>| lines.extend(text.map(|text| (name, text)));
    line("ended", l.end.as_ref().map(ToString::to_string));
    line("given up", l.gone.clone());
    line("needs", s.needs.clone());
    line("command", Some(command_line(&s.command)));
    line("job", Some(s.job.clone()));
    line("task", s.task.map(|t| format!("{} (one of {})", t.index, t.count)));
    line("attempt", (s.attempt > 1).then(|| s.attempt.to_string()));
    line("container", Some(l.container.to_string()));
    line("indexer", Some(l.indexer.to_string()));
    let a = &l.allocation;
    let gpus = if a.gpus.is_empty() { String::new() } else { format!(", {} GPUs", a.gpus.len()) };
    let rented = format!("{} cores, {} memory, {} disk{gpus}", Cores(a.cpu_millis), a.memory, a.disk);
    line("rented", Some(rented));
    line("age", Some(length(now_ms.saturating_sub(s.created_at.0))));
    line("ran", Some(length(l.ran_ms)));
    let price = match l.tokens {
        None => format!("{} a second", tokens(l.rate_per_second)),
        Some((rates, _)) => format!(
            "{} for a million tokens of prompts, {} for remembered ones, {} for drawn ones",
            tokens(rates.input),
            tokens(rates.cached),
            tokens(rates.output)
        ),
    };
    line("price", Some(price));
    let counted = |(_, counts): (_, TokenCounts)| {
        format!("{} of prompts ({} remembered), {} drawn", counts.input, counts.cached, counts.output)
    };
    line("tokens", l.tokens.map(counted));
    let deposit = format!("{} of a deposit of {}", tokens(l.billed), tokens(l.deposit));
    line("billed", Some(deposit));
    line("deposit lasts", deposit_left_ms(l).map(|ms| format!("{} more", length(ms))));
    line("refunded", l.phase.is_final().then(|| tokens(l.refunded)));
    line("vouchers", Some(l.vouchers.to_string()));
    line("settled by", l.redeem_tx.clone());
    line("outputs", s.output.as_ref().map(|o| o.display().to_string()));
    line("outputs note", l.outputs_note.clone());
    let driven = match (s.over, s.driven) {
        (true, _) => "nothing is left to do",
        (false, true) => "a process drives it",
        (false, false) => "no process drives it just now",
    };
    line(
        "state",
        Some(if s.stopping && !s.over { format!("{driven}; a stop was asked for") } else { driven.to_owned() }),
    );
    aligned(&lines)
}

/// What came back, a line for each lease.
pub(crate) fn reclaimed(leases: &[Reclaimed]) -> String {
    if leases.is_empty() {
        return "no deposit of this wallet is stuck on this network".to_owned();
    }
    let line = |r: &Reclaimed| {
        let name = r.id.short();
        match (&r.problem, r.closed) {
            (Some(problem), _) => format!("lease {name}: {problem}"),
            (None, true) => format!("lease {name}: {} came back", tokens(r.refunded)),
            (None, false) => {
                format!(
                    "lease {name} is being closed; say `muster lease reclaim` again when its challenge window is over"
                )
            }
        }
    };
    leases.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `name:  text` lines whose texts begin in one column.
pub(crate) fn aligned(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let line = |(name, text): &(&str, String)| format!("{:<width$} {text}", format!("{name}:"));
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    Bytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_cannot_move_the_cursor() {
        let long = vec!["x".repeat(60)];
        assert_eq!(command_line(&["printf".to_owned(), "\u{1b}[2J\n".to_owned()]), "printf ?[2J?");
        assert_eq!(command_line(&long).chars().count(), COMMAND_SHOWN + 1);
    }

    #[test]
    fn lines_are_aligned() {
        let lines = [("a", "1".to_owned()), ("long", "2".to_owned())];
        assert_eq!(aligned(&lines), "a:    1\nlong: 2");
    }
}
