//! A real process that holds a keyring and runs an agent, and all that is secret about it. Not a test itself: the tests of hygiene share
//! it.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use claviger_core::custody::Sealer;
use claviger_core::profile::labeled_message;
use claviger_tpm::{Tpm, TpmChoice};
use kit::held::SIGNED;
use kit::holder::SECRET;
use kit::process::Process;
use kit::scan::{Hit, Scanner, encodings, is_text, writable_around};
use kit::vault::{copy_folder, named, sealer};
use rand_core::RngCore as _;
use sha2::{Digest as _, Sha256, Sha512};
use tempfile::TempDir;

/// The control.
pub(crate) const ON_HEAP: &str = "what is on the heap";
/// How far after its public key a TPM keeps a private one, with room to spare.
const BESIDE: usize = 8192;
const DRIVER: &str = env!("CARGO_BIN_EXE_claviger-test-driver");
/// What an escape changes is in it.
const PASSPHRASE: &[u8; SECRET] = b"a \"quoted\" \\ pass/phrase+ of 32%";

/// What the keyring stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// A passphrase; keys in software.
    Passphrase,
    /// A software TPM; a sealed key and a resident one.
    Swtpm,
}

/// A driver that holds a keyring, and all that is secret about it.
pub(crate) struct Scene {
    pub(crate) folder: TempDir,
    pub(crate) process: Process,
    pub(crate) seed: [u8; SECRET],
    pub(crate) stdout: Vec<u8>,
    pub(crate) root: Root,
    scalar: [u8; SECRET],
    on_heap: [u8; SECRET],
    in_guest: [u8; SECRET],
    root_key: OnceCell<Vec<u8>>,
}

impl Scene {
    pub(crate) fn start(root: Root, plant: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let [mut seed, mut scalar, mut on_heap, mut in_guest] = [[0; SECRET]; 4];
        // No zero byte, so that all can be planted in an environment; and below the order of P-256.
        for bytes in [&mut seed, &mut scalar, &mut on_heap, &mut in_guest] {
            rand_core::OsRng.fill_bytes(bytes);
            bytes.iter_mut().for_each(|byte| *byte = (*byte).clamp(1, 0xFE));
        }
        let ed25519 = ed25519_dalek::SigningKey::from_bytes(&seed)
            .verifying_key()
            .to_bytes();
        let p256 = p256::ecdsa::SigningKey::from_slice(&scalar)
            .unwrap()
            .verifying_key()
            .to_encoded_point(false);
        let mut command = Command::new(DRIVER);
        command
            .current_dir(folder.path())
            .arg("hold")
            .arg(folder.path().join("keyring"))
            .arg(match root {
                Root::Passphrase => "passphrase",
                Root::Swtpm => "swtpm",
            })
            .arg(hex::encode(ed25519))
            .arg(hex::encode(p256));
        command.env("TMPDIR", folder.path());
        command.args(plant);
        if plant.contains(&"plant") {
            for (number, (encoding, bytes)) in encodings(&seed).into_iter().enumerate() {
                if is_text(encoding) {
                    command.arg(OsString::from_vec(bytes.clone()));
                }
                if encoding != "utf-16" {
                    command.env(format!("PLANTED_{number}"), OsString::from_vec(bytes));
                }
            }
        }
        let mut process = Process::start(&mut command, "");
        process.send(&[seed, scalar, *PASSPHRASE, on_heap].concat());
        process.send(hex::encode(in_guest).as_bytes());
        Self {
            folder,
            process,
            seed,
            stdout: Vec::new(),
            root,
            scalar,
            on_heap,
            in_guest,
            root_key: OnceCell::new(),
        }
    }

    /// Waits until it stands still.
    pub(crate) fn reach(&mut self, checkpoint: &str) {
        loop {
            let Some(line) = self.process.line() else {
                panic!("it ended: {}", self.process.errors())
            };
            self.stdout.extend_from_slice(line.as_bytes());
            self.stdout.push(b'\n');
            if line.strip_prefix("checkpoint ") == Some(checkpoint) {
                return;
            }
        }
    }

    /// Goes on to the next place where it stands still.
    pub(crate) fn go_on_to(&mut self, checkpoint: &str) {
        self.process.send(b"x");
        self.reach(checkpoint);
    }

    /// What it said after this.
    pub(crate) fn said(&self, start: &str) -> Option<String> {
        let said = String::from_utf8_lossy(&self.stdout);
        let found = said.lines().find_map(|line| line.strip_prefix(start));
        found.map(str::to_owned)
    }

    /// Looks for what is no secret, too: bytes on the ordinary heap.
    pub(crate) fn add_control(&self, scanner: &mut Scanner) {
        scanner.add(ON_HEAP, &self.on_heap);
    }

    /// The agent's linear memory while it waits: where the bytes are that only it took from their digits.
    pub(crate) fn linear_memory(&self) -> Range<u64> {
        let mut scanner = Scanner::new();
        scanner.add("what the agent holds", &self.in_guest);
        let memory = scanner.scan_memory(self.process.id());
        let raw = memory.dumped.iter().find(|hit| hit.encoding == "raw");
        let raw = raw.expect("the agent holds it in memory that is searched");
        writable_around(self.process.id(), raw.at)
    }

