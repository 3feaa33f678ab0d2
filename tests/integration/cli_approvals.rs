//! Approvals as an operator gives them: from another terminal, on the terminal of the run, too late, or not at all; and proposals.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use kit::{Guest, guest};

use crate::cli_scene::{GRANT, HEAD, Said, Scene, binary, wait};

fn wanting(approval: &str) -> Scene {
    let scene = Scene::new();
    let limits = "\n[limits]\ndeadline = \"10 min\"\n";
    scene.manifest("bot.toml", format!("{HEAD}{limits}{GRANT}{approval}\n"));
    scene
}

/// A run in which something waits, and what it waits for.
struct Waiting {
    child: Child,
    id: String,
}

fn start(scene: &Scene, script: &str) -> Waiting {
    let mut child = scene
        .opening(&["run", "bot.toml", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = read_until(child.stderr.as_mut().unwrap(), "` shows it");
    let (_, id) = said.trim_end_matches("` shows it").rsplit_once(' ').unwrap();
    let id = id.to_owned();
    Waiting { child, id }
}

impl Waiting {
    fn end(self) -> Said {
        wait(self.child, "the run".to_owned())
    }
}

/// Byte by byte: the rest is for whoever waits.
fn read_until(from: &mut impl std::io::Read, end: &str) -> String {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(end.as_bytes()) {
        let read = from.read(&mut byte).unwrap();
        assert_eq!(read, 1, "it ended before: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&byte);
    }
    String::from_utf8(said).unwrap()
}

fn approvals(scene: &Scene) -> Vec<String> {
    let events = scene.events();
    let ends = events.iter().filter(|event| event["event"] == "approval-ended");
    ends.map(|event| event["end"]["how"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_operator_sees_what_waits_and_approves_it_from_another_terminal() {
    let scene = wanting("approval = \"each\"");
    let run = start(&scene, "sign release v1.2.3\u{1b}[2J");
    let listed = scene.run(&["approvals"]).expect(0);
    for part in [run.id.as_str(), "bot", "release", "sign"] {
        assert!(listed.out.contains(part), "{part}: {listed}");
    }
    let shown = scene.run(&["approvals", &run.id]).expect(0);
    for part in [
        "sign with release@v1, sshsig, namespace `file`",
        "  | v1.2.3\\u{1b}[2J",
    ] {
        assert!(shown.out.contains(part), "{part}: {shown}");
    }
    let json = scene.run(&["approvals", "--json"]).expect(0).lines();
    assert_eq!(json[0]["id"], run.id.as_str());
    let id = run.id.clone();
    scene.run(&["approve", &id]).expect(0);
    let said = run.end().expect(0);
    assert!(said.out.starts_with("-----BEGIN SSH SIGNATURE-----"), "{said}");
    assert_eq!(
        (approvals(&scene), scene.uses()),
        (vec!["approved".to_owned()], 1)
    );
    let events = scene.events();
    let allowed = events.iter().find(|event| event["event"] == "allowed").unwrap();
    assert_eq!(allowed["approval"], id.as_str());
    let text = format!("{events:?}");
    assert!(!text.contains("v1.2.3"), "no content on the log");
    scene.run(&["audit", "verify"]).expect(0);
    // Without a host nothing waits.
    scene
        .run(&["approve", &id])
        .expect(1)
        .says(&["no running host has this keyring open"]);
}

#[test]
fn a_run_that_failed_for_want_of_an_approval_says_so_by_its_exit_code() {
    let scene = wanting("approval = \"each\"");
    let run = start(&scene, "sign release x\nfail no signature");
    scene.run(&["deny", &run.id, "--reason", "not today"]).expect(0);
    let id = run.id.clone();
    scene.run(&["approve", &id]).expect(1);
    run.end()
        .expect(4)
        .says(&["1 use was not approved", "no signature"]);
    let events = scene.events();
    let ended = events
        .iter()
        .find(|event| event["event"] == "approval-ended")
        .unwrap();
    assert_eq!(ended["end"]["reason"], "not today");
    assert_eq!(ended["end"]["by"]["uid"], rustix::process::getuid().as_raw());
    assert_eq!(scene.uses(), 0);
    // The controls: an agent that copes does well, and one that fails by itself fails by itself.
    let run = start(&scene, "sign release x");
    scene.run(&["deny", &run.id]).expect(0);
    assert_eq!(run.end().expect(0).out, "refused NotApproved\n");
    scene.script("fail on its own").expect(1);
}

#[test]
fn no_operator_means_no() {
    let scene = wanting("approval = \"each\"\napproval-timeout = \"1 s\"");
    let said = scene.script("sign release x").expect(0);
    assert_eq!(said.out, "refused NotApproved\n");
    assert_eq!((approvals(&scene), scene.uses()), (vec!["expired".to_owned()], 0));
}

#[test]
fn a_first_use_is_asked_about_once_also_over_runs_until_the_manifest_changes() {
    let scene = wanting("approval = \"first-use\"");
    let run = start(&scene, "sign release 1\nsign release 2");
    scene.run(&["approve", &run.id]).expect(0);
    run.end().expect(0);
    scene.script("sign release 3").expect(0);
    assert_eq!((approvals(&scene).len(), scene.uses()), (1, 3));
    let text = String::from_utf8(scene.read("bot.toml")).unwrap();
    scene.manifest("bot.toml", format!("{text}# another revision\n"));
    let run = start(&scene, "sign release 4");
    scene.run(&["deny", &run.id]).expect(0);
    assert_eq!(run.end().expect(0).out, "refused NotApproved\n");
    assert_eq!(scene.uses(), 3);
}

#[test]
fn a_stopped_run_withdraws_what_it_asked() {
    let scene = wanting("approval = \"each\"");
    let run = start(&scene, "sign release x");
    let killed = Command::new("kill")
        .args(["-TERM", &run.child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    run.end().expect(143);
    assert_eq!(
        (approvals(&scene), scene.uses()),
        (vec!["withdrawn".to_owned()], 0)
    );
}

#[test]
fn a_terminal_is_asked_only_if_there_is_one_and_yes_is_the_one_word_for_it() {
    let scene = wanting("approval = \"each\"");
    scene
        .open(&["run", "bot.toml", "--ask", "sign release x"])
        .expect(2)
        .says(&["stdin or stderr is none", "claviger approve"]);
    scene.open(&["run", "bot.toml", "--ask", "--stdin"]).expect(2);
    for (typed, answer) in [("yes\n", "-----BEGIN SSH"), ("y\n", "refused NotApproved")] {
        let line = format!(
            "{} --passphrase-file passphrase run bot.toml --ask 'sign release v1.2.3'",
            binary().display()
        );
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]);
        scene.prepare(&mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let asked = read_until(child.stdout.as_mut().unwrap(), "anything else to deny: ");
        assert!(asked.contains("  | v1.2.3"), "{asked}");
        child.stdin.as_mut().unwrap().write_all(typed.as_bytes()).unwrap();
        let said = wait(child, "script".to_owned()).expect(0);
        assert!(said.out.contains(answer), "{typed:?}: {said}");
    }
    let events = scene.events();
    let ended: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "approval-ended")
        .map(|event| (event["end"]["how"].clone(), event["end"]["by"]["who"].clone()))
        .collect();
    assert_eq!(
        ended,
        [
            ("approved".into(), "terminal".into()),
            ("denied".into(), "terminal".into())
        ]
    );
}

#[test]
fn what_an_agent_asks_for_is_shown_as_lines_for_its_manifest_and_grants_nothing() {
    let scene = Scene::new();
    let wishes = "wish-key more notes\nwish-routes api https://api.test;GET /repos/*;POST /repos/a\n\
                  wish-key release notes\nwish-routes bad https://api.test;GET /\"x\nsign more x";
    let said = scene.script(wishes).expect(0);
    assert_eq!(
        said.out,
        "proposed\nproposed\nrefused Invalid\nrefused Invalid\nrefused NotGranted\n"
    );
    let shown = scene.run(&["grant", "proposals"]).expect(0);
    for part in [
        "# agent `bot`",
        "because: to get the work done\\u{a}\\u{1b}[2J",
        "[grants.more]\nsign = { key = \"notes\" }",
        "[grants.api]\nhttp = { origin = \"https://api.test\", allow = [\"GET /repos/*\", \"POST /repos/a\"] }",
    ] {
        assert!(shown.out.contains(part), "{part}: {shown}");
    }
    assert_eq!(
        scene
            .run(&["grant", "proposals", "--json"])
            .expect(0)
            .lines()
            .len(),
        2
    );
    // As it is printed, it is a part of a manifest; what is granted then waits no more, and the rest can be put aside.
    let more = shown.out.get(shown.out.find("[grants.more]").unwrap()..).unwrap();
    let more = more.lines().take(2).collect::<Vec<_>>().join("\n");
    scene.manifest("bot.toml", format!("{HEAD}{GRANT}{more}\n"));
    scene.script("sign more x").expect(0);
    scene.open(&["grant", "dismiss", "bot", "api"]).expect(0);
    scene
        .open(&["grant", "dismiss", "bot", "api"])
        .expect(1)
        .says(&["has no proposal `api`"]);
    assert_eq!(scene.run(&["grant", "proposals"]).expect(0).out, "");
}

#[test]
fn an_operator_reads_what_would_be_sealed_and_never_what_is_in_a_box() {
    let scene = Scene::new();
    for key in [
        &["key", "create", "state", "--profile", "seal"][..],
        &[
            "key",
            "create",
            "ticket",
            "--profile",
            "mac",
            "--label",
            "acme/ticket",
        ],
    ] {
        scene.open(key).expect(0);
    }
    scene.write("agent.wasm", guest(Guest::Symmetric));
    let grants = "\n[limits]\ndeadline = \"10 min\"\n\
                  [grants.box]\nseal = { key = \"state\", allow = [\"seal\", \"unseal\"] }\napproval = \"each\"\n\
                  [grants.ticket]\nmac = { key = \"ticket\", allow = [\"verify\"] }\napproval = \"first-use\"\n";
    scene.manifest("bot.toml", format!("{HEAD}{grants}"));
    let answered = |script: &str, parts: &[&str], answer: &str| {
        let run = start(&scene, script);
        let shown = scene.run(&["approvals", &run.id]).expect(0);
        for part in parts {
            assert!(shown.out.contains(part), "{part}: {shown}");
        }
        assert!(!shown.out.contains('\u{1b}'), "{shown}");
        scene.run(&[answer, &run.id]).expect(0);
        (run.end().expect(0).out, shown.out)
    };
    let what = ["seal with state@v1", "  > of-alice", "  | wxyz\\u{1b}[2J"];
    let (sealed, _) = answered("seal box of-alice wxyz\u{1b}[2J", &what, "approve");
    let what = [
        "unseal with state@v1, which the box names",
        "  > of-alice",
        "what is in it is not known",
    ];
    let unseal = format!("unseal box of-alice {sealed}");
    let (opened, shown) = answered(unseal.trim(), &what, "deny");
    assert_eq!(opened, "refused NotApproved\n");
    assert!(!shown.contains("wxyz"), "{shown}");
    let (opened, _) = answered(unseal.trim(), &what, "approve");
    assert!(opened.starts_with("wxyz"), "{opened}");
    let tag = "a1".repeat(37);
    let what = [
        "the first and every later comparison",
        "label `acme/ticket`",
        "  | alice",
    ];
    let (said, _) = answered(&format!("verify ticket {tag} alice"), &what, "deny");
    assert_eq!(said, "refused NotApproved\n");
    assert_eq!(scene.uses(), 2);
    let text = format!("{:?}", scene.events());
    assert!(
        !text.contains("wxyz") && !text.contains("of-alice"),
        "no content on the log"
    );
}

#[test]
fn check_and_explain_say_that_a_use_waits() {
    let scene = wanting("approval = \"each\"\napproval-timeout = \"2 min\"");
    let said = scene.open(&["check", "bot.toml"]).expect(0);
    assert!(
        said.out.contains("each use waits up to 2 min for an approval"),
        "{said}"
    );
    let said = scene.run(&["explain", "bot.toml", "release"]).expect(0);
    assert!(
        said.out.contains("waits up to 2 min for an operator's approval"),
        "{said}"
    );
}
