//! What the driver does while a test looks into its memory: it opens a keyring with secrets that the test knows, uses them, makes errors,
//! and stands still. It takes them straight into locked pages, so that what is found elsewhere was left there by the code under test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::backup::{Contents, Identity};
use claviger_broker::custody::{KdfCost, PassphraseSealer};
use claviger_broker::keyring::{KeySource, NewKey, RootKind, RootSpec, RotationPlan};
use claviger_broker::local::{AUDIT_FOLDER, KeyCreation, Options};
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::key::{KeyRef, KeyVersion};
use claviger_core::profile::Profile;
use claviger_core::{Algorithm, Broker as _, PublicKey, Secret};
use claviger_tpm::Tpm;
use jiff::Timestamp;
use memmap2::Mmap;
use rustix::process::{PTracer, Resource, Rlimit, getrlimit, set_ptracer, setrlimit};

use crate::driver::say;
use crate::held::run_agent;
use crate::scan::{encodings, is_name};
use crate::vault::{jws, labeled, named, passphrase_root, sign, start, swtpm, tpm_options};

/// How many bytes each secret has.
pub const SECRET: usize = 32;

const GRANTS: &str = "[grants.notes]\nsign = { key = \"notes\" }\nuses = 9\n[grants.tokens]\nsign = { key = \"tokens\" }\n\
                      [grants.damaged]\nsign = { key = \"damaged\" }\n";

/// Where the driver stands still, in order.
pub const CHECKPOINTS: [&str; 8] = [
    "made",
    "opened",
    "signed notes",
    "signed tokens",
    "backed up",
    IN_HOST_CALL,
    "refused",
    "closed",
];

/// The agent has one signature and waits for its second.
pub const IN_HOST_CALL: &str = "in a host call";

/// `FOLDER passphrase|swtpm ED25519-PUBLIC P256-PUBLIC [plant|stack|core]…`; on stdin come the Ed25519 seed, the P-256 scalar, the
/// passphrase, bytes to keep on the heap, and hexadecimal digits that only the agent takes apart.
///
/// # Errors
/// When something that should work does not.
pub async fn hold(words: &[String]) -> anyhow::Result<()> {
    let [folder, root, ed25519, p256, rest @ ..] = words else {
        bail!("expected four words")
    };
    let told = |what: &str| rest.iter().any(|word| word == what);
    let folder = Path::new(folder);
    let ed25519 = PublicKey::ed25519(&hex::decode(ed25519)?)?;
    let p256 = PublicKey::p256(&hex::decode(p256)?)?;
    let (seed, scalar, passphrase) = (receive()?, receive()?, receive()?);
    let on_heap = receive()?.expose().to_vec();
    let mut script = format!("hold-hex {}\n", receive_text(SECRET * 2)?);
    // A debugger that did not start this process may look into it.
    set_ptracer(PTracer::Any).ok();
    let planted = told("plant").then(|| plant(folder, &seed)).transpose()?;
    if told("plant") {
        for (_, bytes) in encodings(seed.expose()) {
            script.push_str(&format!("hold-hex {}\n", hex::encode(bytes)));
        }
    }
    if told("stack") {
        leave_on_stack(&seed);
    }
    if told("core") {
        let Rlimit { maximum, .. } = getrlimit(Resource::Core);
        let current = maximum;
        setrlimit(Resource::Core, Rlimit { current, maximum })?;
    }

    let (ground, wrong) = match root.as_str() {
        "passphrase" => Ground::passphrases(passphrase)?,
        "swtpm" => {
            drop(passphrase);
            Ground::tpms(folder)?
        }
        other => bail!("expected `passphrase` or `swtpm`, not `{other}`"),
    };
    let broker = LocalBroker::create(ground.options(folder), ground.spec(folder)?)
        .await
        .context("create")?;
    ground
        .insert(&broker, "notes", labeled(), &ed25519, &seed)
        .await?;
    match &ground {
        Ground::Passphrase(_) => ground.insert(&broker, "tokens", jws(), &p256, &scalar).await?,
        Ground::Swtpm(tpm) => {
            let tokens = KeyCreation {
                name: named("tokens"),
                profile: jws(),
                algorithm: Algorithm::P256,
                custody: CustodyKind::Tpm,
            };
            let made = broker.create_key(tokens).await?;
            say(&format!("resident {}", hex::encode(made.identity.as_bytes())));
            say(&format!("swtpm {}", tpm.swtpm_pid().context("a software TPM")?));
        }
    }
    ground
        .insert(&broker, "damaged", labeled(), &ed25519, &scalar)
        .await?;
    pause("made")?;
    drop((seed, scalar));
    broker.close().await?;
    drop(broker);

    match LocalBroker::open(wrong.options(folder)).await {
        Ok(_) => bail!("the wrong root opened the keyring"),
        Err(error) => complain(&format!("{error} {error:?}")),
    }
    drop(wrong);
    let broker = LocalBroker::open(ground.options(folder)).await.context("open")?;
    complain(&format!(
        "{broker:?} {ground:?} {:?} {:?}",
        broker.keyring(),
        broker.keyring().keys()
    ));
    use_keys(&broker, &script).await?;
    drop(broker);
    drop(ground);
    pause("closed")?;
    drop((planted, on_heap));
    Ok(())
}

