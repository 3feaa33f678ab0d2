//! `claviger run`: loads an agent under its manifest and runs it once. What the agent writes never looks like a message of ours.

use std::error::Error as _;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use claviger::{
    Answer, CacheEvent, Compiler, CompilerCommand, Host, HostBuilder, InstanceEnd, MAX_INPUT, OutputSink,
    RunInput, RunReport, StopLimit,
};
use claviger_broker::LocalBroker;
use claviger_core::name::escape;
use claviger_core::{AgentName, Approver, Broker, Manifest};

use crate::args::Run;
use crate::asking;
use crate::command::rotator;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::file::read_bounded;
use crate::manifest::ManifestFile;
use crate::output::shown;
use crate::progress;
use crate::unlock::with_broker_asking;

/// Compiled components, in the keyring's folder: whoever writes there gains nothing, each is authenticated.
const CACHE_FOLDER: &str = "cache";
/// A longer line of an agent's stderr, in bytes, is shown as several; an error of its own is cut to this many characters.
const MAX_LINE: usize = 4096;

pub(crate) fn run(cx: &Context, args: &Run) -> Result<Exit, Failure> {
    let file = ManifestFile::read_to_obey(&args.manifest.path)?;
    // Warnings are for `claviger check`: a run every minute would bury what matters.
    let (manifest, _) = file.parse(&cx.out)?;
    if manifest.rotates.is_some() {
        return Err(Failure::failed(format!(
            "the manifest `{}` is a rotator's, which is run by a rotation",
            file.path.display()
        ))
        .help("`claviger secret rotate NAME --with MANIFEST` rotates its secret"));
    }
    let component = file.component(&manifest)?;
    let rotators = rotator::read(cx, &args.rotator)?;
    let input = input(args)?;
    let agent = manifest.agent.name.clone();
    let mut approvers = asking::approvers(cx, args.ask)?;
    let hook = asking::hook(cx, args)?;
    approvers.extend(hook.clone().map(|hook| hook as Arc<dyn Approver>));
    let (report, uses, not_approved) =
        with_broker_asking(cx, approvers, async |broker| {
            serve_control(cx, broker);
            if let Some(hook) = &hook {
                hook.attach(broker);
            }
            say_what_is_stopped(cx, broker, &agent);
            let manifests = rotators.iter().map(|one| one.file.path.as_path());
            let host = build_host(cx, broker, manifests.chain([file.path.as_path()]))?;
            rotator::load(cx, broker, &host, &rotators).await?;
            // What is due while the agent runs is done while it runs.
            let _schedule = broker.schedule();
            let before = uses(broker, &agent);
            let report = load_and_run(cx, &host, &manifest, &file, &component, input).await?;
            let after = uses(broker, &agent);
            let spent: Vec<_> = after
            .into_iter()
            .map(|(grant, total)| {
                let earlier = before.iter().find(|(name, _)| *name == grant).map_or(0, |(_, uses)| *uses);
                serde_json::json!({ "grant": grant, "now": total.saturating_sub(earlier), "total": total })
            })
            .collect();
            Ok((report, spent, broker.not_approved()))
        })?;
    show(cx, &agent, &report, &uses, not_approved)
}

/// A host on this broker, whose agents reach neither the keyring nor this program, and write none of these manifests.
pub(crate) fn build_host<'a>(
    cx: &Context,
    broker: &Arc<LocalBroker>,
    manifests: impl IntoIterator<Item = &'a Path>,
) -> Result<Host, Failure> {
    let keyring = broker.keyring();
    let cache_key = broker.compile_cache_key()?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed("the path of this program is not known").because(Some(&error)))?;
    let program_path = program.clone();
    let mut host = Host::builder(Arc::clone(broker) as Arc<dyn Broker>);
    if let Some(file) = cx.passphrase.file() {
        host = host.keep_from_agents(file);
    }
    let host = host
        .compiler(Compiler::Child(CompilerCommand::new(
            program,
            vec!["__compile".into()],
        )))
        .keep_from_agents(keyring.folder())
        .keep_from_writing(program_path)
        .cache(keyring.folder().join(CACHE_FOLDER), cache_key);
    let host = manifests.into_iter().fold(host, HostBuilder::keep_from_writing);
    Ok(host.build()?)
}

