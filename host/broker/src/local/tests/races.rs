//! Two operators at once: whatever the order, a key has one version in use. Not what one of them may do: `rotation` and `lives` have that.

use claviger_core::KeyVersion;

use super::super::Rotation;
use super::*;
use crate::keyring::Start;

/// So many rounds: each is a race, and either may win.
const ROUNDS: u32 = 40;

fn in_use(fixture: &Fixture) -> Vec<KeyVersion> {
    let versions = fixture.broker.keyring().versions(&name("notes"));
    let active = versions.iter().filter(|record| record.state == KeyState::Active);
    active.map(|record| record.key.version).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_version_that_two_promote_or_one_gives_up_leaves_one_in_use() {
    let fixture = Fixture::new().await;
    let (mut promoted, mut given_up) = (0, 0);
    for round in 0..ROUNDS {
        let staged = Rotation {
            start: Start::Staged,
            ..Rotation::default()
        };
        fixture.broker.rotate_key(&name("notes"), staged).await.unwrap();
        let racing = |cancels: bool| {
            let broker = Arc::clone(&fixture.broker);
            tokio::spawn(async move {
                if cancels {
                    broker.cancel_key(&name("notes")).await
                } else {
                    broker.promote_key(&name("notes")).await
                }
            })
        };
        let (one, other) = (racing(false), racing(round % 2 == 0));
        let (one, other) = (one.await.unwrap(), other.await.unwrap());
        assert!(one.is_ok() || other.is_ok(), "round {round}: one of them wins");
        assert_eq!(in_use(&fixture).len(), 1, "round {round}");
        promoted += u32::from(one.is_ok());
        given_up += u32::from(round % 2 == 0 && other.is_ok());
    }
    assert!(
        promoted > 0,
        "the control: {promoted} promoted, {given_up} given up"
    );
}
