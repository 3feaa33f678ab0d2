//! Who is asked for approvals while an agent runs: whoever sits at the terminal, if `--ask` says so; otherwise it is only said that a use
//! waits. Decides nothing.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use claviger_broker::keyring::Keyring;
use claviger_core::approval::{AnsweredBy, NoVerdict, Question, Verdict};
use claviger_core::{Approver, BoxFuture};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{QueueSelector, tcflush};
use tokio::sync::Mutex;

use crate::args::Run;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Output, err_line};
use crate::question::shown_whole;
use crate::webhook::Hook;

/// How often it is looked whether a question is still open while somebody types.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// An answer has at most this many bytes.
const MAX_ANSWER: usize = 256;

/// Who is asked in a run, beside whoever uses `claviger approve`.
pub(crate) fn approvers(cx: &Context, ask: bool) -> Result<Vec<Arc<dyn Approver>>, Failure> {
    if !ask {
        let out = Output::new(cx.out.is_json());
        return Ok(vec![Arc::new(Announcer { out })]);
    }
    if cx.out.is_json() {
        return Err(
            Failure::usage("`--ask` is for people, and `--json` for programs; expected one of them")
                .help("leave `--ask` out, and answer with `claviger approve ID` or `claviger deny ID`"),
        );
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(
            Failure::usage("`--ask` asks on a terminal, and stdin or stderr is none")
                .help("leave it out, and answer with `claviger approve ID` or `claviger deny ID`"),
        );
    }
    Ok(vec![Arc::new(Terminal::default())])
}

/// The web service that is asked, too, if there is one.
pub(crate) fn hook(cx: &Context, args: &Run) -> Result<Option<Arc<Hook>>, Failure> {
    let (Some(url), Some(secret)) = (&args.approver, &args.approver_secret) else {
        return Ok(None);
    };
    // By the listing: what the secret is for is checked again when it is opened.
    let secrets = Keyring::list_public_secrets(&cx.keyring()?)?;
    let of_name = secrets.iter().filter(|record| record.secret.name == *secret);
    let Some(record) = of_name.max_by_key(|record| record.secret.version) else {
        return Err(
            Failure::failed(format!("the keyring has no secret `{secret}`")).help(format!(
                "add it with `claviger secret add {secret} --kind webhook-hmac --origin {}`",
                url.origin()
            )),
        );
    };
    let hook = Hook::new(
        url,
        (secret, record.kind),
        args.approver_authorities.as_deref(),
        &args.approver_network,
        Output::new(cx.out.is_json()),
    )?;
    Ok(Some(Arc::new(hook)))
}

/// Says that a use waits, and how to answer.
#[derive(Debug)]
struct Announcer {
    out: Output,
}

impl Approver for Announcer {
    fn ask(&self, question: Arc<Question>) -> BoxFuture<'_, Result<Verdict, NoVerdict>> {
        // Names alone: nothing that the agent chose.
        let Question { id, agent, grant, .. } = &*question;
        self.out.note(&format!(
            "a use of grant `{grant}` by agent `{agent}` waits for an approval; `claviger approvals {id}` shows it, and \
             `claviger approve {id}` or `claviger deny {id}` answers"
        ));
        Box::pin(async { Err(NoVerdict) })
    }
}

/// Asks on the terminal, one question at a time.
#[derive(Debug, Default)]
struct Terminal {
    free: Mutex<()>,
}

impl Approver for Terminal {
    fn ask(&self, question: Arc<Question>) -> BoxFuture<'_, Result<Verdict, NoVerdict>> {
        Box::pin(async move {
            let _one = self.free.lock().await;
            let open = Open::default();
            let still = Arc::clone(&open.0);
            let asked = Arc::clone(&question);
            let typed = tokio::task::spawn_blocking(move || prompt(&asked, &still))
                .await
                .map_err(|_| NoVerdict)?;
            let by = AnsweredBy::Terminal {
                uid: rustix::process::getuid().as_raw(),
            };
            match typed.as_deref() {
                Some("yes") => Ok(Verdict::approve(&question, by)),
                Some(_) => Ok(Verdict::deny(&question, by, "")),
                None => Err(NoVerdict),
            }
        })
    }
}

/// Open until it is dropped: then nobody waits for what is typed.
#[derive(Default)]
struct Open(Arc<AtomicBool>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What was typed; none if the terminal is gone or the question is over.
fn prompt(question: &Question, over: &AtomicBool) -> Option<String> {
    err_line(&shown_whole(question));
    let stdin = io::stdin();
    // What was typed before the question was shown is no answer to it.
    tcflush(&stdin, QueueSelector::IFlush).ok()?;
    let mut stderr = io::stderr();
    write!(
        stderr,
        "Approve {}? Type `yes`, or anything else to deny: ",
        question.id
    )
    .and_then(|()| stderr.flush())
    .ok()?;
    let mut line = Vec::new();
    loop {
        if over.load(Ordering::Acquire) {
            err_line("\n(not asked any more)");
            return None;
        }
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return None,
        }
        let mut bytes = [0; MAX_ANSWER];
        // Not through `Stdin`: its buffer would keep what comes after.
        match rustix::io::read(&stdin, &mut bytes) {
            Ok(0) => return None,
            Ok(read) => line.extend_from_slice(bytes.get(..read)?),
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        }
        if line.len() > MAX_ANSWER {
            // No `yes` is that long.
            return Some(String::new());
        }
        if let Some(typed) = line.strip_suffix(b"\n") {
            return Some(String::from_utf8_lossy(typed).trim().to_owned());
        }
    }
}