async fn load_and_run(
    cx: &Context,
    host: &Host,
    manifest: &Manifest,
    file: &ManifestFile,
    component: &[u8],
    input: String,
) -> Result<RunReport, Failure> {
    let agent = progress::during(
        &cx.out,
        "compiling the agent",
        host.load(manifest, file.folder(), component),
    )
    .await?;
    match agent.cache_event() {
        CacheEvent::Rejected { why } => cx.out.warn(&format!(
            "a compiled component in the cache was not made by this keyring and was replaced: {why}"
        )),
        CacheEvent::NotStored { why } => {
            cx.out.warn(&format!(
                "the compiled agent cannot be kept and will be compiled again: {why}"
            ));
        }
        _ => {}
    }
    let lines = Lines::new(&manifest.agent.name);
    let run = RunInput::text(input);
    let run = if cx.out.is_json() {
        run
    } else {
        run.stderr(lines.sink())
    };
    let report = agent.run(run).await?;
    lines.finish();
    Ok(report)
}

/// So that an operator's commands reach this process while it has the keyring open.
pub(crate) fn serve_control(cx: &Context, broker: &LocalBroker) {
    if let Err(error) = broker.serve_control() {
        let cause = error
            .source()
            .map_or_else(String::new, |cause| format!(": {cause}"));
        cx.out.warn(&format!(
            "while the agent runs, no command reaches it, and revocations have to wait: {error}{cause}"
        ));
    }
}

/// An agent that is refused everything looks broken.
fn say_what_is_stopped(cx: &Context, broker: &LocalBroker, agent: &AgentName) {
    let ledger = broker.snapshot();
    if ledger.in_panic() {
        cx.out
            .note("all use of credentials is stopped; `claviger panic --lift` lifts it");
    }
    if ledger.suspended_agents().any(|one| one == agent) {
        cx.out.note(&format!(
            "agent `{agent}` is suspended; `claviger agent resume {agent}` resumes it"
        ));
    }
}

