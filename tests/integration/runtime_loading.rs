//! What is loaded and what is not: kinds of files, imports without a grant, and the cache of compiled components.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use claviger::{
    Answer, CacheEvent, Compiler, CompilerCommand, Host, InstanceEnd, LoadError, MAX_COMPONENT, PoolSize,
    RunInput, Secret,
};
use claviger_core::ComponentDigest;
use claviger_core::audit::Event;
use kit::stage::{Stage, events_of};
use kit::vault::Vault;
use kit::{Bench, GRANT, Guest, ToyBroker, guest, manifest};

async fn error(rest: &str, component: &[u8]) -> LoadError {
    Bench::new()
        .load(rest, component)
        .await
        .expect_err("it is not loaded")
}

#[tokio::test]
async fn what_is_not_a_component_is_named_with_what_is_expected() {
    let core = wat::parse_str("(module)").unwrap();
    let text = error("", &core).await.to_string();
    assert!(
        text.contains("core module") && text.contains("wasm32-wasip2"),
        "{text}"
    );
    assert!(matches!(error("", b"\x7fELF....").await, LoadError::NotWasm));
    assert!(matches!(error("", b"").await, LoadError::NotWasm));
    let whole = guest(Guest::Agent);
    for length in [8, 9, 100, whole.len() / 2, whole.len() - 1] {
        let error = error(GRANT, &whole[..length]).await;
        assert!(
            matches!(error, LoadError::NotCompiled(_) | LoadError::NothingToRun),
            "{length}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_component_that_exports_nothing_to_run_is_not_loaded() {
    let empty = wat::parse_str("(component)").unwrap();
    assert!(matches!(error("", &empty).await, LoadError::NothingToRun));
}

#[tokio::test]
async fn an_import_without_a_grant_is_named_with_the_line_that_grants_it() {
    let importing = |names: &[&str]| {
        let imports: String = names
            .iter()
            .map(|name| format!("(import \"{name}\" (instance))"))
            .collect();
        wat::parse_str(format!("(component {imports})")).unwrap()
    };
    let component = importing(&[
        "claviger:credentials/signing@0.1.0",
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:cli/environment@0.3.0",
        "wasi:cli/environment@0.2.3",
    ]);
    let LoadError::NotGranted(missing) = error("", &component).await else {
        panic!("not granted")
    };
    let names: Vec<&str> = missing.iter().map(|missing| missing.import.as_str()).collect();
    assert_eq!(
        names,
        [
            "claviger:credentials/signing@0.1.0",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:cli/environment@0.3.0"
        ]
    );
    assert!(missing[0].hint.contains("sign = { key"), "{}", missing[0].hint);
    assert!(
        missing[1].hint.contains("no outbound HTTP"),
        "{}",
        missing[1].hint
    );
    assert!(missing[2].hint.contains("0.2"), "{}", missing[2].hint);
}

#[tokio::test]
async fn every_reason_why_an_agent_is_not_loaded_is_on_the_log_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(Vault::passphrase(folder.path(), None).await);
    let importing = wat::parse_str(
        "(component (import \"claviger:credentials/signing@0.1.0\" (instance))
            (import \"wasi:http/outgoing-handler@0.2.0\" (instance))
            (import \"acme:db/query@1.0.0\" (instance)))",
    )
    .unwrap();
    let rows: [(&str, Vec<u8>, &[&str]); 5] = [
        (
            "imports",
            importing,
            &[
                "`claviger:credentials/signing@0.1.0`: the manifest grants nothing to sign",
                "`wasi:http/outgoing-handler@0.2.0`: the manifest grants no outbound HTTP",
                "`acme:db/query@1.0.0`: no such interface",
            ],
        ),
        (
            "core",
            wat::parse_str("(module)").unwrap(),
            &["this is a core module"],
        ),
        ("noise", b"noise".to_vec(), &["this is not WebAssembly"]),
        (
            "future",
            b"\0asm\x02\0\0\0".to_vec(),
            &["this is WebAssembly of an unknown kind"],
        ),
        ("huge", vec![0; MAX_COMPONENT + 1], &["a component has at most"]),
    ];
    for (name, component, _) in &rows {
        let digest = ComponentDigest::of(component);
        let text = format!(
            "schema = 1\n[agent]\nname = \"{name}\"\ncomponent = \"a.wasm\"\ndigest = \"{digest}\"\n"
        );
        let (manifest, _) = claviger::Manifest::parse(&text).unwrap();
        let loaded = stage
            .host
            .load(&manifest, Path::new("/nonexistent"), component)
            .await;
        assert!(loaded.is_err(), "{name}");
    }
    let log = stage.log().await;
    for (name, _, expected) in rows {
        let logged: Vec<_> = events_of(&log, name)
            .into_iter()
            .filter_map(|event| match event {
                Event::NotAdmitted { reasons, .. } => Some(reasons),
                _ => None,
            })
            .collect();
        let [reasons] = logged.as_slice() else {
            panic!("{name}: {logged:?}")
        };
        assert_eq!(reasons.len(), expected.len(), "{name}: {reasons:?}");
        for (reason, expected) in reasons.iter().zip(expected) {
            assert!(reason.starts_with(expected), "{name}: {reason}");
            assert!(
                !reason.contains("u{a}"),
                "one line, and not escaped twice: {reason}"
            );
        }
    }
}

#[tokio::test]
async fn the_signing_agent_is_loaded_with_a_grant_and_not_without() {
    let LoadError::NotGranted(missing) = error("", guest(Guest::Agent)).await else {
        panic!("not granted")
    };
    assert!(
        missing.iter().any(|missing| missing.import.contains("signing")),
        "{missing:?}"
    );
    assert!(
        Bench::new().load(GRANT, guest(Guest::Agent)).await.is_ok(),
        "the control"
    );
}

#[tokio::test]
async fn a_command_gets_its_input_on_stdin_and_exits() {
    let bench = Bench::new();
    // The first line still belongs to [agent].
    let rest = "args = [\"--now\"]\n[env]\nMODE = \"test\"\n";
    let agent = bench.load(rest, guest(Guest::Command)).await.unwrap();
    let report = agent.run(RunInput::text("shout")).await.unwrap();
    assert_eq!(report.answer, Answer::Exited(0));
    assert_eq!(
        String::from_utf8(report.stdout).unwrap(),
        "MODE=test\ntest --now\nSHOUT\n"
    );
    let report = agent.run(RunInput::text("exit 1")).await.unwrap();
    assert_eq!(
        (report.answer, report.end),
        (Answer::Exited(1), InstanceEnd::Failed)
    );
    assert_eq!(report.stderr, b"leaving\n");
    let report = agent.run(RunInput::text("exit 0")).await.unwrap();
    assert_eq!(
        (report.answer, report.end),
        (Answer::Exited(0), InstanceEnd::Finished)
    );
}

fn cached(folder: &Path, key: u8) -> Host {
    Host::builder(Arc::new(ToyBroker::new()))
        .pool(PoolSize::new(1))
        .cache(folder.to_owned(), Secret::take(&mut [key; 32]).unwrap())
        .build()
        .unwrap()
}

async fn cache_event(host: &Host) -> CacheEvent {
    let agent = host
        .load(&manifest(GRANT), Path::new("/"), guest(Guest::Agent))
        .await
        .unwrap();
    let report = agent.run(RunInput::text("echo well")).await.unwrap();
    assert_eq!(
        report.answer,
        Answer::Done("well".to_owned()),
        "whatever the cache did, the agent runs"
    );
    agent.cache_event().clone()
}

#[tokio::test]
async fn the_cache_is_not_given_to_an_agent() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("data")).unwrap();
    let host = cached(&root.path().join("cache"), 1);
    for (folder, given) in [("cache", false), (".", false), ("data", true)] {
        let manifest = manifest(&format!(
            "[files]\n\"/d\" = {{ host = \"{folder}\", access = \"read-write\" }}\n{GRANT}"
        ));
        let loaded = host.load(&manifest, root.path(), guest(Guest::Command)).await;
        match loaded {
            Ok(_) => assert!(given, "{folder}"),
            Err(LoadError::FolderOverlaps { .. }) => assert!(!given, "{folder}"),
            Err(other) => panic!("{folder}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_cache_entry_is_used_when_it_is_authentic_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let host = cached(folder.path(), 1);
    assert_eq!(cache_event(&host).await, CacheEvent::Miss);
    assert_eq!(cache_event(&host).await, CacheEvent::Hit);
    let entries: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [entry] = entries.as_slice() else {
        panic!("{entries:?}")
    };
    let good = std::fs::read(entry).unwrap();

    // A flipped byte in the middle of the machine code, which wasmtime itself would accept.
    let mut forged = good.clone();
    forged[good.len() / 2] ^= 1;
    for bad in [forged, good[..good.len() - 1].to_vec(), Vec::new()] {
        std::fs::write(entry, bad).unwrap();
        assert!(matches!(cache_event(&host).await, CacheEvent::Rejected { .. }));
        assert_eq!(cache_event(&host).await, CacheEvent::Hit, "it was replaced");
    }
    let other = cached(folder.path(), 2);
    assert!(
        matches!(cache_event(&other).await, CacheEvent::Rejected { .. }),
        "made by a host with another key"
    );
}

async fn compiled_by(command: CompilerCommand, component: &[u8]) -> Result<claviger::Agent, LoadError> {
    let host = Host::builder(Arc::new(ToyBroker::new()))
        .pool(PoolSize::new(1))
        .compiler(Compiler::Child(command))
        .build()
        .unwrap();
    host.load(&manifest(GRANT), Path::new("/"), component).await
}

fn child(seconds: &str) -> CompilerCommand {
    CompilerCommand::new(
        env!("CARGO_BIN_EXE_claviger-test-compiler").into(),
        vec![seconds.into()],
    )
}

#[tokio::test]
async fn a_component_is_compiled_in_a_child_that_limits_itself() {
    let agent = compiled_by(child("120"), guest(Guest::Agent)).await.unwrap();
    let report = agent.run(RunInput::text("echo well")).await.unwrap();
    assert_eq!(report.answer, Answer::Done("well".to_owned()));
    let truncated = &guest(Guest::Agent)[..1000];
    let LoadError::NotCompiled(why) = compiled_by(child("120"), truncated).await.unwrap_err() else {
        panic!("it is not compiled")
    };
    assert!(
        why.contains("unexpected"),
        "the child's complaint comes through: {why}"
    );
}

#[tokio::test]
async fn a_compiler_that_hangs_or_lies_is_an_error_and_not_a_hang() {
    let hangs =
        CompilerCommand::new("/bin/sleep".into(), vec!["600".into()]).deadline(Duration::from_millis(100));
    let error = compiled_by(hangs, guest(Guest::Agent)).await.unwrap_err();
    assert!(error.to_string().contains("takes longer"), "{error}");
    let lies = CompilerCommand::new("/bin/echo".into(), vec!["machine code".into()]);
    assert!(compiled_by(lies, guest(Guest::Agent)).await.is_err());
    let fails = CompilerCommand::new("/bin/false".into(), Vec::new());
    let error = compiled_by(fails, guest(Guest::Agent)).await.unwrap_err();
    assert!(error.to_string().contains("stopped at its limits"), "{error}");
    let missing = CompilerCommand::new("/nonexistent/compiler".into(), Vec::new());
    assert!(matches!(
        compiled_by(missing, guest(Guest::Agent)).await,
        Err(LoadError::Compiler(_))
    ));
}
