//! The one place that prints: tables and sentences for people, JSON for programs.
#![allow(clippy::print_stdout, reason = "this is the module that prints")]

use std::io::{BufRead, IsTerminal, Read, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

/// Bytes of the longest answer to a question.
const ANSWER_BYTES_MAX: u64 = 64;

/// Whether people or programs read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// For people, or for programs.
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// A result: one JSON object, or the text.
    pub(crate) fn result<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(line) => put(&line),
                Err(e) => warn(&format!("muster: the result cannot be written as JSON: {e}")),
            }
        } else {
            let text = text();
            if !text.is_empty() {
                put(&text);
            }
        }
    }

    /// A sentence on standard error, for people at a terminal and for logs.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            warn(text);
        }
    }

    /// A piece of text that goes on.
    pub(crate) fn piece(self, text: &str) {
        let mut out = std::io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    }

    /// A question on standard error to whoever sits at the terminal; anything but a yes is a no.
    pub(crate) fn ask(self, question: &str) -> std::io::Result<bool> {
        write!(std::io::stderr().lock(), "{question} [y/N] ")?;
        let mut answer = String::new();
        std::io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Whether a progress bar makes sense.
    pub(crate) fn shows_progress(self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }
}

/// Prints a line on standard error; whoever was reading may be gone, and the work goes on.
pub(crate) fn warn(line: &str) {
    let _gone = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a line; a closed pipe ends the command quietly, as other tools do.
fn put(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// A table without lines, as `docker ps` and `kubectl get` print them.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.set_header(header.iter().map(|h| h.to_uppercase()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row);
    }
    table.load_style(presets::NOTHING);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Milliseconds for people: `3.2 s`, `4 min 10 s`.
pub(crate) fn length(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..=59 => format!("{s}.{} s", ms % 1_000 / 100),
        60..=3_599 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
    }
}

/// An amount in tokens for people: four decimals, or four significant digits where it is less than a token. Exact
/// amounts are in the JSON.
pub(crate) fn tokens(amount: muster_core::units::TokenAmount) -> String {
    let one = muster_core::units::TokenAmount::ONE.0;
    if amount.0 == 0 {
        return "0 MUST".to_owned();
    }
    let (whole, rest) = (amount.0 / one, amount.0 % one);
    let leading_zeros = 18u32.saturating_sub(rest.checked_ilog10().map_or(0, |digits| digits.saturating_add(1)));
    let decimals = if whole > 0 { 4 } else { leading_zeros.saturating_add(4).min(18) };
    let width = decimals as usize;
    format!("{whole}.{:0width$} MUST", rest / 10u128.pow(18 - decimals))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::units::TokenAmount;

    #[test]
    fn small_amounts_are_not_shown_as_nothing() {
        assert_eq!(tokens(TokenAmount(0)), "0 MUST");
        assert_eq!(tokens(TokenAmount(1)), "0.000000000000000001 MUST");
        assert_eq!(tokens(TokenAmount(5_791_234_000_000)), "0.000005791 MUST");
        assert_eq!(tokens(TokenAmount(1_500_000_000_000_000_000)), "1.5000 MUST");
    }

    #[test]
    fn tables_have_no_lines() {
        let text = table(&["a", "b"], vec![vec!["1".into(), "2".into()]]);
        assert_eq!(text.lines().map(str::trim).collect::<Vec<_>>(), ["A  B", "1  2"]);
    }
}
