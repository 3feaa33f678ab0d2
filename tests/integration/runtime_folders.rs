//! What an agent with a folder can take of the host: open files, listings, buffered writes. Not what the folder lets it see: that is
//! `runtime_world`.

use claviger::{Answer, InstanceEnd, RunInput, RunReport, StopLimit};
use kit::{Bench, GRANT, Guest, guest, manifest};

/// Runs commands of an agent that may write to `/out`, which is this folder.
async fn obey(folder: &std::path::Path, commands: &str) -> RunReport {
    let bench = Bench::new();
    let manifest = manifest(&format!(
        "[files]\n\"/out\" = {{ host = \".\", access = \"read-write\" }}\n{GRANT}"
    ));
    let agent = bench
        .host
        .load(&manifest, folder, guest(Guest::Agent))
        .await
        .unwrap();
    let report = agent.run(RunInput::text(commands)).await.unwrap();
    assert_eq!(
        bench.broker.ends().as_slice(),
        std::slice::from_ref(&report.end),
        "the broker knows"
    );
    report
}

const STOPPED: InstanceEnd = InstanceEnd::Stopped {
    limit: StopLimit::Handles,
};

#[tokio::test]
async fn a_folder_is_listed_whole_however_large() {
    let root = tempfile::tempdir().unwrap();
    // Many batches of a listing, and one that is not full.
    let report = obey(root.path(), "make-files /out 1000\ncount /out").await;
    assert_eq!(report.answer, Answer::Done("made 1000\ncounted 1000".to_owned()));
    assert_eq!(
        std::fs::read_dir(root.path()).unwrap().count(),
        1000,
        "the host sees as many"
    );
}

#[tokio::test]
async fn listings_tell_folders_and_links_from_files() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("folder")).unwrap();
    std::fs::write(root.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("file", root.path().join("link")).unwrap();
    let report = obey(root.path(), "kinds /out").await;
    assert_eq!(
        report.answer,
        Answer::Done("file:file,folder:folder,link:link".to_owned())
    );
}

#[tokio::test]
async fn a_name_that_is_not_text_is_an_error_and_the_listing_goes_on() {
    use std::os::unix::ffi::OsStrExt as _;
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    let report = obey(root.path(), "count /out").await;
    let Answer::Done(answer) = report.answer else {
        panic!("{:?}", report.end)
    };
    assert!(answer.starts_with("error "), "{answer}");
}

#[tokio::test]
async fn a_file_is_not_listed() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("file"), "").unwrap();
    let report = obey(root.path(), "count /out/file").await;
    assert_eq!(report.answer, Answer::Done("error NotADirectory".to_owned()));
}

#[tokio::test]
async fn more_open_files_than_allowed_are_stopped() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("file"), "").unwrap();
    let report = obey(root.path(), "hold-files /out/file 64\nhold-files /out/file 64").await;
    assert_eq!(
        report.answer,
        Answer::Done("held 64\nheld 64".to_owned()),
        "closed ones do not count"
    );
    let report = obey(root.path(), "hold-files /out/file 65").await;
    assert_eq!(report.end, STOPPED);
}

#[tokio::test]
async fn streams_keep_their_files_open_and_count_like_them() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("file"), "").unwrap();
    let report = obey(root.path(), "hold-file-streams file 65 1").await;
    assert_eq!(report.end, STOPPED);
    let report = obey(
        root.path(),
        "hold-file-streams file 22 2\nhold-files /out/file 64",
    )
    .await;
    assert_eq!(
        report.answer,
        Answer::Done("held 44\nheld 64".to_owned()),
        "closed ones do not count"
    );
    // All streams of a file share its one descriptor of the host.
    let report = obey(
        root.path(),
        "hold-file-streams file 64 3\nhold-file-streams file 64 3",
    )
    .await;
    assert_eq!(report.answer, Answer::Done("held 192\nheld 192".to_owned()));
    let report = obey(root.path(), "hold-file-streams file 65 3").await;
    assert_eq!(report.end, STOPPED);
}

#[tokio::test]
async fn more_listings_than_allowed_are_stopped() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("file"), "").unwrap();
    // Each takes a folder and a listing.
    let report = obey(root.path(), "hold-listings /out 32\nhold-listings /out 32").await;
    assert_eq!(
        report.answer,
        Answer::Done("held 32\nheld 32".to_owned()),
        "closed ones do not count"
    );
    let report = obey(root.path(), "hold-listings /out 33").await;
    assert_eq!(report.end, STOPPED);
}

#[tokio::test]
async fn a_write_is_no_larger_than_the_stream_allows() {
    let bench = Bench::new();
    let report = bench.script(GRANT, "write-at-once 65536").await;
    assert_eq!(report.answer, Answer::Done("wrote true".to_owned()));
    let report = bench.script(GRANT, "write-at-once 65537").await;
    let InstanceEnd::Trapped { trap } = report.end else {
        panic!("{report:?}")
    };
    assert!(trap.contains("check-write"), "{trap}");
    assert_eq!(report.stdout, b"");
}
