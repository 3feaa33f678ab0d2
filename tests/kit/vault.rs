//! A real keyring with its broker and one running instance, under a passphrase or a software TPM. Not a model of one: what tests see is
//! what an embedder gets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::custody::{KdfCost, PassphraseSealer};
use claviger_broker::keyring::{KeyRecord, RootKind, RootSpec};
use claviger_broker::local::{KeyCreation, Options};
use claviger_core::custody::CustodyKind;
use claviger_core::egress::Egress;
use claviger_core::profile::Profile;
use claviger_core::{
    Algorithm, Broker as _, Clock, ComponentDigest, InstanceId, Manifest, Outcome, Refusal, Request, Secret,
};
use claviger_tpm::{Tpm, TpmChoice};

/// The component of every instance here: the broker sees no more of it than its digest.
const CODE: &[u8] = b"a component";

/// What opens the keyrings made here.
pub const PASSPHRASE: &[u8] = b"correct horse";

/// Anything that is parsed from text.
///
/// # Panics
/// When the text is not one.
#[must_use]
pub fn named<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// A sealer whose guesses cost nothing.
///
/// # Panics
/// When memory cannot be locked.
#[must_use]
pub fn sealer(passphrase: &[u8]) -> Arc<PassphraseSealer> {
    let secret = Secret::take(&mut passphrase.to_vec()).unwrap();
    Arc::new(PassphraseSealer::new(secret, KdfCost::INSECURE_FOR_TESTS).unwrap())
}

/// The root of a keyring under a passphrase.
#[must_use]
pub const fn passphrase_root() -> RootSpec {
    RootSpec {
        kind: RootKind::Passphrase,
        settings: String::new(),
    }
}

/// A manifest of agent `bot` with these grants, pinned to the code that [`code`] names.
///
/// # Panics
/// When it does not parse: the problems are shown.
#[must_use]
pub fn pinned_manifest(grants: &str) -> Manifest {
    let text = format!(
        "schema = 1\n[agent]\nname = \"bot\"\ncomponent = \"bot.wasm\"\ndigest = \"{}\"\n{grants}",
        code()
    );
    match Manifest::parse(&text) {
        Ok((manifest, _warnings)) => manifest,
        Err(problems) => panic!("{problems:#?}\nin\n{text}"),
    }
}

/// The digest of the instances' code.
#[must_use]
pub fn code() -> ComponentDigest {
    ComponentDigest::of(CODE)
}

/// `sshsig` for namespace `file`.
#[must_use]
pub fn sshsig() -> Profile {
    Profile::Sshsig {
        namespaces: BTreeSet::from([named("file")]),
    }
}

/// `jws` of issuer `https://issuer.test` for audience `api`.
#[must_use]
pub fn jws() -> Profile {
    Profile::Jws {
        issuer: named("https://issuer.test"),
        typ: named("at+jwt"),
        audiences: BTreeSet::from([named("api")]),
        max_ttl: 60,
    }
}

/// `labeled` with label `notes`.
#[must_use]
pub fn labeled() -> Profile {
    Profile::Labeled {
        label: named("notes"),
    }
}

/// Admits the manifest with these grants and starts an instance.
///
/// # Panics
/// When it is not admitted.
pub async fn start(broker: &LocalBroker, grants: &str) -> InstanceId {
    let admission = broker
        .admit(&pinned_manifest(grants), code())
        .await
        .expect("admitted");
    broker.start(admission.id).expect("starts")
}

/// Signs as an agent does.
///
/// # Errors
/// The refusal.
///
/// # Panics
/// When the outcome is not a signature.
pub async fn sign(
    broker: &LocalBroker,
    who: InstanceId,
    grant: &str,
    content: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let request = Request::Sign {
        grant: named(grant),
        content: content.to_vec(),
    };
    match broker.perform(who, request).await? {
        Outcome::Signed { signature } => Ok(signature),
        other => panic!("{other:?}"),
    }
}

/// A keyring in a folder of its own, open, and a software TPM if it stands on one.
#[derive(Debug)]
pub struct Vault {
    /// The broker. Declared before the TPM, which ends after its last user.
    pub broker: Arc<LocalBroker>,
    /// The software TPM.
    pub tpm: Option<Tpm>,
    folder: PathBuf,
}