/// Uses every key, natively and by an agent; then closes the broker.
async fn use_keys(broker: &Arc<LocalBroker>, script: &str) -> anyhow::Result<()> {
    let who = start(broker, GRANTS).await;
    let attempt = async |grant: &str, content: &[u8]| match sign(broker, who, grant, content).await {
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
    back_up(broker).await?;
    pause("backed up")?;
    run_agent(broker, script).await?;
    attempt("tokens", b"not json").await;
    attempt("foreign", b"x").await;
    broker.checkpoint().await?;
    attempt("damaged", b"x").await;
    pause("refused")?;
    broker.end(who, claviger_core::audit::InstanceEnd::Dropped);
    broker.close().await?;
    Ok(())
}

/// Makes a backup and reads it, and begins one on a disk that fills up.
async fn back_up(broker: &LocalBroker) -> anyhow::Result<()> {
    /// Takes what precedes the first value, and not much more.
    struct Fills(usize);
    impl std::io::Write for Fills {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (text, recipient) = Identity::generate()?;
    let recipients = [recipient];
    let mut file = Vec::new();
    broker.back_up(&recipients, "test", &mut file).await?;
    let contents = Contents::read(file.as_slice(), &Identity::read_all(&text)?)?;
    let there = contents.keys.iter().filter(|(_, there)| *there).count();
    say(&format!("backed up {there}"));
    match broker.back_up(&recipients, "test", Fills(1000)).await {
        Ok(_) => bail!("the disk was full"),
        Err(error) => complain(&format!("{error} {error:?}")),
    }
    Ok(())
}

/// What a keyring stands on.
#[derive(Debug)]
enum Ground {
    Passphrase(Arc<PassphraseSealer>),
    Swtpm(Tpm),
}

impl Ground {
    /// The right one and a wrong one.
    fn passphrases(passphrase: Secret) -> anyhow::Result<(Self, Self)> {
        let wrong = Secret::fill_with(SECRET, |bytes| {
            bytes.copy_from_slice(passphrase.expose());
            bytes.reverse();
            anyhow::Ok(())
        })?;
        let cost = KdfCost::new(1024, 1, 1)?;
        let sealer = |secret| anyhow::Ok(Self::Passphrase(Arc::new(PassphraseSealer::new(secret, cost)?)));
        Ok((sealer(passphrase)?, sealer(wrong)?))
    }

    /// The right one and another.
    fn tpms(folder: &Path) -> anyhow::Result<(Self, Self)> {
        let parent = folder.parent().context("a folder in a folder")?;
        let other: PathBuf = parent.join("other");
        std::fs::create_dir(&other)?;
        Ok((Self::Swtpm(swtpm(parent)), Self::Swtpm(swtpm(&other))))
    }

    fn options(&self, folder: &Path) -> Options {
        match self {
            Self::Passphrase(sealer) => {
                Options::new(folder, Arc::clone(sealer) as _).durability(Durability::Process)
            }
            Self::Swtpm(tpm) => tpm_options(folder, tpm),
        }
    }

    fn spec(&self, folder: &Path) -> anyhow::Result<RootSpec> {
        match self {
            Self::Passphrase(_) => Ok(passphrase_root()),
            Self::Swtpm(tpm) => Ok(RootSpec {
                kind: RootKind::Swtpm,
                settings: tpm.settings(folder)?,
            }),
        }
    }

    /// Stores a key that the test knows: in software, or sealed by the TPM.
    async fn insert(
        &self,
        broker: &LocalBroker,
        name: &str,
        profile: Profile,
        public: &PublicKey,
        secret: &Secret,
    ) -> anyhow::Result<()> {
        let key = KeyRef {
            name: named(name),
            version: KeyVersion::FIRST,
        };
        let (custody, assurance, material) = match self {
            Self::Passphrase(_) => {
                let copy = Secret::fill_with(SECRET, |bytes| {
                    bytes.copy_from_slice(secret.expose());
                    anyhow::Ok(())
                })?;
                (CustodyKind::Software, Assurance::Passphrase, copy)
            }
            Self::Swtpm(tpm) => {
                // As sealed custody does.
                let mut blob = tpm.sealer().seal(&format!("key:{key}"), secret).await?;
                (CustodyKind::TpmSealed, Assurance::Swtpm, Secret::take(&mut blob)?)
            }
        };
        let new = NewKey {
            key,
            profile,
            algorithm: public.algorithm().into(),
            custody,
            assurance,
            identity: public.clone().into(),
            source: KeySource::Imported,
            plan: RotationPlan::default(),
            locked: false,
            material,
            hardware: None,
        };
        broker.keyring().insert(new, Timestamp::now())?;
        Ok(())
    }
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

/// Reads text from stdin.
fn receive_text(length: usize) -> anyhow::Result<String> {
    let mut text = String::new();
    while text.len() < length {
        let mut byte = [0];
        if rustix::io::read(std::io::stdin(), &mut byte)? == 0 {
            bail!("stdin ended");
        }
        text.push(char::from(byte[0]));
    }
    Ok(text)
}

/// Stands still until the test has looked.
pub(crate) fn pause(checkpoint: &str) -> anyhow::Result<()> {
    say(&format!("checkpoint {checkpoint}"));
    rustix::io::read(std::io::stdin(), &mut [0; 1])?;
    Ok(())
}

fn complain(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").expect("stderr");
}

/// What is planted and must stay.
struct Planted {
    _on_heap: Vec<Vec<u8>>,
    _mapped: Vec<Mmap>,
}

/// For the controls: the secret in every encoding, in every place where the scanner looks and this process can put it.
fn plant(folder: &Path, secret: &Secret) -> anyhow::Result<Planted> {
    use std::io::Write as _;
    let all = encodings(secret.expose());
    let mapped = all
        .iter()
        .filter(|(encoding, _)| is_name(encoding))
        .map(|(_, bytes)| map(folder, bytes))
        .collect::<anyhow::Result<_>>()?;
    let copies: Vec<_> = all.into_iter().map(|(_, bytes)| bytes).collect();
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
    Ok(Planted {
        _on_heap: copies,
        _mapped: mapped,
    })
}

/// Maps a file of this name, so that the name is in `/proc/PID/maps`.
fn map(folder: &Path, name: &[u8]) -> anyhow::Result<Mmap> {
    let path = folder.with_file_name(std::str::from_utf8(name)?);
    std::fs::write(&path, "mapped")?;
    #[expect(unsafe_code, reason = "a file can change under its mapping")]
    // SAFETY: nobody reads the mapping, and nobody else writes to the file, which was made on the line above.
    let mapped = unsafe { Mmap::map(&std::fs::File::open(path)?) }?;
    Ok(mapped)
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