    /// Looks for the secrets that the keyring was given, and those that it made.
    pub(crate) fn scanner(&self) -> Scanner {
        let mut scanner = Scanner::new();
        scanner.add("the Ed25519 seed", &self.seed);
        scanner.add("the P-256 scalar", &self.scalar);
        scanner.add("the passphrase", PASSPHRASE);
        // RFC 8032 §5.1.5: what signs, before and after the bits that are set, and what makes the nonce.
        let expanded = Sha512::digest(self.seed);
        let (half, prefix) = expanded.split_at(32);
        scanner.add("the Ed25519 scalar", half);
        scanner.add("the Ed25519 prefix", prefix);
        // Whoever has a signature and the hash that its nonce is made of can compute the key. It has 64 bytes.
        let contents = (0..9).map(|n| vec![n; 100]);
        let contents = contents.chain(SIGNED.map(|content| content.as_bytes().to_vec()));
        for (n, content) in contents.enumerate() {
            let message = labeled_message(&named("notes"), &content);
            let nonce = Sha512::new()
                .chain_update(prefix)
                .chain_update(message)
                .finalize();
            scanner.add(&format!("the nonce of signature {n}"), &nonce);
        }
        let root = self.root();
        scanner.add("the root key", root);
        for purpose in ["audit-log", "compile-cache", "envelope", "row-mac"] {
            let mut subkey = [0; 32];
            let info = [b"claviger/v1/", purpose.as_bytes()].concat();
            hkdf::Hkdf::<Sha256>::new(None, root)
                .expand(&info, &mut subkey)
                .unwrap();
            scanner.add(&format!("the key for {purpose}"), &subkey);
        }
        scanner
    }

    pub(crate) fn keyring(&self) -> PathBuf {
        self.folder.path().join("keyring")
    }

    /// The root key, as whoever knows the passphrase or has the TPM gets it.
    fn root(&self) -> &[u8] {
        self.root_key.get_or_init(|| {
            let database = rusqlite::Connection::open_with_flags(
                self.keyring().join("keyring.db"),
                rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
            );
            let blob: Vec<u8> = database
                .unwrap()
                .query_row("SELECT root FROM meta", [], |row| row.get(0))
                .unwrap();
            // The TPM is in use: a copy of it opens the same.
            let copy = TempDir::new().unwrap();
            let sealer = match self.root {
                Root::Passphrase => sealer(PASSPHRASE) as Arc<dyn Sealer>,
                Root::Swtpm => {
                    let state = copy.path().join("tpm");
                    copy_folder(&self.folder.path().join("tpm"), &state);
                    Tpm::connect(TpmChoice::Swtpm { state }).unwrap().sealer()
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let root = runtime.block_on(sealer.unseal("root", &blob)).unwrap();
            root.expose().to_vec()
        })
    }

    /// The resident key's scalar, taken from the memory of the software TPM, in clear beside the public key it loaded it with.
    pub(crate) fn resident(&self) -> [u8; SECRET] {
        let public = hex::decode(self.said("resident ").unwrap()).unwrap();
        let swtpm: u32 = self.said("swtpm ").unwrap().parse().unwrap();
        let mut scanner = Scanner::new();
        scanner.add("the public key", &public[1..]);
        let memory = File::open(format!("/proc/{swtpm}/mem")).unwrap();
        for hit in scanner.scan_memory(swtpm).dumped {
            let mut around = vec![0; BESIDE];
            if hit.encoding != "raw" || memory.read_exact_at(&mut around, hit.at).is_err() {
                continue;
            }
            for candidate in around.windows(2 + SECRET) {
                // A number of the TPM has its length before it, and no two bytes in a row as often as zeroes have.
                let Some(scalar) = candidate.strip_prefix(&[32, 0]) else {
                    continue;
                };
                let key = p256::ecdsa::SigningKey::from_slice(scalar);
                let is_its = |key: p256::ecdsa::SigningKey| {
                    *key.verifying_key().to_encoded_point(false).as_bytes() == *public
                };
                if key.is_ok_and(is_its) {
                    return scalar.try_into().unwrap();
                }
            }
        }
        panic!("the control: the resident key is in the TPM's memory");
    }

    /// Everything but memory.
    pub(crate) fn scan_outside(&self, scanner: &Scanner) -> Vec<Hit> {
        let mut hits = scanner.scan_files(self.folder.path());
        hits.extend(scanner.scan("stdout", 0, &self.stdout));
        for file in ["environ", "cmdline", "maps", "status"] {
            hits.extend(scanner.scan_files(Path::new(&format!("/proc/{}/{file}", self.process.id()))));
        }
        hits
    }

    /// Lets it end; what is in its stderr.
    pub(crate) fn scan_errors(&mut self, scanner: &Scanner) -> (Vec<Hit>, String) {
        self.process.send(b"x");
        assert!(self.process.ended().0.success());
        let errors = self.process.errors();
        (scanner.scan("stderr", 0, errors.as_bytes()), errors)
    }
}

pub(crate) fn show(hits: &[Hit]) -> String {
    hits.iter().map(|hit| format!("{hit}\n")).collect()
}
