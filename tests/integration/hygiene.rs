//! Known secrets in a real process that uses them, and a search for every trace: memory as a core dump has it, files, output, environment.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use claviger_core::custody::Sealer as _;
use claviger_core::profile::labeled_message;
use kit::holder::{CHECKPOINTS, SECRET};
use kit::process::Process;
use kit::scan::{Hit, Scanner, encodings};
use kit::vault::{named, sealer};
use rand_core::RngCore as _;
use sha2::{Digest as _, Sha256, Sha512};
use tempfile::TempDir;

const DRIVER: &str = env!("CARGO_BIN_EXE_claviger-test-driver");
/// What an escape changes is in it.
const PASSPHRASE: &[u8; SECRET] = b"a \"quoted\" \\ pass/phrase+ of 32%";

/// A driver that holds a keyring, and all that is secret about it.
struct Scene {
    folder: TempDir,
    process: Process,
    seed: [u8; SECRET],
    scalar: [u8; SECRET],
    stdout: Vec<u8>,
}

impl Scene {
    fn start(plant: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let (mut seed, mut scalar) = ([0; SECRET], [0; SECRET]);
        // No zero byte, so that all can be planted in an environment; and below the order of P-256.
        for bytes in [&mut seed, &mut scalar] {
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
            .arg("hold")
            .arg(folder.path().join("keyring"))
            .arg(hex::encode(ed25519))
            .arg(hex::encode(p256));
        command.env("TMPDIR", folder.path());
        command.args(plant);
        if plant.contains(&"plant") {
            for (number, (encoding, bytes)) in encodings(&seed).into_iter().enumerate() {
                if encoding != "utf-16" {
                    command.env(format!("PLANTED_{number}"), OsString::from_vec(bytes));
                }
            }
        }
        let mut process = Process::start(&mut command, "");
        process.send(&[seed, scalar, *PASSPHRASE].concat());
        Self {
            folder,
            process,
            seed,
            scalar,
            stdout: Vec::new(),
        }
    }

    /// Waits until it stands still.
    fn reach(&mut self, checkpoint: &str) {
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

    /// Looks for the secrets that the keyring was given, and those that it made.
    fn scanner(&self) -> Scanner {
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
        for n in 0..9 {
            let message = labeled_message(&named("notes"), &[n; 100]);
            let nonce = Sha512::new()
                .chain_update(prefix)
                .chain_update(message)
                .finalize();
            scanner.add(&format!("the nonce of signature {n}"), &nonce);
        }
        let root = self.root();
        scanner.add("the root key", &root);
        for purpose in ["audit-log", "compile-cache", "envelope", "row-mac"] {
            let mut subkey = [0; 32];
            let info = [b"claviger/v1/", purpose.as_bytes()].concat();
            hkdf::Hkdf::<Sha256>::new(None, &root)
                .expand(&info, &mut subkey)
                .unwrap();
            scanner.add(&format!("the key for {purpose}"), &subkey);
        }
        scanner
    }

    fn keyring(&self) -> PathBuf {
        self.folder.path().join("keyring")
    }

    /// The root key, as whoever knows the passphrase gets it.
    fn root(&self) -> Vec<u8> {
        let database = rusqlite::Connection::open_with_flags(
            self.keyring().join("keyring.db"),
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
        );
        let blob: Vec<u8> = database
            .unwrap()
            .query_row("SELECT root FROM meta", [], |row| row.get(0))
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime
            .block_on(sealer(PASSPHRASE).unseal("root", &blob))
            .unwrap()
            .expose()
            .to_vec()
    }

    /// Everything but memory.
    fn scan_outside(&self, scanner: &Scanner) -> Vec<Hit> {
        let mut hits = scanner.scan_files(self.folder.path());
        hits.extend(scanner.scan("stdout", 0, &self.stdout));
        for file in ["environ", "cmdline", "maps", "status"] {
            hits.extend(scanner.scan_files(Path::new(&format!("/proc/{}/{file}", self.process.id()))));
        }
        hits
    }

    /// Lets it end; what is in its stderr.
    fn scan_errors(&mut self, scanner: &Scanner) -> (Vec<Hit>, String) {
        self.process.send(b"x");
        assert!(self.process.ended().0.success());
        let errors = self.process.errors();
        (scanner.scan("stderr", 0, errors.as_bytes()), errors)
    }
}

fn show(hits: &[Hit]) -> String {
    hits.iter().map(|hit| format!("{hit}\n")).collect()
}

#[test]
fn no_secret_is_anywhere_but_in_locked_pages_and_none_is_left_after_closing() {
    let mut scene = Scene::start(&[]);
    let (mut dumped, mut left_out, mut outside) = (Vec::new(), Vec::new(), Vec::new());
    for checkpoint in CHECKPOINTS {
        scene.reach(checkpoint);
        let scanner = scene.scanner();
        let memory = scanner.scan_memory(scene.process.id());
        assert!(
            memory.bytes > 1 << 20,
            "the control: {} bytes were read",
            memory.bytes
        );
        dumped.extend(memory.dumped.into_iter().map(|hit| (checkpoint, hit)));
        outside.extend(scene.scan_outside(&scanner));
        if checkpoint == "closed" {
            assert!(
                memory.left_out.is_empty(),
                "secrets in locked pages after closing:\n{}",
                show(&memory.left_out)
            );
            let (errors, text) = scene.scan_errors(&scanner);
            assert!(text.contains("the passphrase is wrong"), "the control: {text}");
            outside.extend(errors);
            break;
        }
        left_out.extend(memory.left_out);
        scene.process.send(b"x");
    }
    assert!(outside.is_empty(), "secrets outside memory:\n{}", show(&outside));
    let lines: String = dumped
        .iter()
        .map(|(checkpoint, hit)| format!("at `{checkpoint}`: {hit}\n"))
        .collect();
    assert!(dumped.is_empty(), "secrets in memory that is dumped:\n{lines}");

    for held in [
        "P-256 scalar",
        "root key",
        "passphrase",
        "Ed25519 seed",
        "Ed25519 prefix",
        "key for envelope",
    ] {
        let found = left_out.iter().any(|hit| hit.secret == format!("the {held}"));
        assert!(found, "the control: the {held} was in locked pages");
    }
    let said = String::from_utf8_lossy(&scene.stdout);
    let signed = said.lines().filter(|line| line.starts_with("signed")).count();
    assert_eq!(signed, 9 + 12, "the control: the keys were used");
    for refused in [
        "refused notes over budget",
        "refused tokens invalid",
        "refused damaged unavailable",
    ] {
        assert!(said.contains(refused), "the control: {refused}");
    }
}

#[test]
fn the_search_finds_what_a_function_left_on_the_stack_of_a_living_thread() {
    let mut scene = Scene::start(&["stack"]);
    scene.reach("made");
    let mut scanner = Scanner::new();
    scanner.add("it", &scene.seed);
    let dumped = scanner.scan_memory(scene.process.id()).dumped;
    assert!(
        dumped.iter().any(|hit| hit.encoding == "raw"),
        "{}",
        show(&dumped)
    );
}

#[test]
fn the_search_finds_a_planted_secret_in_every_place_and_encoding() {
    let mut scene = Scene::start(&["plant"]);
    scene.reach("made");
    let mut scanner = Scanner::new();
    scanner.add("it", &scene.seed);
    let mut hits = scanner.scan_memory(scene.process.id()).dumped;
    for hit in &mut hits {
        hit.place = "memory".to_owned();
    }
    hits.extend(scene.scan_outside(&scanner));
    for checkpoint in &CHECKPOINTS[1..] {
        scene.process.send(b"x");
        scene.reach(checkpoint);
    }
    // Lossy text would hide bytes that are no text; pieces of the rest are found.
    let (errors, _) = scene.scan_errors(&scanner);
    hits.extend(errors);
    for (encoding, _) in encodings(&scene.seed) {
        for place in [
            "memory",
            "/planted",
            "/audit/planted",
            "environ",
            "stdout",
            "stderr",
        ] {
            if (place == "environ" && encoding == "utf-16")
                || (place.starts_with("std") && !is_text(encoding))
            {
                continue;
            }
            assert!(
                hits.iter()
                    .any(|hit| hit.encoding == encoding && hit.place.ends_with(place)),
                "{encoding} was planted in {place} and not found"
            );
        }
    }
}

/// Whether the encoding survives a stream that is read as text.
fn is_text(encoding: &str) -> bool {
    !["raw", "reversed", "utf-16", "swapped u32", "swapped u64"].contains(&encoding)
}
