//! What the driver does while a test looks into its memory: it opens a keyring with secrets that the test knows, uses them, makes errors,
//! and stands still. It takes them straight into locked pages, so that what is found elsewhere was left there by the code under test.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::custody::{KdfCost, PassphraseSealer};
use claviger_broker::keyring::NewKey;
use claviger_broker::local::{AUDIT_FOLDER, Options};
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::key::{KeyRef, KeyVersion};
use claviger_core::profile::Profile;
use claviger_core::{PublicKey, Secret};
use jiff::Timestamp;

use crate::driver::say;
use crate::scan::encodings;
use crate::vault::{jws, labeled, named, passphrase_root, sign, start};

/// How many bytes each secret has.
pub const SECRET: usize = 32;

const GRANTS: &str = "[grants.notes]\nsign = { key = \"notes\" }\nuses = 9\n[grants.tokens]\nsign = { key = \"tokens\" }\n\
                      [grants.damaged]\nsign = { key = \"damaged\" }\n";

/// Where the driver stands still, in order.
pub const CHECKPOINTS: [&str; 6] = [
    "made",
    "opened",
    "signed notes",
    "signed tokens",
    "refused",
    "closed",
];

/// `FOLDER ED25519-PUBLIC P256-PUBLIC [plant|stack]`; the Ed25519 seed, the P-256 scalar and the passphrase come on stdin.
///
/// # Errors
/// When something that should work does not.
pub async fn hold(words: &[String]) -> anyhow::Result<()> {
    let [folder, ed25519, p256, rest @ ..] = words else {
        bail!("expected three words")
    };
    let folder = Path::new(folder);
    let ed25519 = PublicKey::ed25519(&hex::decode(ed25519)?)?;
    let p256 = PublicKey::p256(&hex::decode(p256)?)?;
    let (seed, scalar, passphrase) = (receive()?, receive()?, receive()?);
    let planted = rest
        .iter()
        .any(|word| word == "plant")
        .then(|| plant(folder, &seed))
        .transpose()?;
    if rest.iter().any(|word| word == "stack") {
        leave_on_stack(&seed);
    }

    let wrong = Secret::fill_with(SECRET, |bytes| {
        bytes.copy_from_slice(passphrase.expose());
        bytes.reverse();
        anyhow::Ok(())
    })?;
    let cost = KdfCost::new(1024, 1, 1)?;
    let options = |sealer: &Arc<PassphraseSealer>| {
        Options::new(folder, Arc::clone(sealer) as _).durability(Durability::Process)
    };
    let sealer = Arc::new(PassphraseSealer::new(passphrase, cost)?);
    let broker = LocalBroker::create(options(&sealer), passphrase_root())
        .await
        .context("create")?;
    insert(&broker, "notes", labeled(), &ed25519, &seed)?;
    insert(&broker, "tokens", jws(), &p256, &scalar)?;
    insert(&broker, "damaged", labeled(), &ed25519, &scalar)?;
    pause("made")?;
    drop((seed, scalar));
    broker.close().await?;
    drop(broker);

    let wrong = Arc::new(PassphraseSealer::new(wrong, cost)?);
    match LocalBroker::open(options(&wrong)).await {
        Ok(_) => bail!("a wrong passphrase opened the keyring"),
        Err(error) => complain(&format!("{error} {error:?}")),
    }
    drop(wrong);
    let broker = LocalBroker::open(options(&sealer)).await.context("open")?;
    complain(&format!(
        "{broker:?} {sealer:?} {:?} {:?}",
        broker.keyring(),
        broker.keyring().keys()
    ));
    let who = start(&broker, GRANTS).await;
    let attempt = async |grant: &str, content: &[u8]| match sign(&broker, who, grant, content).await {
        Ok(signature) => say(&format!("signed {grant} {}", hex::encode(signature))),
        Err(refusal) => say(&format!("refused {grant} {refusal} {refusal:?}")),
    };
    pause("opened")?;
    for n in 0..12_u8 {
        attempt("notes", &[n; 100]).await;
    }
    pause("signed notes")?;
    for _ in 0..12 {
        attempt("tokens", b"{\"n\":1}").await;
    }
    pause("signed tokens")?;
    attempt("tokens", b"not json").await;
    attempt("foreign", b"x").await;
    broker.checkpoint().await?;
    attempt("damaged", b"x").await;
    pause("refused")?;
    broker.close().await?;
    drop(broker);
    drop(sealer);
    pause("closed")?;
    drop(planted);
    Ok(())
}

fn insert(
    broker: &LocalBroker,
    name: &str,
    profile: Profile,
    public: &PublicKey,
    secret: &Secret,
) -> anyhow::Result<()> {
    let new = NewKey {
        key: KeyRef {
            name: named(name),
            version: KeyVersion::FIRST,
        },
        profile,
        algorithm: public.algorithm(),
        custody: CustodyKind::Software,
        assurance: Assurance::Passphrase,
        public: public.clone(),
        material: Secret::fill_with(SECRET, |bytes| {
            bytes.copy_from_slice(secret.expose());
            anyhow::Ok(())
        })?,
    };
    broker.keyring().insert(new, Timestamp::now())?;
    Ok(())
}

/// Reads one secret from stdin straight into locked memory.
fn receive() -> anyhow::Result<Secret> {
    Secret::fill_with(SECRET, |bytes| {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = rustix::io::read(std::io::stdin(), &mut *rest)?;
            if count == 0 {
                bail!("stdin ended");
            }
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    })
}

/// Stands still until the test has looked.
fn pause(checkpoint: &str) -> anyhow::Result<()> {
    say(&format!("checkpoint {checkpoint}"));
    rustix::io::read(std::io::stdin(), &mut [0; 1])?;
    Ok(())
}

fn complain(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").expect("stderr");
}

/// The controls: the secret in every encoding, in every place where the scanner looks. Returns the copies on the heap.
fn plant(folder: &Path, secret: &Secret) -> anyhow::Result<Vec<Vec<u8>>> {
    use std::io::Write as _;
    let copies: Vec<_> = encodings(secret.expose())
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect();
    let text = copies.join(b"\n".as_slice());
    std::fs::write(folder.with_file_name("planted"), &text)?;
    let log = folder.with_file_name(AUDIT_FOLDER);
    std::fs::create_dir(&log)?;
    std::fs::write(log.join("planted"), &text)?;
    std::io::stderr().write_all(&text)?;
    for line in &copies {
        std::io::stdout().write_all(line)?;
        std::io::stdout().write_all(b"\n")?;
    }
    Ok(copies)
}

/// The control for what a function leaves on the stack of a thread that lives on.
fn leave_on_stack(secret: &Secret) {
    let copy = std::hint::black_box({
        let mut copy = [0; SECRET];
        copy.copy_from_slice(secret.expose());
        copy
    });
    let (left, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        std::hint::black_box(copy);
        left.send(()).expect("who waits");
        loop {
            std::thread::park();
        }
    });
    waits.recv().expect("the thread");
}