fn input(args: &Run) -> Result<String, Failure> {
    let max = MAX_INPUT as u64;
    let bytes = match (&args.input, &args.input_file, args.stdin) {
        (Some(text), _, _) => return Ok(text.clone()),
        (None, Some(path), _) => read_bounded(path, max, &format!("the input `{}`", path.display()))?,
        (None, None, true) => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .take(max.saturating_add(1))
                .read_to_end(&mut bytes)
                .map_err(|error| {
                    Failure::failed("the input on stdin cannot be read").because(Some(&error))
                })?;
            bytes
        }
        (None, None, false) => Vec::new(),
    };
    if bytes.len() as u64 > max {
        return Err(Failure::failed(format!("the input has at most {max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::failed("the input is not UTF-8, and agents are given text"))
}

/// How often each grant of the agent was used, by the log.
fn uses(broker: &LocalBroker, agent: &AgentName) -> Vec<(String, u64)> {
    let ledger = broker.snapshot();
    let mut uses: Vec<_> = ledger
        .grants()
        .filter(|(name, _, _)| *name == agent)
        .map(|(_, grant, state)| (grant.to_string(), state.uses))
        .collect();
    uses.sort();
    uses
}

fn show(
    cx: &Context,
    agent: &AgentName,
    report: &RunReport,
    uses: &[serde_json::Value],
    not_approved: u64,
) -> Result<Exit, Failure> {
    let (said, exit_code) = match &report.answer {
        Answer::Done(text) => (Some(text.as_str()), None),
        Answer::Failed(_) => (None, None),
        Answer::Exited(code) => (None, Some(*code)),
        _ => (None, None),
    };
    let error = match &report.answer {
        Answer::Failed(text) => Some(text.as_str()),
        _ => None,
    };
    if cx.out.is_json() {
        let json = serde_json::json!({
            "agent": agent,
            "answer": said,
            "error": error,
            "exit_code": exit_code,
            "end": report.end,
            "stdout": String::from_utf8_lossy(&report.stdout),
            "stderr": String::from_utf8_lossy(&report.stderr),
            "uses": uses,
            "not_approved": not_approved,
            "elapsed_ms": u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
        });
        cx.out.value(&json, |_| String::new());
    } else if exit_code.is_some() {
        // A command's output is its answer.
        cx.out.said(&report.stdout);
    } else {
        let lines = Lines::new(agent);
        lines.take(&report.stdout);
        lines.finish();
        if let Some(text) = said {
            cx.out.said(format!("{text}\n").as_bytes());
        }
    }
    match ended(&report.end, error, exit_code) {
        None => Ok(Exit::Done),
        Some(message) => Err(failure(agent, &message, not_approved)),
    }
}

/// An agent that failed after it was not given what it asked for most likely failed by that.
fn failure(agent: &AgentName, message: &str, not_approved: u64) -> Failure {
    let message = format!("agent `{agent}` {message}");
    match not_approved {
        0 => Failure::failed(message),
        1 => Failure::new(Exit::NeedsApproval, format!("{message}; 1 use was not approved"))
            .help("`claviger audit tail` shows which, and who denied it, if anybody did"),
        uses => Failure::new(
            Exit::NeedsApproval,
            format!("{message}; {uses} uses were not approved"),
        )
        .help("`claviger audit tail` shows which, and who denied them, if anybody did"),
    }
}

/// What went wrong, if something did.
fn ended(end: &InstanceEnd, error: Option<&str>, exit_code: Option<u8>) -> Option<String> {
    match (end, error, exit_code) {
        (InstanceEnd::Finished, _, _) => None,
        (InstanceEnd::Failed, Some(error), _) => Some(format!("failed: {}", escape(error, MAX_LINE))),
        (InstanceEnd::Failed, None, Some(code)) => Some(format!("ended with exit code {code}")),
        (InstanceEnd::Failed, None, None) => Some("failed".to_owned()),
        (InstanceEnd::Stopped { limit }, _, _) => Some(format!("was stopped: {}", limit_words(*limit))),
        (InstanceEnd::Trapped { trap }, _, _) => Some(format!("trapped: {trap}")),
        (InstanceEnd::Dropped, _, _) => Some("was dropped".to_owned()),
    }
}

/// A limit, and where it is set.
const fn limit_words(limit: StopLimit) -> &'static str {
    match limit {
        StopLimit::Deadline => "it ran longer than `deadline` in the manifest's `[limits]`",
        StopLimit::Cpu => "it took more processor time than `cpu` in the manifest's `[limits]`",
        StopLimit::Memory => "it took more memory than `memory` in the manifest's `[limits]`",
        StopLimit::Output => "it wrote more than `output` in the manifest's `[limits]`",
        StopLimit::Tables => "it took more table elements than an agent may have",
        StopLimit::Stack => "its calls are nested too deeply",
        StopLimit::HostCall => "it passed more in one call than a call may carry",
        StopLimit::Handles => "it holds more handles than an agent may have",
    }
}

/// An agent's output on stderr: line by line, escaped, each line marked with the agent's name, so that none can pass for ours.
#[derive(Clone)]
pub(crate) struct Lines {
    mark: String,
    rest: Arc<Mutex<Vec<u8>>>,
}

impl Lines {
    pub(crate) fn new(agent: &AgentName) -> Self {
        Self {
            mark: format!("{agent} | "),
            rest: Arc::default(),
        }
    }

    pub(crate) fn sink(&self) -> OutputSink {
        let lines = self.clone();
        OutputSink::new(move |bytes| lines.take(bytes))
    }

    fn take(&self, bytes: &[u8]) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            rest.extend_from_slice(part);
            if rest.last() == Some(&b'\n') || rest.len() > MAX_LINE {
                self.write(&std::mem::take(&mut *rest));
            }
        }
    }

    fn finish(&self) {
        let rest = std::mem::take(&mut *self.rest.lock().unwrap_or_else(PoisonError::into_inner));
        if !rest.is_empty() {
            self.write(&rest);
        }
    }

    fn write(&self, line: &[u8]) {
        crate::output::err_line(&self.line(line));
    }

    fn line(&self, line: &[u8]) -> String {
        let text = String::from_utf8_lossy(line);
        format!("{}{}", self.mark, shown(text.trim_end_matches('\n')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_line_cannot_pass_for_ours() {
        let lines = Lines::new(&"bot".parse().unwrap());
        assert_eq!(
            lines.line(b"error: \x1b[2Jx\r\n"),
            "bot | error: \\u{1b}[2Jx\\u{d}"
        );
        lines.take(b"no newline yet");
        assert_eq!(lines.rest.lock().unwrap().len(), 14);
        lines.take(b" and now\nrest");
        assert_eq!(lines.rest.lock().unwrap().as_slice(), b"rest");
    }

    #[test]
    fn only_an_agent_that_finished_did_well() {
        assert_eq!(ended(&InstanceEnd::Finished, None, None), None);
        for end in [
            InstanceEnd::Failed,
            InstanceEnd::Dropped,
            InstanceEnd::Stopped {
                limit: StopLimit::Cpu,
            },
            InstanceEnd::Trapped {
                trap: "unreachable".to_owned(),
            },
        ] {
            assert!(ended(&end, None, None).is_some(), "{end:?}");
        }
    }
}
