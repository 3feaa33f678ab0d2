//! The closed subset of WASI: files as granted, no network, a coarse clock, nothing inherited.

use std::path::Path;

use claviger::{Answer, InstanceEnd, LoadError, OutputSink, RunInput};
use kit::{Bench, GRANT, Guest, guest, manifest};

async fn answer(rest: &str, folder: &Path, commands: &str) -> String {
    let bench = Bench::new();
    let manifest = manifest(&format!("{rest}\n{GRANT}"));
    let agent = bench
        .host
        .load(&manifest, folder, guest(Guest::Agent))
        .await
        .unwrap();
    let report = agent.run(RunInput::text(commands)).await.unwrap();
    match report.answer {
        Answer::Done(answer) => answer,
        other => panic!("{other:?} {:?}", report.end),
    }
}

#[tokio::test]
async fn nothing_of_the_host_is_inherited() {
    // Cargo sets many variables for this test; the agent sees none of them.
    assert!(std::env::vars().count() > 3);
    assert_eq!(answer("", Path::new("/"), "env\nargs").await, "\ntest");
}

#[tokio::test]
async fn files_are_there_as_granted_and_no_others() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["in", "out"] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
        std::fs::write(root.path().join(folder).join("note"), "text").unwrap();
    }
    std::fs::write(root.path().join("outside"), "secret").unwrap();
    std::os::unix::fs::symlink("../outside", root.path().join("in/link")).unwrap();
    let rest = "[files]\n\"/in\" = { host = \"in\", access = \"read\" }\n\"/out\" = { host = \"out\", access = \"read-write\" }\n";
    let script = "read /in/note\nwrite /in/note changed\nwrite /in/new x\nremove /in/note\nread /in/../outside\nread /in/link\n\
                  read /etc/hostname\nread /out/note\nwrite /out/new x\nremove /out/note\nlist /out\nlist /in";
    let answer = answer(rest, root.path(), script).await;
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(lines[0], "text");
    for (line, what) in lines[1..7]
        .iter()
        .zip(["overwrite", "create", "remove", "dots", "link", "absolute"])
    {
        assert!(line.starts_with("error "), "{what}: {line}");
    }
    assert_eq!(lines[7..], ["text", "written", "removed", "new", "link,note"]);
    assert_eq!(
        std::fs::read_to_string(root.path().join("in/note")).unwrap(),
        "text"
    );
}

#[tokio::test]
async fn a_folder_that_was_exchanged_after_loading_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("in")).unwrap();
    std::fs::write(root.path().join("in/note"), "granted").unwrap();
    std::fs::create_dir(root.path().join("private")).unwrap();
    std::fs::write(root.path().join("private/note"), "private").unwrap();
    let bench = Bench::new();
    let manifest = manifest(&format!(
        "[files]\n\"/in\" = {{ host = \"in\", access = \"read\" }}\n{GRANT}"
    ));
    let agent = bench
        .host
        .load(&manifest, root.path(), guest(Guest::Agent))
        .await
        .unwrap();
    std::fs::rename(root.path().join("in"), root.path().join("aside")).unwrap();
    std::os::unix::fs::symlink("private", root.path().join("in")).unwrap();
    let report = agent.run(RunInput::text("read /in/note")).await.unwrap();
    assert_eq!(report.answer, Answer::Done("granted".to_owned()));
}

#[tokio::test]
async fn a_missing_folder_is_an_error_when_loading() {
    let bench = Bench::new();
    let manifest = manifest(&format!(
        "[files]\n\"/in\" = {{ host = \"in\", access = \"read\" }}\n{GRANT}"
    ));
    let error = bench
        .host
        .load(&manifest, Path::new("/nonexistent"), guest(Guest::Agent))
        .await
        .unwrap_err();
    let LoadError::Folder { guest, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(guest, "/in");
    assert!(error.to_string().contains("/nonexistent/in"), "{error}");
}

#[tokio::test]
async fn there_is_no_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert!(
        std::net::TcpStream::connect(address).is_ok(),
        "the control: the host can"
    );
    let answer = answer(
        "",
        Path::new("/"),
        &format!("connect {address}\nresolve localhost:80"),
    )
    .await;
    for line in answer.lines() {
        assert!(line.starts_with("error "), "{line}");
    }
}

#[tokio::test]
async fn clocks_step_by_whole_milliseconds() {
    let answer = answer("", Path::new("/"), "clock").await;
    for step in answer.split(' ') {
        let step: u64 = step.parse().unwrap();
        assert!(step >= 1_000_000 && step.is_multiple_of(1_000_000), "{step} ns");
    }
}

#[tokio::test]
async fn output_is_handed_on_as_it_comes_and_kept() {
    let (sender, received) = std::sync::mpsc::channel();
    let bench = Bench::new();
    let agent = bench.load(GRANT, guest(Guest::Agent)).await.unwrap();
    let input = RunInput::text("print 5\nprint-error 3");
    let errors = sender.clone();
    let input = input
        .stdout(OutputSink::new(move |bytes| sender.send(bytes.to_vec()).unwrap()))
        .stderr(OutputSink::new(move |bytes| errors.send(bytes.to_vec()).unwrap()));
    let report = agent.run(input).await.unwrap();
    assert_eq!(
        (report.stdout.as_slice(), report.stderr.as_slice()),
        (&b"ooooo"[..], &b"eee"[..])
    );
    assert_eq!(received.try_iter().flatten().collect::<Vec<u8>>(), b"oooooeee");
}

#[tokio::test]
async fn an_agents_own_error_is_its_answer() {
    let report = Bench::new().script(GRANT, "fail I cannot").await;
    assert_eq!(report.answer, Answer::Failed("I cannot".to_owned()));
    assert_eq!(report.end, InstanceEnd::Failed);
}
