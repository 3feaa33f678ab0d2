//! Many askers: none starves another, none waits without end, nothing is left in the TPM.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tss_esapi::constants::CapabilityType;
use tss_esapi::structures::CapabilityData;

use super::*;
use crate::actor::{DEADLINE, LANE_BOUND, Lane};

/// Polls once, which queues the request.
fn queue<T>(future: &mut Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Keeps the device busy until the sender is dropped; returns once it is.
fn occupy(tpm: &Tpm) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (busy, is_busy) = mpsc::channel();
    tpm.actor.post(Lane::Host, move |_| {
        busy.send(()).unwrap();
        released.recv().unwrap_err();
    });
    is_busy.recv().unwrap();
    release
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_signers_with_five_keys_in_two_places_all_sign() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let mut keys = Vec::new();
        for name in ["a", "b", "c", "d", "e"] {
            keys.push(Arc::new(rig.key(name).await));
        }
        let mut tasks = Vec::new();
        for n in 0..64_u64 {
            let key = Arc::clone(&keys[usize::try_from(n % 5).unwrap()]);
            tasks.push(tokio::spawn(async move {
                key.sign(n % 8, &n.to_be_bytes()).await.unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_is_busy_and_another_is_served_next() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    let release = occupy(&rig.tpm);
    let mut flood: Vec<Pin<Box<dyn Future<Output = _> + Send + '_>>> = Vec::new();
    for _ in 0..LANE_BOUND {
        let mut one: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(key.sign(1, b"flood"));
        assert!(queue(&mut one).is_pending());
        flood.push(one);
    }
    let mut excess: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(key.sign(1, b"flood"));
    assert!(matches!(queue(&mut excess), Poll::Ready(Err(CustodyError::Busy))));
    let mut other: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(key.sign(2, b"quiet"));
    assert!(queue(&mut other).is_pending());
    drop(release);
    other.await.unwrap();
    for one in flood {
        one.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooder_delays_another_agent_by_one_request() {
    let rig = Rig::new();
    let release = occupy(&rig.tpm);
    let served = Arc::new(AtomicU64::new(0));
    let mut flood: Vec<Pin<Box<dyn Future<Output = _> + Send + '_>>> = Vec::new();
    for _ in 0..LANE_BOUND {
        let served = Arc::clone(&served);
        let mut one: Pin<Box<dyn Future<Output = _> + Send + '_>> =
            Box::pin(rig.tpm.actor.run(Lane::Agent(InstanceId(1)), move |_| {
                served.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }));
        assert!(queue(&mut one).is_pending());
        flood.push(one);
    }
    let before = Arc::clone(&served);
    let mut other: Pin<Box<dyn Future<Output = _> + Send + '_>> =
        Box::pin(rig.tpm.actor.run(Lane::Agent(InstanceId(2)), move |_| {
            Ok(before.load(Ordering::SeqCst))
        }));
    assert!(queue(&mut other).is_pending());
    drop(release);
    assert_eq!(other.await.unwrap(), 1, "requests of the flooder served before");
    for one in flood {
        one.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_asker_went_away_is_not_done() {
    let rig = Rig::new();
    let release = occupy(&rig.tpm);
    let done = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&done);
    let mut abandoned: Pin<Box<dyn Future<Output = Result<(), CustodyError>> + Send + '_>> =
        Box::pin(rig.tpm.actor.run(Lane::Agent(InstanceId(1)), move |_| {
            theirs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }));
    assert!(queue(&mut abandoned).is_pending());
    drop(abandoned);
    drop(release);
    rig.tpm.facts().await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_too_long_is_unavailable_and_not_done() {
    let Rig { tpm, folder } = Rig::new();
    drop(tpm);
    let choice = TpmChoice::Swtpm {
        state: folder.path().join("tpm"),
    };
    let deadline = Duration::from_millis(300);
    let tpm = Tpm::start(choice, SessionKind::Password, None, deadline).unwrap();
    let release = occupy(&tpm);
    let done = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&done);
    let started = Instant::now();
    let late = tpm.actor.run(Lane::Host, move |_| {
        theirs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let late = late.await;
    assert!(matches!(late, Err(CustodyError::Unavailable(_))), "{late:?}");
    assert!(started.elapsed() < DEADLINE);
    drop(release);
    // The child was taken for hung and killed meanwhile; either way it answers again, once a new one has started, which may take longer than
    // this deadline on a busy machine.
    let mut answers = tpm.facts().await;
    for _ in 0..100 {
        match answers {
            Err(CustodyError::Unavailable(_)) => answers = tpm.facts().await,
            Ok(_) | Err(_) => break,
        }
    }
    answers.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 0);
    drop(tpm);
    drop(folder);
}

fn handles(tpm: &Tpm, first: u32) -> impl Future<Output = usize> + '_ {
    let listed = tpm.actor.run(Lane::Host, move |device| {
        device.run("list handles", |link| {
            let (data, _) = link
                .context()
                .execute_without_session(|c| c.get_capability(CapabilityType::Handles, first, 64))?;
            let CapabilityData::Handles(list) = data else {
                panic!("asked for handles");
            };
            Ok(list.into_inner().len())
        })
    });
    async { listed.await.unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_in_the_tpm_after_two_hundred_operations() {
    const TRANSIENT: u32 = 0x8000_0000;
    const LOADED_SESSIONS: u32 = 0x0200_0000;
    for (session, rounds, sessions) in [
        (SessionKind::Password, 50, 0),
        (SessionKind::SaltedEncrypted, 10, 1),
    ] {
        let rig = Rig::with(session);
        for round in 0..rounds {
            let key = rig.key("release").await;
            key.sign(1, b"content").await.unwrap();
            let mut bytes = *b"secret";
            let secret = Secret::take(&mut bytes).unwrap();
            let sealed = rig.tpm.sealer().seal("root", &secret).await.unwrap();
            let purpose = if round % 2 == 0 { "root" } else { "wrong" };
            let opened = rig.tpm.sealer().unseal(purpose, &sealed).await;
            assert_eq!(opened.is_ok(), round % 2 == 0);
        }
        assert_eq!(handles(&rig.tpm, TRANSIENT).await, 0, "objects, {session:?}");
        assert_eq!(
            handles(&rig.tpm, LOADED_SESSIONS).await,
            sessions,
            "sessions, {session:?}"
        );
        let key = rig.key("release").await;
        assert_eq!(
            handles(&rig.tpm, TRANSIENT).await,
            1,
            "the control: an open key is loaded"
        );
        drop(key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_thread_dies_those_who_wait_are_told_and_the_child_is_gone() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    let pid = rig.tpm.swtpm_pid().unwrap();
    let release = occupy(&rig.tpm);
    rig.tpm
        .actor
        .post(Lane::Host, |_| panic!("a defect, for this test"));
    let mut waiting: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(key.sign(1, b"content"));
    assert!(queue(&mut waiting).is_pending());
    let mut second: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(key.sign(1, b"content"));
    assert!(queue(&mut second).is_pending());
    drop(release);
    // The lanes take turns, so one of them may have been served first.
    waiting.await.ok();
    let told = second.await;
    assert!(matches!(told, Err(CustodyError::Unavailable(_))), "{told:?}");
    let later = key.sign(1, b"content").await;
    assert!(matches!(later, Err(CustodyError::Unavailable(_))), "{later:?}");
    drop(key);
    let Rig { tpm, folder } = rig;
    drop(tpm);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    drop(folder);
}
