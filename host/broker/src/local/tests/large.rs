//! Large content is hashed where it keeps nobody waiting; small content where it came.

use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use super::*;

pub(super) const LARGE: usize = 3 * 1024 * 1024;
pub(super) const SMALL: usize = 1024;

pub(super) fn signing(who: InstanceId, size: usize) -> (InstanceId, Request) {
    let request = Request::Sign {
        grant: name("release"),
        content: vec![b'x'; size],
    };
    (who, request)
}

pub(super) fn poll_once<T>(future: &mut BoxFuture<'_, T>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn large_content_is_hashed_off_the_thread_that_asks_and_small_content_on_it() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let fixture = Fixture::new().await;
        let who = fixture.start(RELEASE).await;
        // The only thread for blocking work is busy until the test lets it go.
        let (let_go, go_on) = mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || go_on.recv().is_err());

        let (who, request) = signing(who, SMALL);
        let mut small = fixture.broker.perform(who, request);
        assert!(matches!(
            poll_once(&mut small),
            Poll::Ready(Ok(Outcome::Signed { .. }))
        ));

        let (who, request) = signing(who, LARGE);
        let mut large = fixture.broker.perform(who, request);
        assert!(poll_once(&mut large).is_pending());
        // Nothing is on the log for content that is still being hashed.
        assert_eq!(fixture.settlements().await, [Settlement::Released]);
        drop(let_go);
        assert!(matches!(large.await, Ok(Outcome::Signed { .. })));
        assert!(busy.await.unwrap());
        assert_eq!(fixture.settlements().await, [Settlement::Released; 2]);

        // One that is given up before it was hashed leaves no trace, and the budget is whole.
        let (let_go, go_on) = mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || go_on.recv().is_err());
        let (who, request) = signing(who, LARGE);
        let mut dropped = fixture.broker.perform(who, request);
        assert!(poll_once(&mut dropped).is_pending());
        drop(dropped);
        drop(let_go);
        assert!(busy.await.unwrap());
        assert_eq!(fixture.settlements().await, [Settlement::Released; 2]);
        let used = fixture
            .broker
            .snapshot()
            .grant(&name("bot"), &name("release"))
            .uses;
        assert_eq!(used, 2);
    });
}

#[test]
fn large_content_is_signed_without_a_runtime_and_gives_the_same_signature() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (fixture, who) = runtime.block_on(async {
        let fixture = Fixture::new().await;
        let who = fixture.start(RELEASE).await;
        (fixture, who)
    });
    let (_, request) = signing(who, LARGE);
    let Ok(Outcome::Signed { signature: with }) = runtime.block_on(fixture.broker.perform(who, request))
    else {
        panic!("refused");
    };
    let (_, request) = signing(who, LARGE);
    let mut without = fixture.broker.perform(who, request);
    let Poll::Ready(Ok(Outcome::Signed { signature })) = poll_once(&mut without) else {
        panic!("not signed at once");
    };
    assert_eq!(with, signature);
    let (_, request) = signing(who, 16 * 1024 * 1024 + 1);
    let refused = runtime.block_on(fixture.broker.perform(who, request));
    assert!(matches!(refused, Err(Refusal::Invalid)), "{refused:?}");
    assert_eq!(runtime.block_on(fixture.rules()), [Rule::ContentSize]);
}
