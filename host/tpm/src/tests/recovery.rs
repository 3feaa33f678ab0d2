//! A software TPM that dies, hangs or is emptied: each request ends, and later ones succeed.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_died_between_commands_is_started_again_unnoticed() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let key = rig.key("release").await;
        let mut bytes = [7; 32];
        let secret = Secret::take(&mut bytes).unwrap();
        let sealed = rig.tpm.sealer().seal("root", &secret).await.unwrap();
        for _ in 0..3 {
            let before = rig.tpm.swtpm_pid().unwrap();
            rig.tpm.kill_child();
            key.sign(1, b"content").await.unwrap();
            assert_ne!(rig.tpm.swtpm_pid().unwrap(), before);
            rig.tpm.kill_child();
            assert!(
                rig.tpm
                    .sealer()
                    .unseal("root", &sealed)
                    .await
                    .unwrap()
                    .equals(&[7; 32])
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_dies_in_the_middle_gives_a_signature_or_says_unavailable() {
    let rig = Rig::new();
    let key = Arc::new(rig.key("release").await);
    let over = Arc::new(AtomicBool::new(false));
    let killer = {
        let (tpm, over) = (rig.tpm.clone(), Arc::clone(&over));
        std::thread::spawn(move || {
            for kills in 0..20 {
                // Not to wait for anything: to hit a different moment each time.
                std::thread::sleep(Duration::from_micros(1_700 * (1 + kills * 7 % 23)));
                while tpm.swtpm_pid().is_none() {
                    std::thread::yield_now();
                }
                tpm.kill_child();
            }
            over.store(true, Ordering::Relaxed);
        })
    };
    let mut tasks = Vec::new();
    for who in 0..4 {
        let (key, over) = (Arc::clone(&key), Arc::clone(&over));
        tasks.push(tokio::spawn(async move {
            let (mut signed, mut n) = (0, 0_u64);
            while !over.load(Ordering::Relaxed) {
                n += 1;
                match key.sign(who, &n.to_be_bytes()).await {
                    Ok(_) => signed += 1,
                    Err(CustodyError::Unavailable(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            signed
        }));
    }
    let mut signed = 0;
    for task in tasks {
        signed += task.await.unwrap();
    }
    killer.join().unwrap();
    assert!(signed > 0, "the control: some of them are in time");
    key.sign(1, b"content").await.expect("it works again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_hangs_is_given_up_and_replaced() {
    let Rig { tpm, folder } = Rig::new();
    drop(tpm);
    let choice = TpmChoice::Swtpm {
        state: folder.path().join("tpm"),
    };
    let tpm = Tpm::start(choice, SessionKind::Password, None, Duration::from_secs(2)).unwrap();
    let rig = Rig { tpm, folder };
    let key = rig.key("release").await;
    let pid = rustix::process::Pid::from_raw(rig.tpm.swtpm_pid().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let result = key.sign(1, b"content").await;
    assert!(matches!(result, Err(CustodyError::Unavailable(_))), "{result:?}");
    key.sign(1, b"content").await.expect("it works again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_whose_state_was_replaced_is_not_ours_any_more() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    rig.tpm.kill_child();
    std::fs::remove_dir_all(rig.folder.path().join("tpm")).unwrap();
    let result = key.sign(1, b"content").await;
    assert!(matches!(result, Err(CustodyError::NotOurs(_))), "{result:?}");
    let again = key.sign(1, b"content").await;
    assert!(matches!(again, Err(CustodyError::NotOurs(_))), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_cannot_start_again_is_unavailable_and_not_a_hang() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    let state = rig.folder.path().join("tpm");
    let moved = rig.folder.path().join("moved");
    rig.tpm.kill_child();
    std::fs::rename(&state, &moved).unwrap();
    std::fs::write(&state, b"not a folder").unwrap();
    let result = key.sign(1, b"content").await;
    assert!(matches!(result, Err(CustodyError::Unavailable(_))), "{result:?}");
    std::fs::remove_file(&state).unwrap();
    std::fs::rename(&moved, &state).unwrap();
    key.sign(1, b"content").await.expect("it works again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_hangs_is_not_left_behind() {
    let rig = Rig::new();
    let id = rig.tpm.swtpm_pid().unwrap();
    let pid = rustix::process::Pid::from_raw(id.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let Rig { tpm, folder } = rig;
    drop(tpm);
    // Killed; the thread that is free now collects it.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while std::path::Path::new(&format!("/proc/{id}")).exists() {
        assert!(std::time::Instant::now() < until, "it still is there");
        tokio::task::yield_now().await;
    }
    drop(folder);
}
