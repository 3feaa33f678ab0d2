//! Grants that agents ask for: on record, bounded, and never granted by that.

use claviger_core::proposal::{self, WishText};

use super::*;

fn wish(alias: &str, key: &str, reason: &str) -> Request {
    Request::ProposeGrant {
        alias: alias.to_owned(),
        wish: WishText::Sign { key: key.to_owned() },
        reason: reason.to_owned(),
    }
}

#[tokio::test]
async fn a_proposal_is_on_record_and_grants_nothing() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    let ask = async |alias: &str, key: &str| {
        fixture
            .broker
            .perform(who, wish(alias, key, "why\n\u{202e}"))
            .await
    };
    assert_eq!(ask("more", "notes").await, Ok(Outcome::Proposed));
    assert_eq!(
        ask("more", "notes").await,
        Ok(Outcome::Proposed),
        "again is no news"
    );
    assert_eq!(
        ask("more", "release").await,
        Err(Refusal::Throttled),
        "another of this alias"
    );
    assert_eq!(
        ask("release", "notes").await,
        Err(Refusal::Invalid),
        "granted already"
    );
    assert_eq!(ask("More", "notes").await, Err(Refusal::Invalid));
    assert_eq!(ask("other", "no name").await, Err(Refusal::Invalid));
    assert_eq!(fixture.rules().await, [Rule::Proposal; 4]);
    assert_eq!(fixture.sign(who, "more", b"x").await, Err(Refusal::NotGranted));
    let ledger = fixture.broker.snapshot();
    let all: Vec<_> = ledger.proposals().collect();
    let [(agent, alias, proposal)] = all.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!((agent.as_str(), alias.as_str()), ("bot", "more"));
    assert_eq!(proposal.reason, "why\\u{a}\\u{202e}");

    // What an operator grants, or puts aside, waits no more.
    let dismissed = fixture.broker.dismiss_proposal(&name("bot"), &name("more")).await;
    assert!(dismissed.unwrap());
    assert!(
        !fixture
            .broker
            .dismiss_proposal(&name("bot"), &name("more"))
            .await
            .unwrap()
    );
    assert_eq!(ask("more", "notes").await, Ok(Outcome::Proposed));
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.broker.snapshot().proposals().count(), 1);
    fixture.start("[grants.more]\nsign = { key = \"notes\" }\n").await;
    assert_eq!(fixture.broker.snapshot().proposals().count(), 0);
}

#[tokio::test]
async fn proposals_of_an_agent_are_bounded_also_from_many_instances_at_once() {
    let fixture = Arc::new(Fixture::new().await);
    let mut asking = Vec::new();
    for n in 0..2 * proposal::MAX_PENDING {
        let who = fixture.start(RELEASE).await;
        let fixture = Arc::clone(&fixture);
        asking.push(tokio::spawn(async move {
            fixture
                .broker
                .perform(who, wish(&format!("more-{n}"), "notes", ""))
                .await
        }));
    }
    let mut proposed = 0;
    for one in asking {
        match one.await.unwrap() {
            Ok(_) => proposed += 1,
            Err(refusal) => assert_eq!(refusal, Refusal::Throttled),
        }
    }
    assert_eq!(proposed, proposal::MAX_PENDING);
    assert_eq!(
        fixture.broker.snapshot().proposals().count(),
        proposal::MAX_PENDING
    );
}
