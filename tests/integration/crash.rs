//! The broker in a process that is killed, whose disk is full, whose syncs fail. The one question each time: was anything released that is
//! not on the log, and does the next start find everything in order?
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use claviger_broker::LocalBroker;
use claviger_broker::audit::{Durability, verify};
use claviger_broker::local::{AUDIT_FOLDER, Options};
use claviger_core::audit::{Event, Recovered, Settlement};
use claviger_core::profile::labeled_message;
use claviger_core::{Algorithm, ContentDigest, PublicKey, Signature};
use kit::driver::USES;
use kit::entries::{entries, last_journal, uses};
use kit::process::Process;
use kit::vault::{PASSPHRASE, Vault, copy_folder, labeled, named, sealer};
use tempfile::TempDir;

/// A keyring that processes come and go on, and all that they gave out.
struct Scene {
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
    public: PublicKey,
    vkey: String,
    released: BTreeMap<String, Vec<u8>>,
    attempts: u64,
    recovered: Vec<Recovered>,
}

impl Scene {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (public, vkey) = runtime.block_on(async {
            let vault = Vault::passphrase(folder.path(), None).await;
            let key = vault.key("notes", labeled(), Algorithm::Ed25519).await;
            vault.broker.close().await.unwrap();
            (
                key.public().unwrap().clone(),
                vault.broker.keyring().info().vkey.unwrap(),
            )
        });
        Self {
            folder,
            runtime,
            public,
            vkey,
            released: BTreeMap::new(),
            attempts: 0,
            recovered: Vec::new(),
        }
    }

    /// The same keyring in a folder of its own.
    fn copy(&self) -> Self {
        let folder = TempDir::new().unwrap();
        copy_folder(&self.keyring(), &folder.path().join("keyring"));
        Self {
            folder,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            public: self.public.clone(),
            vkey: self.vkey.clone(),
            released: self.released.clone(),
            attempts: 0,
            recovered: Vec::new(),
        }
    }

    fn keyring(&self) -> PathBuf {
        self.folder.path().join("keyring")
    }

    fn log(&self) -> PathBuf {
        self.keyring().join(AUDIT_FOLDER)
    }

    /// The words that start the driver.
    fn driver(&self, durability: &str, attempts: u64) -> Vec<String> {
        [
            DRIVER,
            "sign",
            self.keyring().to_str().unwrap(),
            durability,
            &attempts.to_string(),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Takes one line of a driver into account; whether it is the result of an attempt.
    fn hear(&mut self, line: &str) -> bool {
        let mut words = line.split(' ');
        match words.next().unwrap() {
            "released" => {
                let content = words.next().unwrap().to_owned();
                let signature = hex::decode(words.next().unwrap()).unwrap();
                assert_eq!(self.released.insert(content, signature), None);
                self.attempts += 1;
                true
            }
            "refused" => {
                self.attempts += 1;
                true
            }
            "opened" => {
                self.recovered
                    .extend(serde_json::from_str::<Option<Recovered>>(words.next().unwrap()).unwrap());
                false
            }
            "starting" | "full" | "closed" => false,
            _ => panic!("released after a failure, or nonsense: {line}"),
        }
    }

    /// The oracle, on the log as the dead process left it.
    fn check(&self) {
        let verified = verify(&self.log(), &self.vkey).unwrap();
        let entries = entries(&self.log());
        assert_eq!(entries.len() as u64, verified.entries, "two readers agree");
        let uses = uses(&entries);
        let mut logged = BTreeSet::new();
        // A number and its place in the log are given under one lock, and what a kill takes is the log's end: no gap, no number twice.
        let numbers: Vec<_> = uses.values().map(|(allowed, _)| allowed.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        assert!(numbers.len() as u64 <= USES, "{} uses", numbers.len());
        for (allowed, _) in uses.values() {
            assert!(logged.insert(*allowed.content.as_bytes()));
        }
        for (content, signature) in &self.released {
            assert!(
                logged.contains(ContentDigest::of(content.as_bytes()).as_bytes()),
                "`{content}` was released and is not on the log"
            );
            let signature = Signature::new(Algorithm::Ed25519, signature.as_slice().try_into().unwrap());
            let message = labeled_message(&named("notes"), content.as_bytes());
            self.public.verify(&message, &signature).unwrap();
        }
    }

    fn open(&self) -> Option<Recovered> {
        self.runtime.block_on(async {
            let options = Options::new(self.keyring(), sealer(PASSPHRASE)).durability(Durability::Process);
            let broker = LocalBroker::open(options).await.unwrap();
            let (agent, alias) = (named("bot"), named("notes"));
            let logged = uses(&entries(&self.log()))
                .values()
                .map(|(allowed, _)| allowed.number)
                .max();
            assert_eq!(
                broker.snapshot().grant(&agent, &alias).uses,
                logged.unwrap_or(0),
                "the budget is what is logged"
            );
            broker.close().await.unwrap();
            broker.recovered().cloned()
        })
    }

    /// Opens what a dead process left, twice: all is settled the first time, and nothing is left to do the second.
    fn recover(&mut self) -> Option<Recovered> {
        let recovered = self.open();
        self.check();
        for (index, (_, settlement)) in uses(&entries(&self.log())) {
            assert!(settlement.is_some(), "use {index} is not settled");
        }
        assert_eq!(self.open(), None, "the second start finds nothing to recover");
        self.check();
        self.recovered.extend(recovered.clone());
        recovered
    }

    /// Runs a driver to its end and hears it out; how long it took to end after the first refusal as unavailable.
    fn run(&mut self, words: &[String]) -> Ran {
        let (program, rest) = words.split_first().unwrap();
        let mut process = Process::start(Command::new(program).args(rest), "apt-get install strace");
        let mut ran = Ran {
            unavailable: 0,
            released: 0,
            success: false,
            errors: String::new(),
        };
        let mut first = None;
        while let Some(line) = process.line() {
            self.hear(&line);
            if line == "refused unavailable" {
                first.get_or_insert_with(Instant::now);
                ran.unavailable += 1;
            } else if line.starts_with("released") {
                ran.released += 1;
            }
        }
        ran.success = process.ended().0.success();
        ran.errors = process.errors();
        if let Some(first) = first {
            assert!(
                first.elapsed() < Duration::from_secs(5),
                "it took {:?} to end",
                first.elapsed()
            );
        }
        ran
    }
}

#[derive(Debug)]
struct Ran {
    unavailable: u64,
    released: u64,
    success: bool,
    errors: String,
}

const DRIVER: &str = env!("CARGO_BIN_EXE_claviger-test-driver");

/// SplitMix64: the same seed gives the same kills.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = match std::env::var("CLAVIGER_TEST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => rand_core::RngCore::next_u64(&mut rand_core::OsRng),
        };
        println!("to see it again: CLAVIGER_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Lets up to so many microseconds pass, to hit another moment: nothing waits for it.
fn drift(dice: &mut Dice, micros: u64) {
    let (start, until) = (Instant::now(), Duration::from_micros(dice.below(micros)));
    while start.elapsed() < until {
        std::hint::spin_loop();
    }
}

fn kills(durability: &str) {
    let mut dice = Dice::new();
    let mut scene = Scene::new();
    let mut kills = 0_u64;
    while kills < 25 || scene.attempts < 1_000 {
        let words = scene.driver(durability, u64::MAX);
        let mut process = Process::start(Command::new(&words[0]).args(&words[1..]), "");
        process.skip_to("starting");
        // Every fourth is killed while it opens the keyring.
        let results = if kills % 4 == 3 { 0 } else { 1 + dice.below(90) };
        let mut heard = 0;
        while heard < results {
            let line = process.line().expect("it goes on until it is killed");
            heard += u64::from(scene.hear(&line));
        }
        drift(&mut dice, if results == 0 { 40_000 } else { 3_000 });
        process.kill();
        while let Some(line) = process.line() {
            scene.hear(&line);
        }
        drop(process);
        kills += 1;
        scene.check();
        if kills.is_multiple_of(3) {
            scene.recover();
        }
    }
    scene.recover();
    let uses = uses(&entries(&scene.log()));
    assert_eq!(uses.len() as u64, USES, "all uses are spent, each on the log");
    assert!(
        scene.released.len() > 400,
        "the control: {} were released",
        scene.released.len()
    );
    let indeterminate = uses
        .values()
        .filter(|(_, settled)| *settled == Some(Settlement::Indeterminate))
        .count();
    assert!(indeterminate > 0, "the control: no kill left a use open");
    assert!(
        scene
            .recovered
            .iter()
            .any(|recovered| recovered.indeterminate > 0),
        "the control: nothing was recovered"
    );
}

#[test]
fn a_process_killed_at_any_moment_released_nothing_that_is_not_logged() {
    kills("process");
}

#[test]
fn a_process_killed_at_any_moment_under_durability_sync_released_nothing_that_is_not_logged() {
    kills("sync");
}

#[test]
fn a_torn_last_entry_is_cut_and_said_and_a_changed_one_is_damage() {
    let mut scene = Scene::new();
    scene.run(&scene.driver("process", 20));
    let (journal, ends) = last_journal(&scene.log());
    let journal = journal.file_name().unwrap().to_owned();
    let [.., before, end] = ends.as_slice() else {
        panic!("{ends:?}")
    };
    let last = std::fs::read(scene.log().join(&journal)).unwrap()[*before..*end].to_vec();
    for torn in [1, 3, 4, 5, last.len() - 32, last.len() - 1] {
        // As a crash in the middle of one write leaves it: the start of one more entry.
        let mut copy = scene.copy();
        append(&copy.log().join(&journal), &last[..torn]);
        assert_eq!(verify(&copy.log(), &copy.vkey).unwrap().torn_bytes, torn as u64);
        let recovered = copy.recover().expect("a torn entry is said");
        assert_eq!(
            (recovered.dropped_bytes, recovered.indeterminate),
            (torn as u64, 0)
        );
    }
    for at in [ends[0] / 2, *before + 20] {
        let copy = scene.copy();
        let file = copy.log().join(&journal);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let problem = verify(&copy.log(), &copy.vkey).unwrap_err();
        assert!(problem.damage().is_some(), "{problem}");
        let options = Options::new(copy.keyring(), sealer(PASSPHRASE));
        let refused = copy.runtime.block_on(LocalBroker::open(options)).unwrap_err();
        assert!(refused.to_string().contains("damaged"), "{refused}");
    }
}

fn append(file: &Path, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
}

#[test]
fn a_full_disk_stops_every_release_and_the_next_start_recovers() {
    let mut dice = Dice::new();
    let mut torn = 0;
    for durability in ["process", "sync"] {
        let mut scene = Scene::new();
        for _ in 0..6 {
            let (after, room) = (1 + dice.below(20), dice.below(3_000));
            let mut words = vec![
                "sh".to_owned(),
                "-c".to_owned(),
                "trap '' XFSZ; exec \"$@\"".to_owned(),
                "sh".to_owned(),
            ];
            words.extend(scene.driver(durability, 200));
            words.extend([after.to_string(), room.to_string()]);
            let ran = scene.run(&words);
            assert!(ran.released >= after, "the control: {ran:?}");
            assert!(ran.unavailable >= 20, "{ran:?}");
            assert!(
                !ran.success && ran.errors.contains("close"),
                "a failed log is not closed in order: {ran:?}"
            );
            scene.check();
            let recovered = scene.recover().expect("the next start says so");
            torn += u64::from(recovered.dropped_bytes > 0);
            let ran = scene.run(&scene.driver(durability, 5));
            assert!(ran.success && ran.released == 5, "it works again: {ran:?}");
            scene.check();
        }
        let entries = entries(&scene.log());
        let said = entries.iter().filter(|entry| {
            matches!(
                entry.event,
                Event::HostStarted {
                    recovered: Some(_),
                    ..
                }
            )
        });
        assert_eq!(said.count(), 6, "every recovery is on the log");
    }
    assert!(torn > 0, "the control: no write was torn");
}

#[test]
fn a_failed_sync_stops_every_release_and_is_never_tried_again() {
    let mut scene = Scene::new();
    let mut stopped = 0;
    for fault in ["error=EIO", "error=ENOSPC", "signal=SIGKILL"] {
        for nth in [1, 2, 3, 5, 8, 13] {
            let inject = format!("inject=fsync,fdatasync:{fault}:when={nth}");
            let mut words: Vec<_> = [
                "strace",
                "-f",
                "-o",
                "/dev/null",
                "-e",
                "trace=fsync,fdatasync",
                "-e",
                &inject,
            ]
            .map(str::to_owned)
            .into();
            words.extend(scene.driver("sync", 120));
            let ran = scene.run(&words);
            assert!(!ran.success, "the fault was not noticed: {fault} {nth} {ran:?}");
            // strace counts for each thread: the first faults hit the opening of the keyring, the others the log.
            if ran.unavailable > 0 {
                assert!(ran.unavailable >= 20, "the control: it kept asking: {ran:?}");
                stopped += 1;
            }
            scene.check();
            scene.recover();
            let ran = scene.run(&scene.driver("sync", 3));
            assert!(ran.success && ran.released == 3, "it works again: {ran:?}");
        }
    }
    assert!(
        stopped >= 6,
        "the control: {stopped} runs were stopped in the middle"
    );
}
