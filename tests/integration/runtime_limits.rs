//! Every limit stops the agent that exceeds it, names itself, and leaves the neighbours alone.

use std::time::{Duration, Instant};

use claviger::{Answer, InstanceEnd, RunInput, RunReport, StopLimit};
use kit::{Bench, GRANT, Guest, guest};

/// Runs commands under a manifest and says at which limit they were stopped, while a neighbour goes on.
async fn check(rest: &str, commands: &str, expected: StopLimit) -> RunReport {
    let bench = Bench::new();
    let attacker = bench.load(rest, guest(Guest::Agent)).await.unwrap();
    let neighbour = bench.load(GRANT, guest(Guest::Agent)).await.unwrap();
    let (report, beside) = tokio::join!(
        attacker.run(RunInput::text(commands)),
        neighbour.run(RunInput::text("sleep 50\nsign release x"))
    );
    let report = report.unwrap();
    assert_eq!(report.end, InstanceEnd::Stopped { limit: expected }, "{commands}");
    assert_eq!(report.answer, Answer::Absent, "{commands}");
    assert_eq!(
        beside.unwrap().end,
        InstanceEnd::Finished,
        "the neighbour of {commands}"
    );
    assert!(
        bench.broker.ends().contains(&report.end),
        "the broker was told of {commands}"
    );
    // The host goes on as well.
    let after = neighbour.run(RunInput::text("sign release y")).await.unwrap();
    assert_eq!(after.end, InstanceEnd::Finished, "after {commands}");
    report
}

fn limited(limits: &str) -> String {
    format!("[limits]\n{limits}\n{GRANT}")
}

#[tokio::test]
async fn an_endless_loop_is_stopped_at_its_processor_time() {
    let report = check(&limited("cpu = \"100 ms\""), "loop", StopLimit::Cpu).await;
    assert!(
        report.elapsed >= Duration::from_millis(100),
        "{:?}",
        report.elapsed
    );
}

#[tokio::test]
async fn an_endless_loop_is_stopped_at_its_deadline() {
    check(
        &limited("deadline = \"200 ms\"\ncpu = \"200 ms\""),
        "sleep 60000",
        StopLimit::Deadline,
    )
    .await;
}

#[tokio::test]
async fn a_host_call_that_never_ends_is_stopped_at_the_deadline() {
    let rest = limited("deadline = \"200 ms\"\ncpu = \"200 ms\"").replace("release]", "never]");
    check(&rest, "sign never x", StopLimit::Deadline).await;
}

#[tokio::test]
async fn waiting_is_not_processor_time() {
    let bench = Bench::new();
    let report = bench.script(&limited("cpu = \"100 ms\""), "sleep 400").await;
    assert_eq!(report.answer, Answer::Done("slept".to_owned()));
}

#[tokio::test]
async fn memory_is_stopped_at_the_total() {
    check(&limited("memory = \"16 MiB\""), "alloc", StopLimit::Memory).await;
}

#[tokio::test]
async fn recursion_is_stopped_at_the_stack() {
    check(GRANT, "recurse", StopLimit::Stack).await;
}

#[tokio::test]
async fn output_is_stopped_at_its_cap_and_what_fits_is_kept() {
    let rest = limited("output = \"100 KiB\"");
    let report = check(&rest, "print 1000\nprint-forever", StopLimit::Output).await;
    assert_eq!(report.stdout.len(), 100 * 1024);
    let report = check(&rest, "print-error 102401", StopLimit::Output).await;
    assert_eq!(report.stderr.len(), 100 * 1024);
    check(&rest, "answer 102401", StopLimit::Output).await;
    let bench = Bench::new();
    let report = bench.script(&rest, "print 102400\nprint-error 102400").await;
    assert_eq!(report.end, InstanceEnd::Finished, "the control: exactly the cap");
    let report = bench.script(&rest, "answer 102400").await;
    assert_eq!(report.end, InstanceEnd::Finished, "the control: exactly the cap");
}

#[tokio::test]
async fn the_sixty_fifth_open_signer_is_one_handle_too_many() {
    check(GRANT, "open-many release 65", StopLimit::Handles).await;
    let report = Bench::new()
        .script(GRANT, "open-many release 64\nopen-many release 64")
        .await;
    assert_eq!(
        report.answer,
        Answer::Done("opened 64\nopened 64".to_owned()),
        "closed ones do not count"
    );
}

