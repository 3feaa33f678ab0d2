//! Every constraint on every custody, for each operation of a key without a public half. The rows are those of signatures.

use std::collections::BTreeSet;

use claviger::{Answer, RunReport};
use claviger_broker::local::KeyCreation;
use claviger_core::custody::CustodyKind;
use claviger_core::key::SymmetricAlgorithm;
use claviger_core::profile::{BOX_OVERHEAD, MAX_MAC_CONTENT, Profile};
use claviger_core::refusal::Rule;
use claviger_core::{Algorithm, Refusal};
use kit::Guest;
use kit::stage::{ACTION, Action, play};
use kit::vault::{labeled, named};

use crate::constraints::{Bench, ROWS, Root, Step, lines};

/// An operation, its right, and the right beside it.
const OPERATIONS: [(&str, &str); 4] = [
    ("seal", "unseal"),
    ("unseal", "seal"),
    ("generate", "verify"),
    ("verify", "generate"),
];

const SPENT: Step = Step::Refused(Refusal::OverBudget, Rule::Budget);
const NO_RIGHT: Step = Step::Refused(Refusal::NotGranted, Rule::Right);

/// What the rows of signatures do not have: a name, what is added to the capability's table, and what happens.
const BUDGET: (&str, &str, &[Step]) = (
    "bytes",
    ", bytes = \"3 B\"",
    &[
        Step::Signs,
        Step::Signs,
        Step::Signs,
        SPENT,
        Step::Later(86_400),
        SPENT,
    ],
);

fn is_boxes(operation: &str) -> bool {
    matches!(operation, "seal" | "unseal")
}

fn algorithm(operation: &str) -> SymmetricAlgorithm {
    if is_boxes(operation) {
        SymmetricAlgorithm::XChaCha20Poly1305
    } else {
        SymmetricAlgorithm::HmacSha256
    }
}

fn profile(operation: &str) -> Profile {
    if is_boxes(operation) {
        Profile::Seal {}
    } else {
        Profile::Mac {
            label: named("notes"),
        }
    }
}

/// The line of a capability with these rights, and what is added to its table.
fn capability(operation: &str, key: &str, rights: &[&str], more: &str) -> String {
    let name = if is_boxes(operation) { "seal" } else { "mac" };
    format!("{name} = {{ key = \"{key}\", allow = {rights:?}{more} }}")
}

/// The guest needs a grant of each kind to be loaded.
const SPARES: &str = "[grants.spare-box]\nseal = { key = \"spare-box\", allow = [\"seal\"] }\n\
                      [grants.spare-tag]\nmac = { key = \"spare-tag\", allow = [\"verify\"] }\n";

fn answers(report: &RunReport) -> Vec<String> {
    match &report.answer {
        Answer::Done(answer) => answer.lines().map(str::to_owned).collect(),
        _ => panic!("{report:?}"),
    }
}

/// Runs the guest under this grant.
async fn run(bench: &Bench, name: &str, grant: &str, script: &str, actions: Vec<Action>) -> Vec<String> {
    let rest = format!("{grant}{SPARES}");
    let loaded = bench.stage.load_guest(Guest::Symmetric, name, &rest).await;
    let agent = loaded.expect(name);
    answers(&play(&agent, script, actions).await)
}

