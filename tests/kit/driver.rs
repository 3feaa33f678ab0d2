//! What the driver process does: it holds a keyring while a test kills it, fills its disk or looks into its memory. Not a test: it only
//! tells, line by line, what it was given.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::local::{AUDIT_FOLDER, Options};
use claviger_core::{InstanceId, Refusal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::entries::last_journal;
use crate::vault::{PASSPHRASE, sealer, sign, start};

/// How many uses the agent has, over all runs.
pub const USES: u64 = 700;
/// The grant of the one key.
pub const GRANT_NOTES: &str = "[grants.notes]\nsign = { key = \"notes\" }\nuses = 700\n";
/// As many callers at once.
const CALLERS: usize = 4;
/// So many requests of each caller follow the first that was refused as unavailable, to show that nothing revives.
const AFTER_FAILURE: u64 = 20;

/// How to sign until killed.
#[derive(Debug)]
pub struct Signing {
    folder: PathBuf,
    durability: Durability,
    attempts: u64,
    full: Option<Full>,
}

/// When files may not grow any more.
#[derive(Debug)]
struct Full {
    after: u64,
    room: u64,
}

impl Signing {
    /// `FOLDER process|sync ATTEMPTS [AFTER ROOM]`: after so many signatures the log's journal may grow by so many bytes.
    ///
    /// # Errors
    /// When the words are others.
    pub fn parse(words: &[String]) -> anyhow::Result<Self> {
        let [folder, durability, attempts, full @ ..] = words else {
            bail!("expected three words")
        };
        let full = match full {
            [after, room] => Some(Full {
                after: after.parse()?,
                room: room.parse()?,
            }),
            [] => None,
            _ => bail!("expected two words"),
        };
        let durability = match durability.as_str() {
            "process" => Durability::Process,
            "sync" => Durability::Sync,
            other => bail!("expected `process` or `sync`, not `{other}`"),
        };
        Ok(Self {
            folder: folder.into(),
            durability,
            attempts: attempts.parse()?,
            full,
        })
    }

    /// Opens the keyring, signs from several callers, and closes it.
    ///
    /// # Errors
    /// When the keyring cannot be opened or closed.
    pub async fn run(self) -> anyhow::Result<()> {
        say("starting");
        let options = Options::new(&self.folder, sealer(PASSPHRASE)).durability(self.durability);
        let broker = LocalBroker::open(options).await.context("open")?;
        say(&format!("opened {}", serde_json::to_string(&broker.recovered())?));
        let who = start(&broker, GRANT_NOTES).await;
        let run = Arc::new(Run {
            broker,
            who,
            signing: self,
            begun: AtomicU64::new(0),
            released: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        });
        let mut callers = Vec::new();
        for _ in 0..CALLERS {
            callers.push(tokio::spawn(Arc::clone(&run).call()));
        }
        for caller in callers {
            caller.await?;
        }
        run.broker.close().await.context("close")?;
        say("closed");
        Ok(())
    }
}

struct Run {
    broker: Arc<LocalBroker>,
    who: InstanceId,
    signing: Signing,
    begun: AtomicU64,
    released: AtomicU64,
    failed: AtomicBool,
}

impl Run {
    async fn call(self: Arc<Self>) {
        let mut after_failure = 0;
        loop {
            let number = self.begun.fetch_add(1, Ordering::SeqCst);
            if number >= self.signing.attempts || after_failure >= AFTER_FAILURE {
                return;
            }
            // Other runs have other process numbers, or other contents at the same one.
            let content = format!(
                "{}-{number}-{:016x}",
                std::process::id(),
                rand_core::RngCore::next_u64(&mut rand_core::OsRng)
            );
            let failed_before = self.failed.load(Ordering::SeqCst);
            match sign(&self.broker, self.who, "notes", content.as_bytes()).await {
                Ok(signature) => {
                    let word = if failed_before { "late" } else { "released" };
                    say(&format!("{word} {content} {}", hex::encode(signature)));
                    let released = self.released.fetch_add(1, Ordering::SeqCst) + 1;
                    if let Some(full) = self.signing.full.as_ref().filter(|full| full.after == released) {
                        fill(&self.signing.folder, full.room);
                    }
                }
                Err(refusal) => {
                    say(&format!("refused {refusal}"));
                    if refusal == Refusal::Unavailable {
                        self.failed.store(true, Ordering::SeqCst);
                        after_failure += 1;
                    }
                }
            }
        }
    }
}

/// From now on no file of this process grows beyond the journal's length and some room.
fn fill(folder: &Path, room: u64) {
    let (journal, _) = last_journal(&folder.join(AUDIT_FOLDER));
    let length = journal.metadata().map_or(0, |metadata| metadata.len());
    let limit = Rlimit {
        current: Some(length + room),
        maximum: getrlimit(Resource::Fsize).maximum,
    };
    setrlimit(Resource::Fsize, limit).expect("a lower limit");
    say("full");
}

/// One line, out at once.
///
/// # Panics
/// When nobody reads.
pub fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .expect("a reader");
}
