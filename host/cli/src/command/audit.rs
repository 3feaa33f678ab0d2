//! `claviger audit …`: reads, verifies and signs the audit log. Reading takes no lock and no key, also while an agent runs.

use std::collections::VecDeque;

use claviger_broker::audit::{CheckpointError, Reader, Verified, VerifyError, verify};
use claviger_broker::operator::Command;
use claviger_core::{Entry, EntryIndex};

use crate::args::Audit;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::operate::{done, order, text};
use crate::output::columns;
use crate::{entry, log};

pub(crate) fn run(cx: &Context, args: &Audit) -> Result<Exit, Failure> {
    match args {
        Audit::Tail { count, follow } => tail(cx, *count, *follow),
        Audit::Show { index, proof } => show(cx, *index, *proof),
        Audit::Verify { key } => verify_log(cx, key.as_deref()),
        Audit::Checkpoint => checkpoint(cx),
        Audit::AcceptClock => accept_clock(cx),
    }
}

fn verify_log(cx: &Context, key: Option<&str>) -> Result<Exit, Failure> {
    let vkey = match key {
        Some(key) => key.to_owned(),
        None => log::vkey(cx)?,
    };
    let verified = match verify(&log::present(cx)?, &vkey) {
        Ok(verified) => verified,
        Err(error @ VerifyError::Checkpoint(CheckpointError::Vkey)) if key.is_some() => {
            return Err(Failure::of(Exit::Usage, &error)
                .help("`claviger init` printed it, as one line that begins with the log's name"));
        }
        Err(error) => return Err(error.into()),
    };
    if key.is_none() && !cx.out.is_json() {
        cx.out.note(
            "this key comes from the keyring beside the log; `--key VKEY` with one kept elsewhere also proves that both were not replaced",
        );
    }
    cx.out.value(&verified_json(&verified), |_| {
        let rows = [
            ("entries", verified.entries.to_string()),
            (
                "signed",
                format!("{} under the checkpoint", verified.checkpoint_size),
            ),
            ("root", verified.root.to_string()),
            ("unsigned", tail_words(&verified)),
            (
                "last",
                verified
                    .last_time
                    .map_or_else(|| "-".to_owned(), |time| time.to_string()),
            ),
        ];
        columns(&rows.map(|(name, value)| vec![name.to_owned(), value]))
    });
    Ok(Exit::Done)
}

fn verified_json(verified: &Verified) -> serde_json::Value {
    serde_json::json!({
        "ok": true,
        "entries": verified.entries,
        "checkpoint_size": verified.checkpoint_size,
        "root": verified.root.to_string(),
        "unsigned_tail": verified.unsigned_tail,
        "torn_bytes": verified.torn_bytes,
        "last_time": verified.last_time,
    })
}

fn tail_words(verified: &Verified) -> String {
    match (verified.unsigned_tail, verified.torn_bytes) {
        (0, 0) => "none".to_owned(),
        (tail, 0) => {
            format!("the last {tail}: their hashes are right, but nothing proves that none was cut off")
        }
        (tail, torn) => format!("the last {tail}, and {torn} bytes of an entry being written"),
    }
}

fn tail(cx: &Context, count: u64, follow: bool) -> Result<Exit, Failure> {
    let reader = log::open(cx)?;
    let keep = usize::try_from(count).unwrap_or(usize::MAX);
    let mut last = VecDeque::new();
    let mut next = 0;
    let mut damage = Ok(());
    for read in reader.entries(before_the_last(&reader, count)) {
        match read {
            Ok((index, entry)) => {
                next = index.saturating_add(1);
                last.push_back((index, entry));
            }
            Err(error) => damage = Err(error),
        }
        if last.len() > keep {
            last.pop_front();
        }
    }
    for (index, entry) in &last {
        write(cx, *index, entry);
    }
    // What precedes the damage was worth showing.
    damage?;
    while follow && !cx.out.is_closed() {
        for read in reader.entries(next) {
            let (index, entry) = read?;
            next = index.saturating_add(1);
            write(cx, index, &entry);
        }
        std::thread::sleep(log::POLL);
    }
    Ok(Exit::Done)
}

/// Where to begin so that the last entries come without those before them. What the checkpoint says is a hint: the log goes on behind it,
/// and if there is nothing where it says, everything is read.
fn before_the_last(reader: &Reader, count: u64) -> EntryIndex {
    let size = reader.checkpoint().ok().and_then(|note| {
        // A signed note of C2SP tlog-checkpoint: origin, size, root.
        note.lines().nth(1)?.parse::<EntryIndex>().ok()
    });
    let from = size.unwrap_or(0).saturating_sub(count.max(1));
    match reader.entries(from).next() {
        Some(Ok(_)) => from,
        Some(Err(_)) | None => 0,
    }
}

fn write(cx: &Context, index: EntryIndex, entry: &Entry) {
    cx.out.value(&entry::to_json(index, entry), |_| {
        entry::line(&cx.out, index, entry)
    });
}

fn show(cx: &Context, index: u64, proof: bool) -> Result<Exit, Failure> {
    let reader = log::open(cx)?;
    let found = reader.entries(index).next().transpose()?;
    let Some((index, entry)) = found else {
        return Err(Failure::failed(format!("the audit log has no entry {index}"))
            .help("`claviger audit tail -n 1` shows the last one"));
    };
    let mut json = entry::to_json(index, &entry);
    if let (true, Some(object)) = (proof, json.as_object_mut()) {
        let hashed = reader.json(index)?.unwrap_or_default();
        let checkpoint = reader.checkpoint()?;
        let proof = reader.prove(index)?;
        object.insert(
            "proof".to_owned(),
            serde_json::json!({
                "size": proof.size,
                "hashes": proof.hashes.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "hashed": String::from_utf8_lossy(&hashed),
                "checkpoint": checkpoint,
            }),
        );
    }
    cx.out.value(&json, |json| {
        serde_json::to_string_pretty(json).unwrap_or_else(|_| json.to_string())
    });
    Ok(Exit::Done)
}

fn checkpoint(cx: &Context) -> Result<Exit, Failure> {
    let note = text(order(cx, Command::Checkpoint, None)?)?;
    cx.out
        .value(&serde_json::json!({ "checkpoint": note }), |_| note.clone());
    Ok(Exit::Done)
}

fn accept_clock(cx: &Context) -> Result<Exit, Failure> {
    done(cx, order(cx, Command::AcceptClock, None)?)?;
    let now = jiff::Timestamp::now();
    cx.out.value(&serde_json::json!({ "accepted": now }), |_| {
        format!("the clock is accepted; it says {now}. The audit log holds that you vouched for it")
    });
    Ok(Exit::Done)
}