/// Plays one row with a key of this custody, in one run of one agent.
async fn check(
    bench: &Bench,
    custody: CustodyKind,
    operation: &'static str,
    row: (&'static str, &str, &str, &[Step]),
) {
    let (row, in_table, constraints, steps) = row;
    let name: &'static str = format!("{operation}-{row}").leak();
    let what = format!("{name} on {custody}");
    let broker = &bench.stage.vault.broker;
    let made = broker
        .create_symmetric_key(named(name), profile(operation), custody)
        .await;
    assert_eq!(made.expect(&what).custody, custody, "the control");
    // What is to be opened or compared is made before, by an agent without constraints.
    let other = OPERATIONS.iter().find(|(own, _)| *own == operation).unwrap().1;
    let maker = capability(operation, name, &[operation, other], "");
    let maker = format!("[grants.use]\n{maker}\n");
    let contents = || (0..steps.len()).map(|n| (b'a' + u8::try_from(n).unwrap()) as char);
    let making: Vec<_> = contents()
        .map(|text| {
            if is_boxes(operation) {
                format!("seal use c {text}")
            } else {
                format!("tag use {text}")
            }
        })
        .collect();
    let maker_name = format!("maker-of-{name}");
    let things = run(bench, &maker_name, &maker, &making.join("\n"), Vec::new()).await;

    let noon = bench.noon();
    let right = if row == "right" { other } else { operation };
    let grant = format!(
        "[grants.use]\n{}\n{}\n",
        capability(operation, name, &[right], in_table),
        lines(constraints, noon)
    );
    let line = |n: usize, alias: &str| {
        let text = contents().nth(n).unwrap();
        let thing = &things[n];
        match operation {
            "seal" => format!("seal {alias} c {text}"),
            "unseal" => format!("unseal {alias} c {thing}"),
            "generate" => format!("tag {alias} {text}"),
            _ => format!("verify {alias} {thing} {text}"),
        }
    };
    let script = steps.iter().enumerate().map(|(n, step)| match step {
        Step::Signs | Step::Refused(..) => line(n, "use"),
        Step::RefusedGrant => line(n, "gone"),
        Step::RefusedBytes(..) if operation == "seal" => "seal-size use 1 65537".to_owned(),
        Step::RefusedBytes(..) => format!("tag-size use {}", MAX_MAC_CONTENT + 1),
        Step::Later(_) | Step::Suspend | Step::Resume | Step::Key(_) => ACTION.to_owned(),
    });
    let script = script.collect::<Vec<_>>().join("\n");
    let actions = steps
        .iter()
        .filter_map(|step| bench.action(*step, name))
        .collect();
    let said = run(bench, name, &grant, &script, actions).await;
    assert_eq!(said.len(), steps.len(), "{what}: {said:?}");
    for (n, (step, said)) in steps.iter().zip(&said).enumerate() {
        let text = contents().nth(n).unwrap().to_string();
        let fits = match step {
            Step::Signs => match operation {
                "seal" => said.starts_with("b100000001") && said.len() == 2 * (1 + BOX_OVERHEAD),
                "unseal" => *said == text,
                "generate" => *said == things[n],
                _ => said == "true",
            },
            Step::Refused(refusal, _) | Step::RefusedBytes(_, refusal, _) => {
                *said == format!("refused {refusal:?}")
            }
            Step::RefusedGrant => said == "refused NotGranted",
            Step::Later(_) | Step::Suspend | Step::Resume | Step::Key(_) => said == "printed 1",
        };
        assert!(fits, "{what}, step {n}, {step:?}: {said}");
    }
    bench.check_log(&what, name, steps).await;
}

/// Where keys for this operation can live under this root.
fn custodies(bench: &Bench, root: Root, operation: &str) -> BTreeSet<&'static str> {
    let hardest = bench.stage.vault.broker.default_custody(algorithm(operation));
    match root {
        Root::Passphrase => [CustodyKind::Software.as_str()].into(),
        Root::Swtpm => [CustodyKind::Software, CustodyKind::TpmSealed, hardest]
            .map(CustodyKind::as_str)
            .into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_constraint_holds_for_boxes_and_macs_on_every_custody_while_the_agent_runs() {
    for root in [Root::Passphrase, Root::Swtpm] {
        for (operation, _) in OPERATIONS {
            let all = custodies(&spares(root).await, root, operation);
            for custody in [CustodyKind::Software, CustodyKind::TpmSealed, CustodyKind::Tpm] {
                if !all.contains(custody.as_str()) {
                    continue;
                }
                let bench = spares(root).await;
                for (row, constraints, steps) in ROWS {
                    // Content over a bound is what is to be sealed or to get a tag; the rest is no box, or wrong.
                    let by_size = row == "violation-by-size";
                    if by_size && !matches!(operation, "seal" | "generate") {
                        continue;
                    }
                    check(&bench, custody, operation, (row, "", constraints, steps)).await;
                }
                check(
                    &bench,
                    custody,
                    operation,
                    ("right", "", "", &[NO_RIGHT, NO_RIGHT]),
                )
                .await;
                if is_boxes(operation) {
                    let (row, in_table, steps) = BUDGET;
                    check(&bench, custody, operation, (row, in_table, "", steps)).await;
                }
                bench.stage.close().await;
            }
        }
    }
}

/// A keyring whose spare keys let the guest be loaded.
async fn spares(root: Root) -> Bench {
    let bench = Bench::new(root).await;
    for (key, operation) in [("spare-box", "seal"), ("spare-tag", "verify")] {
        let broker = &bench.stage.vault.broker;
        let made = broker.create_symmetric_key(named(key), profile(operation), CustodyKind::Software);
        made.await.expect("a key");
    }
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_admitted_under_grants_of_its_own_kind_alone() {
    let bench = spares(Root::Passphrase).await;
    let creation = KeyCreation {
        name: named("signs"),
        profile: labeled(),
        algorithm: Algorithm::Ed25519,
        custody: CustodyKind::Software,
    };
    bench
        .stage
        .vault
        .broker
        .create_key(creation)
        .await
        .expect("a key");
    let rows = [
        ("seal", "spare-box", "seal", "", true),
        ("seal", "spare-tag", "seal", "", false),
        ("seal", "signs", "seal", "", false),
        ("verify", "spare-tag", "verify", ", label = \"notes\"", true),
        ("verify", "spare-tag", "verify", ", label = \"note\"", false),
        ("verify", "spare-box", "verify", "", false),
        ("verify", "signs", "verify", "", false),
    ];
    for (n, (operation, key, right, more, admitted)) in rows.into_iter().enumerate() {
        let grant = capability(operation, key, &[right], more);
        let rest = format!("[grants.use]\n{grant}\n{SPARES}");
        let name = format!("row-{n}");
        let loaded = bench.stage.load_guest(Guest::Symmetric, &name, &rest).await;
        assert_eq!(loaded.is_ok(), admitted, "row {n}: {loaded:?}");
    }
    for key in ["spare-box", "spare-tag"] {
        let grant = format!("[grants.use]\nsign = {{ key = \"{key}\" }}\n");
        assert!(bench.stage.load("signer", &grant).await.is_err(), "{key}");
    }
    bench.stage.close().await;
}