impl Vault {
    /// A keyring under [`PASSPHRASE`] in this folder.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn passphrase(folder: &Path, clock: Option<Arc<dyn Clock>>) -> Self {
        let folder = folder.join("keyring");
        let mut options = Options::new(&folder, sealer(PASSPHRASE)).durability(Durability::Process);
        if let Some(clock) = clock {
            options = options.clock(clock);
        }
        let broker = LocalBroker::create(options, passphrase_root())
            .await
            .expect("a keyring");
        Self {
            broker,
            tpm: None,
            folder,
        }
    }

    /// A keyring under a software TPM whose state is in this folder, too.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn swtpm(folder: &Path) -> Self {
        Self::swtpm_at(folder, None).await
    }

    /// As [`Vault::swtpm`], with this clock.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn swtpm_at(folder: &Path, clock: Option<Arc<dyn Clock>>) -> Self {
        let tpm = swtpm(folder);
        let settings = tpm.settings(folder).expect("settings");
        let folder = folder.join("keyring");
        let root = RootSpec {
            kind: RootKind::Swtpm,
            settings,
        };
        let mut options = tpm_options(&folder, &tpm);
        if let Some(clock) = clock {
            options = options.clock(clock);
        }
        let broker = LocalBroker::create(options, root).await.expect("a keyring");
        Self {
            broker,
            tpm: Some(tpm),
            folder,
        }
    }

    /// A keyring under [`PASSPHRASE`] or, if there is one, under this TPM, whose agents' requests are sent through this.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn sending(folder: &Path, tpm: Option<Tpm>, egress: Arc<dyn Egress>) -> Self {
        let keyring = folder.join("keyring");
        let (options, root) = match &tpm {
            Some(tpm) => {
                let root = RootSpec {
                    kind: RootKind::Swtpm,
                    settings: tpm.settings(folder).expect("settings"),
                };
                (tpm_options(&keyring, tpm), root)
            }
            None => {
                let options = Options::new(&keyring, sealer(PASSPHRASE)).durability(Durability::Process);
                (options, passphrase_root())
            }
        };
        let broker = LocalBroker::create(options.egress(egress), root)
            .await
            .expect("a keyring");
        Self::opened(broker, tpm, keyring)
    }

    /// A keyring that is open already, in this folder.
    #[must_use]
    pub const fn opened(broker: Arc<LocalBroker>, tpm: Option<Tpm>, folder: PathBuf) -> Self {
        Self { broker, tpm, folder }
    }

    /// The keyring's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a key in the hardest custody there is.
    ///
    /// # Panics
    /// When it is not made.
    pub async fn key(&self, name: &str, profile: Profile, algorithm: Algorithm) -> Arc<KeyRecord> {
        self.key_in(self.broker.default_custody(algorithm), name, profile, algorithm)
            .await
    }

    /// Makes a key in this custody.
    ///
    /// # Panics
    /// When it is not made.
    pub async fn key_in(
        &self,
        custody: CustodyKind,
        name: &str,
        profile: Profile,
        algorithm: Algorithm,
    ) -> Arc<KeyRecord> {
        let creation = KeyCreation {
            name: named(name),
            profile,
            algorithm,
            custody,
        };
        self.broker.create_key(creation).await.expect("a key")
    }
}

/// A software TPM whose state is in this folder.
///
/// # Panics
/// When it does not start; the error has the install line.
#[must_use]
pub fn swtpm(folder: &Path) -> Tpm {
    Tpm::connect(TpmChoice::Swtpm {
        state: folder.join("tpm"),
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Kills a software TPM as a crash would, and waits until it is dead. False if none runs.
///
/// # Panics
/// When it cannot be killed.
#[must_use]
pub fn kill_swtpm(tpm: &Tpm) -> bool {
    use rustix::process::{Pid, Signal, kill_process};
    let Some(number) = tpm.swtpm_pid() else {
        return false;
    };
    let pid = Pid::from_raw(number.cast_signed()).expect("a process");
    kill_process(pid, Signal::KILL).expect("killed");
    // Its parent reaps it when it next wants it: until then it is a zombie, whose state is behind its name.
    let dead = || match std::fs::read_to_string(format!("/proc/{number}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    };
    while !dead() {
        std::thread::yield_now();
    }
    true
}

/// Options for a keyring on this TPM.
#[must_use]
pub fn tpm_options(folder: &Path, tpm: &Tpm) -> Options {
    Options::new(folder, tpm.sealer())
        .resident(tpm.custody())
        .durability(Durability::Process)
}

/// Copies a folder with all that is in it but sockets; the copy is its owner's only.
///
/// # Panics
/// When it cannot.
pub fn copy_folder(from: &Path, to: &Path) {
    use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(to)
        .expect("a new folder");
    for file in std::fs::read_dir(from).expect("a folder") {
        let file = file.expect("a file");
        let target = to.join(file.file_name());
        let kind = file.file_type().expect("a type");
        if kind.is_socket() {
            // Of a host that died, or runs: of no use elsewhere.
            continue;
        }
        if kind.is_dir() {
            copy_folder(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).expect("copied");
        }
    }
}
