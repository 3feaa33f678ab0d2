//! Known secrets in a real process that uses them, and a search for every trace: memory as a core dump has it, an agent's linear memory,
//! files, output, environment. Real core dumps are searched in `hygiene_core.rs`.

use kit::holder::{CHECKPOINTS, IN_HOST_CALL};
use kit::scan::{Hit, Scanner, encodings, is_name, is_text};

use super::hygiene_scene::{ON_HEAP, Root, Scene, show};

/// What the holding of keys left behind, over the whole life of a process.
struct Traces {
    /// Where core dumps and anybody else can find it, with the checkpoint.
    dumped: Vec<(&'static str, Hit)>,
    outside: Vec<Hit>,
    /// In locked pages.
    left_out: Vec<Hit>,
}

/// Where the resident key was used last, so that the TPM has it.
const USED: [&str; 2] = ["signed tokens", IN_HOST_CALL];

/// Follows a process to its end and searches it wherever it stands still.
fn follow(scene: &mut Scene, refused: &str) -> Traces {
    let mut traces = Traces {
        dumped: Vec::new(),
        outside: Vec::new(),
        left_out: Vec::new(),
    };
    for checkpoint in CHECKPOINTS {
        scene.reach(checkpoint);
        let mut scanner = scene.scanner();
        if scene.root == Root::Swtpm && USED.contains(&checkpoint) {
            scanner.add("the resident scalar", &scene.resident());
        }
        scene.add_control(&mut scanner);
        let mut memory = scanner.scan_memory(scene.process.id());
        let hits = memory.dumped.len();
        memory.dumped.retain(|hit| hit.secret != ON_HEAP);
        assert!(memory.dumped.len() < hits, "the control: the heap is searched");
        let dumped = memory.dumped.into_iter().map(|hit| (checkpoint, hit));
        traces.dumped.extend(dumped);
        traces.outside.extend(scene.scan_outside(&scanner));
        if checkpoint == IN_HOST_CALL {
            let linear = scene.linear_memory();
            assert!(linear.end - linear.start >= 1 << 20, "the control: {linear:x?}");
        }
        if checkpoint == "closed" {
            assert!(
                memory.left_out.is_empty(),
                "secrets in locked pages after closing:\n{}",
                show(&memory.left_out)
            );
            let (errors, text) = scene.scan_errors(&scanner);
            assert!(text.contains(refused), "the control: {text}");
            traces.outside.extend(errors);
            break;
        }
        traces.left_out.extend(memory.left_out);
        scene.process.send(b"x");
    }
    traces
}

impl Traces {
    /// Nothing was found, but what is in locked pages, and that was.
    fn assert_clean(&self, scene: &Scene, held: &[&str]) {
        assert!(
            self.outside.is_empty(),
            "secrets outside memory:\n{}",
            show(&self.outside)
        );
        let lines: String = self
            .dumped
            .iter()
            .map(|(checkpoint, hit)| format!("at `{checkpoint}`: {hit}\n"))
            .collect();
        assert!(lines.is_empty(), "secrets in memory that is dumped:\n{lines}");
        for held in held {
            let found = self
                .left_out
                .iter()
                .any(|hit| hit.secret == format!("the {held}"));
            assert!(found, "the control: the {held} was in locked pages");
        }
        let said = String::from_utf8_lossy(&scene.stdout);
        let signed = said.lines().filter(|line| line.starts_with("signed")).count();
        assert_eq!(signed, 9 + 12, "the control: the keys were used: {said}");
        for refused in [
            "refused notes over budget",
            "refused tokens invalid",
            "refused damaged unavailable",
        ] {
            assert!(said.contains(refused), "the control: {refused}: {said}");
        }
        let in_backup = match scene.root {
            Root::Passphrase => "3",
            Root::Swtpm => "2",
        };
        assert_eq!(
            scene.said("backed up ").as_deref(),
            Some(in_backup),
            "the control: {said}"
        );
        let agent = scene.said("agent ").unwrap();
        let answers: Vec<&str> = agent.split("\\n").collect();
        assert_eq!(answers.len(), 7, "the control: the agent obeyed: {agent}");
        for signature in &answers[1..3] {
            assert_eq!(signature.len(), 128, "the control: the agent signed: {agent}");
        }
        for refused in &answers[3..6] {
            assert!(refused.starts_with("refused"), "the control: {agent}");
        }
    }
}

#[test]
fn no_secret_is_anywhere_but_in_locked_pages_and_none_is_left_after_closing() {
    let mut scene = Scene::start(Root::Passphrase, &[]);
    let traces = follow(&mut scene, "the passphrase is wrong");
    let held = [
        "P-256 scalar",
        "root key",
        "passphrase",
        "Ed25519 seed",
        "Ed25519 prefix",
        "key for envelope",
    ];
    traces.assert_clean(&scene, &held);
}

#[test]
fn no_secret_of_a_keyring_on_a_tpm_is_anywhere_but_in_locked_pages() {
    let mut scene = Scene::start(Root::Swtpm, &[]);
    let traces = follow(&mut scene, "another TPM");
    let held = ["root key", "Ed25519 seed", "Ed25519 prefix", "key for envelope"];
    traces.assert_clean(&scene, &held);
}

#[test]
fn the_search_finds_what_a_function_left_on_the_stack_of_a_living_thread() {
    let mut scene = Scene::start(Root::Passphrase, &["stack"]);
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

/// Whether something in this encoding can be there.
type Holds = fn(&str) -> bool;

/// Where something was planted, and which encodings can be there.
const PLACES: [(&str, Holds); 11] = [
    ("memory", |_| true),
    ("linear memory", |_| true),
    ("/planted", |_| true),
    ("/audit/planted", |_| true),
    ("/keyring.db-wal", |_| true),
    ("/keyring.db", |_| true),
    // A zero byte ends a variable.
    ("/environ", |encoding| encoding != "utf-16"),
    ("/cmdline", is_text),
    ("/maps", is_name),
    ("stdout", is_text),
    ("stderr", is_text),
];

#[test]
fn the_search_finds_a_planted_secret_in_every_place_and_encoding() {
    let mut scene = Scene::start(Root::Passphrase, &["plant"]);
    scene.reach("made");
    let mut scanner = Scanner::new();
    scanner.add("it", &scene.seed);
    for checkpoint in CHECKPOINTS.iter().skip(1).take_while(|name| **name != "refused") {
        scene.go_on_to(checkpoint);
    }
    let linear = scene.linear_memory();
    let mut hits = scanner.scan_memory(scene.process.id()).dumped;
    for hit in &mut hits {
        let inside = linear.contains(&hit.at);
        hit.place = if inside { "linear memory" } else { "memory" }.to_owned();
    }
    hits.extend(scene.scan_outside(&scanner));
    scene.go_on_to("refused");
    scene.go_on_to("closed");
    // Lossy text would hide bytes that are no text; pieces of the rest are found.
    let (errors, _) = scene.scan_errors(&scanner);
    hits.extend(errors);
    hits.extend(plant_in_database(&scene, &scanner));
    for (encoding, _) in encodings(&scene.seed) {
        for (place, holds) in PLACES {
            let found = hits
                .iter()
                .any(|hit| hit.encoding == encoding && hit.place.ends_with(place));
            assert!(
                found || !holds(encoding),
                "{encoding} was planted in {place} and not found"
            );
        }
    }
    let named = hits.iter().any(|hit| hit.place == "a file's name");
    assert!(named, "names of files are searched");
}

/// What is found in the database when its log has the secret, and when it is in the database itself.
fn plant_in_database(scene: &Scene, scanner: &Scanner) -> Vec<Hit> {
    let database = rusqlite::Connection::open(scene.keyring().join("keyring.db")).unwrap();
    database.execute("CREATE TABLE planted (bytes BLOB)", []).unwrap();
    for (_, bytes) in encodings(&scene.seed) {
        database
            .execute("INSERT INTO planted VALUES (?1)", [bytes])
            .unwrap();
    }
    let mut hits = scanner.scan_files(&scene.keyring().join("keyring.db-wal"));
    database.close().unwrap();
    hits.extend(scanner.scan_files(&scene.keyring().join("keyring.db")));
    hits
}
