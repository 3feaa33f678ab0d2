//! Why a guest was stopped, on the log of a real keyring: each limit under its name, while the neighbours go on signing.

use claviger::{InstanceEnd, RunInput, StopLimit};
use claviger_core::Algorithm;
use claviger_core::audit::{Event, Settlement};
use kit::entries::uses;
use kit::stage::{Stage, events_of};
use kit::vault::{Vault, labeled};
use tempfile::TempDir;

/// What the script does after its first signature, under which limits, and how it ends.
type Row = (&'static str, &'static str, &'static str, InstanceEnd);

const fn at(limit: StopLimit) -> InstanceEnd {
    InstanceEnd::Stopped { limit }
}

fn rows() -> [Row; 13] {
    let trapped = InstanceEnd::Trapped {
        trap: "wasm trap: wasm `unreachable` instruction executed".to_owned(),
    };
    [
        ("loop-cpu", "cpu = \"100 ms\"", "loop", at(StopLimit::Cpu)),
        (
            "sleep-deadline",
            "deadline = \"300 ms\"\ncpu = \"300 ms\"",
            "sleep 60000",
            at(StopLimit::Deadline),
        ),
        (
            "alloc-memory",
            "memory = \"16 MiB\"",
            "alloc",
            at(StopLimit::Memory),
        ),
        ("recursion-stack", "", "recurse", at(StopLimit::Stack)),
        (
            "print-output",
            "output = \"100 KiB\"",
            "print-forever",
            at(StopLimit::Output),
        ),
        (
            "error-output",
            "output = \"100 KiB\"",
            "print-error 102401",
            at(StopLimit::Output),
        ),
        (
            "answer-output",
            "output = \"100 KiB\"",
            "answer 102401",
            at(StopLimit::Output),
        ),
        ("signer-handles", "", "open-many use 65", at(StopLimit::Handles)),
        (
            "list-call",
            "memory = \"128 MiB\"",
            "sign-size use 33554432",
            at(StopLimit::HostCall),
        ),
        ("abort-trap", "", "trap", trapped),
        ("own-error", "", "fail I cannot", InstanceEnd::Failed),
        ("exit-error", "", "exit 1", InstanceEnd::Failed),
        ("control", "", "echo done", InstanceEnd::Finished),
    ]
}

const GRANT: &str = "[grants.use]\nsign = { key = \"notes\" }\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_at_which_limit_a_guest_was_stopped_and_its_neighbours_go_on() {
    let folder = TempDir::new().unwrap();
    let vault = Vault::passphrase(folder.path(), None).await;
    vault.key("notes", labeled(), Algorithm::Ed25519).await;
    let stage = Stage::new(vault);
    let neighbour = stage.load("neighbour", GRANT).await.unwrap();
    for (name, limits, command, end) in rows() {
        let attacker = stage
            .load(name, &format!("[limits]\n{limits}\n{GRANT}"))
            .await
            .unwrap();
        let script = format!("sign use before\n{command}");
        let (stopped, beside) = tokio::join!(
            attacker.run(RunInput::text(script)),
            neighbour.run(RunInput::text("sign use x\nsleep 20\nsign use y"))
        );
        assert_eq!(stopped.unwrap().end, end, "{name}");
        assert_eq!(
            beside.unwrap().end,
            InstanceEnd::Finished,
            "the neighbour of {name}"
        );
    }
    drop(neighbour);
    let log = stage.close().await;
    for (name, _, _, end) in rows() {
        let events = events_of(&log, name);
        let ends: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Ended { end, .. } => Some(end),
                _ => None,
            })
            .collect();
        assert_eq!(ends, [&end], "{name} on the log");
        assert!(
            matches!(
                events.as_slice(),
                [
                    Event::Admitted { .. },
                    Event::Started { .. },
                    Event::Allowed(_),
                    Event::Ended { .. }
                ]
            ),
            "{name}: {events:?}"
        );
    }
    let settled = uses(&log);
    let released = settled
        .values()
        .filter(|(_, settlement)| *settlement == Some(Settlement::Released));
    // What was released before a stop stays so, and each neighbour signed twice.
    assert_eq!(
        (settled.len(), released.count()),
        (3 * rows().len(), 3 * rows().len())
    );
    let neighbours = events_of(&log, "neighbour");
    let finished = neighbours.iter().filter(|event| {
        matches!(
            event,
            Event::Ended {
                end: InstanceEnd::Finished,
                ..
            }
        )
    });
    assert_eq!(finished.count(), rows().len());
}
