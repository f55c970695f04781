//! The report for people.

use muster_container::sandbox::Severity;

use super::Report;
use super::network::{Answers, NetworkReport};
use crate::commands::lease::tell::{aligned, size};

/// Everything, the verdict last.
pub(super) fn text(report: &Report) -> String {
    let mut parts = vec![machine(report)];
    if let Some(sandbox) = &report.sandbox {
        let line = |f: &muster_container::sandbox::Finding| {
            let mark = match f.severity {
                Severity::Fine => "ok      ",
                Severity::Degraded => "degraded",
                Severity::Missing => "MISSING ",
            };
            format!("  {mark} {f}")
        };
        let lines: Vec<String> = sandbox.findings.iter().map(line).collect();
        parts.push(format!("Sandbox:\n{}", lines.join("\n")));
    }
    let program = |p: &super::Program| match &p.path {
        Some(path) => format!("  ok       {} for {}", path.display(), p.needed_for),
        None => format!("  missing  {} for {}", p.name, p.needed_for),
    };
    parts.push(format!("Programs:\n{}", report.programs.iter().map(program).collect::<Vec<_>>().join("\n")));
    parts.push(report.models.lines());
    parts.extend(report.network.as_ref().map(network));
    parts.push(verdict(report));
    parts.join("\n\n")
}

fn machine(report: &Report) -> String {
    let m = &report.machine;
    let mut lines = vec![
        ("system", format!("{}, kernel {}, {}", m.system, m.kernel, m.architecture)),
        ("processor", format!("{} cores {}", m.cpus, m.cpu_model)),
        ("memory", format!("{}, {} available", size(m.memory_bytes), size(m.memory_available_bytes))),
        ("disk", format!("{}, {} free", size(m.disk_bytes), size(m.disk_free_bytes))),
    ];
    for gpu in &report.gpus.gpus {
        lines.push(("card", format!("{}, {}, driver {}", gpu.name, size(gpu.vram_bytes), gpu.driver)));
    }
    if report.gpus.gpus.is_empty() {
        lines.push(("cards", "none found; processor and memory can be offered".to_owned()));
    }
    for device in &report.gpus.software {
        lines.push(("not a card", format!("{} computes on the processor and is not offered", device.name)));
    }
    lines.extend(report.gpus.notes.iter().map(|note| ("note", note.clone())));
    aligned(&lines)
}

fn network(n: &NetworkReport) -> String {
    let line = |what: &str, a: &Answers| {
        let mark = if a.reachable { "ok     " } else { "MISSING" };
        let problem = a.problem.as_ref().map_or_else(String::new, |p| format!(": {p}"));
        format!("  {mark}  {what} {}{problem}", a.at)
    };
    let mut lines = vec![format!("Network {:?} ({}):", n.name, n.file.display()), line("chain", &n.chain)];
    lines.extend(n.indexers.iter().map(|i| line("Indexer", i)));
    if n.indexers.is_empty() {
        lines.push("  MISSING  the file names no Indexer; ask for a newer one".to_owned());
    }
    lines.join("\n")
}

fn verdict(report: &Report) -> String {
    let mut lines = Vec::new();
    if report.can_serve {
        lines.push("A Container can run on this machine.".to_owned());
    } else {
        lines.push("A Container cannot run on this machine yet:".to_owned());
        lines.extend(report.missing.iter().map(|m| format!("  {m}")));
    }
    if let Some(install) = &report.install {
        lines.push(format!("To install what is missing:\n  {install}"));
    }
    lines.join("\n")
}