#[tokio::test]
async fn a_list_larger_than_a_host_call_may_lift_is_not_lifted() {
    check(
        &limited("memory = \"128 MiB\""),
        "sign-size release 33554432",
        StopLimit::HostCall,
    )
    .await;
}

#[tokio::test]
async fn a_list_of_nearly_a_gibibyte_that_is_really_there_is_not_lifted() {
    let rest = limited("memory = \"1 GiB\"");
    check(&rest, "sign-grown release 1065353216", StopLimit::HostCall).await;
    let report = Bench::new().script(&rest, "sign-grown release 1000000").await;
    assert_eq!(
        report.answer,
        Answer::Done("signed 64".to_owned()),
        "the control: grown memory can be signed"
    );
}

#[tokio::test]
async fn an_answer_larger_than_a_host_call_may_lift_is_not_lifted() {
    check(
        &limited("memory = \"128 MiB\""),
        "answer 33554432",
        StopLimit::HostCall,
    )
    .await;
}

#[tokio::test]
async fn host_resources_are_stopped_at_their_cap() {
    check(GRANT, "hold-streams 1025", StopLimit::Handles).await;
    let report = Bench::new()
        .script(GRANT, "hold-streams 1000\nhold-streams 1000")
        .await;
    assert_eq!(
        report.answer,
        Answer::Done("held 1000\nheld 1000".to_owned()),
        "closed ones do not count"
    );
}

#[tokio::test]
async fn an_agent_that_makes_a_million_handles_is_stopped_and_others_go_on() {
    let bench = Bench::new();
    let hoarder = bench.load("", &component_with_handles(1_000_000)).await.unwrap();
    let neighbour = bench.load(GRANT, guest(Guest::Agent)).await.unwrap();
    let (report, beside) = tokio::join!(
        hoarder.run(RunInput::default()),
        neighbour.run(RunInput::text("sleep 50\nsign release x"))
    );
    let stopped = InstanceEnd::Stopped {
        limit: StopLimit::Handles,
    };
    assert_eq!(report.unwrap().end, stopped);
    assert_eq!(beside.unwrap().end, InstanceEnd::Finished);
    assert!(bench.broker.ends().contains(&stopped), "the broker was told");
    let last = bench.load("", &component_with_handles(4097)).await.unwrap();
    assert_eq!(last.run(RunInput::default()).await.unwrap().end, stopped);
    let within = bench.load("", &component_with_handles(4096)).await.unwrap();
    assert_eq!(
        within.run(RunInput::default()).await.unwrap().end,
        InstanceEnd::Finished,
        "the control: exactly the cap"
    );
}

#[tokio::test]
async fn a_list_beyond_the_memory_is_the_guests_fault() {
    for claimed in ["15728640", "1073741824", "4294967280"] {
        let report = Bench::new()
            .script(GRANT, &format!("sign-claimed release {claimed}"))
            .await;
        let InstanceEnd::Trapped { trap } = report.end else {
            panic!("{report:?}")
        };
        assert!(trap.contains("out of bounds"), "{trap}");
    }
}

#[tokio::test]
async fn an_abort_is_a_trap_and_its_kind_is_recorded() {
    let report = Bench::new().script(GRANT, "trap").await;
    let InstanceEnd::Trapped { trap } = report.end else {
        panic!("{report:?}")
    };
    assert_eq!(trap, "wasm trap: wasm `unreachable` instruction executed");
}

#[tokio::test]
async fn random_bytes_are_bounded_in_each_call() {
    let bench = Bench::new();
    let report = bench.script(GRANT, "random 65536").await;
    assert_eq!(report.answer, Answer::Done("random 65536".to_owned()));
    let report = bench.script(GRANT, "random 65537").await;
    assert!(matches!(report.end, InstanceEnd::Trapped { .. }), "{report:?}");
}

#[tokio::test]
async fn an_input_over_its_bound_is_not_given() {
    let bench = Bench::new();
    let agent = bench.load(GRANT, guest(Guest::Agent)).await.unwrap();
    let error = agent
        .run(RunInput::text("x".repeat(claviger::MAX_INPUT + 1)))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("1048577"), "{error}");
    assert_eq!(bench.broker.records(), []);
}

