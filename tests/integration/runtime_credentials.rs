//! The credentials interfaces from an agent's side, with a broker that only remembers.

use claviger::{Answer, InstanceEnd, RunInput};
use kit::{Bench, GRANT, Guest, Record, guest};

#[tokio::test]
async fn an_agent_signs_with_a_key_it_never_sees() {
    let bench = Bench::new();
    let report = bench.script(GRANT, "sign release v1.2.3").await;
    assert_eq!(report.answer, Answer::Done(bench.broker.signature(b"v1.2.3")));
    assert_eq!(report.end, InstanceEnd::Finished);
    assert_eq!(bench.broker.ends(), [InstanceEnd::Finished]);
}

#[tokio::test]
async fn an_agent_learns_of_its_key_and_its_grants() {
    let bench = Bench::new();
    let report = bench.script(GRANT, "info release\ngrants").await;
    let expected = "labeled ed25519 toy v1 ssh-ed25519 toy\nrelease:sign:Some(3):None:None";
    assert_eq!(report.answer, Answer::Done(expected.to_owned()));
}

#[tokio::test]
async fn an_agent_asks_for_more_and_what_it_passes_on_is_bounded() {
    let bench = Bench::new();
    let long = "x".repeat(100_000);
    let many = ";GET /a".repeat(1000);
    let script = format!(
        "wish-key more notes\nwish-routes api https://api.test;GET /repos/*\nwish-key {long} {long}\nwish-routes api https://api.test{many}"
    );
    let report = bench.script(GRANT, &script).await;
    let expected = "proposed\nproposed\nrefused Invalid\nrefused Invalid";
    assert_eq!(report.answer, Answer::Done(expected.to_owned()));
    let asked = bench.broker.records();
    assert!(
        asked.iter().all(|record| format!("{record:?}").len() < 400),
        "{asked:?}"
    );
}

#[tokio::test]
async fn an_alias_that_is_not_granted_is_refused_and_a_long_one_is_cut() {
    let bench = Bench::new();
    let long = "x".repeat(5000);
    let report = bench
        .script(GRANT, &format!("open other\nopen {long}\nopen release"))
        .await;
    let expected = "refused NotGranted\nrefused NotGranted\nopened";
    assert_eq!(report.answer, Answer::Done(expected.to_owned()));
    let asked = bench.broker.records();
    assert!(
        asked.iter().all(|record| format!("{record:?}").len() < 400),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_refusal_reaches_the_agent_as_its_kind() {
    let bench = Bench::new();
    let rest = GRANT.replace("release]", "refused]");
    let report = bench.script(&rest, "sign refused x").await;
    assert_eq!(report.answer, Answer::Done("refused OverBudget".to_owned()));
}

#[tokio::test]
async fn content_just_over_the_bound_reaches_the_broker_which_refuses_it() {
    let bench = Bench::new();
    let fits = 16 * 1024 * 1024;
    let over = fits + 1;
    let report = bench
        .script(
            GRANT,
            &format!("sign-size release {over}\nsign-size release {fits}"),
        )
        .await;
    let Answer::Done(answer) = report.answer else {
        panic!("{report:?}")
    };
    assert!(answer.starts_with("refused Invalid\n"), "{answer}");
    assert_eq!(answer.len(), "refused Invalid\n".len() + 128);
}

#[tokio::test]
async fn dropping_a_run_abandons_its_request_and_ends_its_instance() {
    let bench = Bench::new();
    let agent = bench
        .load(&GRANT.replace("release]", "never]"), guest(Guest::Agent))
        .await
        .unwrap();
    let mut run = Box::pin(agent.run(RunInput::text("sign never x")));
    // Driven until the broker was asked to sign, then dropped.
    let asked = |record: &Record| matches!(record, Record::Asked(_, text) if text.starts_with("Sign("));
    while !bench.broker.records().iter().any(asked) {
        tokio::select! {
            biased;
            report = &mut run => panic!("{report:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(bench.broker.ends(), []);
    drop(run);
    let records = bench.broker.records();
    let [.., Record::Abandoned(_), Record::Ended(_, InstanceEnd::Dropped)] = records.as_slice() else {
        panic!("{records:?}");
    };
}

#[tokio::test]
async fn no_run_finds_what_an_earlier_one_left_in_memory() {
    let bench = Bench::new();
    let agent = bench.load(GRANT, guest(Guest::Agent)).await.unwrap();
    let first = agent.run(RunInput::text("hold canary\nheld")).await.unwrap();
    assert_eq!(
        first.answer,
        Answer::Done("held\ncanary".to_owned()),
        "the control: it was held"
    );
    for _ in 0..8 {
        let next = agent.run(RunInput::text("held")).await.unwrap();
        assert_eq!(next.answer, Answer::Done(String::new()));
    }
}