#[tokio::test]
async fn more_runs_than_the_pool_has_room_for_wait_their_turn() {
    let bench = Bench::new();
    let agent = std::sync::Arc::new(bench.load(GRANT, guest(Guest::Agent)).await.unwrap());
    let runs: Vec<_> = (0..16)
        .map(|_| {
            let agent = agent.clone();
            tokio::spawn(async move { agent.run(RunInput::text("sleep 10")).await.unwrap().end })
        })
        .collect();
    for run in runs {
        assert_eq!(run.await.unwrap(), InstanceEnd::Finished);
    }
}

#[tokio::test]
async fn tables_are_stopped_at_their_cap() {
    let bench = Bench::new();
    let grow = component_that("(drop (table.grow $table (ref.null func) (i32.const 20001)))");
    let agent = bench.load("", &grow).await.unwrap();
    let report = agent.run(RunInput::default()).await.unwrap();
    assert_eq!(
        report.end,
        InstanceEnd::Stopped {
            limit: StopLimit::Tables
        }
    );
    let within = component_that("(drop (table.grow $table (ref.null func) (i32.const 10)))");
    let agent = bench.load("", &within).await.unwrap();
    let report = agent.run(RunInput::default()).await.unwrap();
    assert_eq!(report.end, InstanceEnd::Finished, "the control");
}

#[tokio::test]
async fn memories_are_capped_together_and_not_one_by_one() {
    let bench = Bench::new();
    let two = |pages: u32| {
        component_that(&format!(
            "(drop (memory.grow $one (i32.const {pages}))) (drop (memory.grow $two (i32.const {pages})))"
        ))
    };
    let rest = "[limits]\nmemory = \"1 MiB\"\n";
    let agent = bench.load(rest, &two(9)).await.unwrap();
    let report = agent.run(RunInput::default()).await.unwrap();
    assert_eq!(
        report.end,
        InstanceEnd::Stopped {
            limit: StopLimit::Memory
        },
        "twice 9 pages of 64 KiB"
    );
    let agent = bench.load(rest, &two(7)).await.unwrap();
    assert_eq!(
        agent.run(RunInput::default()).await.unwrap().end,
        InstanceEnd::Finished,
        "the control"
    );
}

#[tokio::test]
async fn a_deadline_holds_against_a_guest_that_never_calls_the_host() {
    let bench = Bench::new();
    let endless = component_that("(loop $l (br $l))");
    let rest = "[limits]\ndeadline = \"150 ms\"\ncpu = \"150 ms\"\n";
    let agent = bench.load(rest, &endless).await.unwrap();
    let before = Instant::now();
    let report = agent.run(RunInput::default()).await.unwrap();
    assert!(
        matches!(
            report.end,
            InstanceEnd::Stopped {
                limit: StopLimit::Deadline | StopLimit::Cpu
            }
        ),
        "{report:?}"
    );
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "{:?}",
        before.elapsed()
    );
}

/// A command whose `run` does this.
fn component_that(body: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
            (core module $m
                (memory $one 0) (memory $two 0) (table $table 0 funcref)
                (func (export "run") (result i32) {body} (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (component $shim
                (import "run" (func $run (result (result))))
                (export "run" (func $run)))
            (instance $exported (instantiate $shim (with "run" (func $run))))
            (export "wasi:cli/run@0.2.0" (instance $exported)))"#
    ))
    .unwrap()
}

/// A command whose `run` makes so many handles to resources of its own and keeps them.
fn component_with_handles(count: u32) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
            (type $thing (resource (rep i32)))
            (core func $new (canon resource.new $thing))
            (core module $m
                (import "" "new" (func $new (param i32) (result i32)))
                (func (export "run") (result i32) (local $left i32)
                    (local.set $left (i32.const {count}))
                    (loop $more
                        (drop (call $new (i32.const 0)))
                        (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
                    (i32.const 0)))
            (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (component $shim
                (import "run" (func $run (result (result))))
                (export "run" (func $run)))
            (instance $exported (instantiate $shim (with "run" (func $run))))
            (export "wasi:cli/run@0.2.0" (instance $exported)))"#
    ))
    .unwrap()
}
