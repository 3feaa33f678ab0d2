//! The lives of keys and secrets on the command line: what is shown, what is refused and what to type, in words and as JSON.

use std::process::Stdio;

use crate::cli_scene::{Said, Scene, finish};

/// Gives a value to a command that reads one.
fn given(scene: &Scene, value: &str, arguments: &[&str]) -> Said {
    // A file: what a shell would pipe.
    scene.write("value", value);
    let file = std::fs::File::open(scene.path("value")).unwrap();
    let mut command = scene.opening(arguments);
    command.stdin(Stdio::from(file));
    finish(command)
}

trait Shows {
    /// Its data contains all of this.
    fn shows(self, parts: &[&str]) -> Self;
}

impl Shows for Said {
    #[track_caller]
    fn shows(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "it does not show {part:?}: {self}");
        }
        self
    }
}

/// Version and state of each version of a key, in a line.
fn keys(scene: &Scene, name: &str) -> String {
    let listed = scene.run(&["key", "list", "--json"]).expect(0).lines();
    let of = listed.iter().filter(|key| key["name"] == name);
    of.map(|key| format!("v{} {}", key["version"], key["state"].as_str().unwrap()))
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn a_key_is_rotated_staged_and_listed_with_who_uses_it() {
    let scene = Scene::new();
    scene.script("sign release 1").expect(0);
    scene.open(&["key", "rotate", "release"]).expect(0);
    assert_eq!(keys(&scene, "release"), "v1 retiring, v2 active");
    // Asked again for the same, it is done already.
    scene
        .open(&["key", "rotate", "release", "--of", "release@v1"])
        .expect(0)
        .shows(&["release@v2"]);
    assert_eq!(keys(&scene, "release"), "v1 retiring, v2 active");
    scene
        .open(&["key", "rotate", "release", "--of", "notes@v1"])
        .expect(2)
        .says(&["--of notes@v1"]);
    scene.script("sign release 2").expect(0);

    let listed = scene.run(&["key", "list", "--json"]).expect(0).lines();
    let old = listed
        .iter()
        .find(|key| key["name"] == "release" && key["version"] == 1)
        .unwrap();
    assert_eq!(old["uses"], 1);
    assert_eq!(old["used_by"]["bot"][0], "release");
    assert!(old["last_use"].is_string() && old["until"].is_string(), "{old}");
    scene.run(&["key", "list"]).expect(0).shows(&[
        "NEXT ROTATION",
        "LAST USE",
        "USED BY",
        "bot/release",
        "retiring",
        "no plan",
    ]);

    scene.open(&["key", "rotate", "notes", "--stage"]).expect(0);
    scene
        .open(&["key", "rotate", "notes"])
        .expect(1)
        .says(&["notes@v2", "promote it or cancel it"]);
    scene.open(&["key", "promote", "notes"]).expect(0);
    assert_eq!(keys(&scene, "notes"), "v1 retiring, v2 active");
    scene
        .open(&["key", "cancel", "notes"])
        .expect(1)
        .says(&["no pending version"]);
}

#[test]
fn one_version_is_disabled_and_revoked_with_a_reason_and_a_wrong_version_is_misuse() {
    let scene = Scene::new();
    scene.open(&["key", "rotate", "notes"]).expect(0);
    scene
        .open(&["key", "disable", "notes@v1", "--reason", "looks odd"])
        .expect(0)
        .shows(&["disabled", "looks odd"]);
    scene.open(&["key", "enable", "notes@v1"]).expect(0);
    assert_eq!(keys(&scene, "notes"), "v1 retiring, v2 active");
    for _ in 0..2 {
        scene.open(&["key", "revoke", "notes@v1"]).expect(0);
    }
    assert_eq!(keys(&scene, "notes"), "v1 revoked, v2 active");
    scene
        .open(&["key", "enable", "notes@v1"])
        .expect(1)
        .says(&["revoked"]);
    scene
        .open(&["key", "revoke", "notes@v9"])
        .expect(1)
        .says(&["notes@v9"]);
    for bad in ["notes@1", "notes@v0", "notes@"] {
        scene.run(&["key", "revoke", bad]).expect(2).says(&["NAME@vN"]);
    }
    scene.run(&["audit", "tail"]).expect(0).shows(&[
        "notes@v1 is disabled from now on: looks odd",
        "notes@v1 is revoked from now on",
    ]);
}

#[test]
fn what_is_due_is_said_rotated_and_then_no_longer_due() {
    let scene = Scene::new();
    scene
        .open(&["key", "plan", "release", "--rotate-uses", "1", "--overlap", "0s"])
        .expect(0)
        .shows(&["after 1 uses"]);
    scene.run(&["rotate"]).expect(2).says(&["--due"]);
    scene
        .open(&["rotate", "--due"])
        .expect(0)
        .says(&["no key is due"]);
    scene.script("sign release 1").expect(0);
    scene.run(&["status"]).expect(0).shows(&[
        "due",
        "key release@v1",
        "used 1 times",
        "claviger key rotate release",
    ]);
    scene
        .run(&["rotate", "--due", "--dry-run"])
        .expect(0)
        .shows(&["release@v1 was used 1 times of 1"]);
    assert_eq!(keys(&scene, "release"), "v1 active", "a dry run changes nothing");
    let done = scene.open(&["rotate", "--due", "--json"]).expect(0).lines();
    assert_eq!(done[0]["new"]["version"], 2);
    assert_eq!(keys(&scene, "release"), "v1 retired, v2 active");
    let status = scene.run(&["status", "--json"]).expect(0).lines();
    let due = status[0]["matters"].as_array().unwrap();
    assert!(!due.iter().any(|matter| matter["concern"] == "due"), "{due:?}");
}

#[test]
fn a_compromise_says_what_the_key_did() {
    let scene = Scene::new();
    scene.script("sign release 1\nsign release 2").expect(0);
    let said = scene
        .open(&["key", "compromise", "release", "--reason", "lost", "--json"])
        .expect(0)
        .lines();
    let version = &said[0]["revoked"][0];
    assert_eq!(version["version"], "release@v1");
    assert_eq!(
        (&version["uses"], &version["reason"]),
        (&2.into(), &"lost".into())
    );
    assert_eq!(version["by"][0]["agent"], "bot");
    assert_eq!(version["by"][0]["uses"], 2);
    assert_eq!(said[0]["replaced_by"], "release@v2");
    assert_eq!(keys(&scene, "release"), "v1 revoked, v2 active");
    scene.script("sign release 3").expect(0);
    scene.open(&["key", "compromise", "release"]).expect(0).shows(&[
        "release@v2 is revoked; it was used 1 times",
        "bot/release",
        "release@v3 takes its place",
    ]);
}

#[test]
fn a_compromised_secret_is_revoked_before_its_new_value_is_read() {
    let scene = Scene::new();
    let add = [
        "secret",
        "add",
        "api",
        "--kind",
        "bearer",
        "--origin",
        "https://api.test",
    ];
    given(&scene, "canary-value-one", &add).expect(0);
    let state = |scene: &Scene| {
        let listed = scene.run(&["secret", "list", "--json"]).expect(0).lines();
        let each = listed.iter().filter(|secret| secret["name"] == "api");
        each.map(|secret| format!("v{} {}", secret["version"], secret["state"].as_str().unwrap()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let absent = scene.path("absent");
    let absent = absent.to_str().unwrap();
    scene
        .open(&["secret", "compromise", "api", "--file", absent])
        .expect(1)
        .says(&["secret `api` is revoked", "claviger secret replace api"]);
    assert_eq!(state(&scene), "v1 revoked");
    scene.run(&["status"]).expect(0).shows(&[
        "stuck",
        "secret api@v1",
        "nothing has taken its place",
        "claviger secret replace api",
    ]);
    scene.write("new", "canary-value-two");
    let new = scene.path("new");
    let new = new.to_str().unwrap();
    scene
        .open(&["secret", "compromise", "api@v1", "--file", new])
        .expect(0)
        .shows(&["api@v1 is revoked; it was used 0 times", "api@v2 takes its place"]);
    // Done already: nothing more is replaced.
    let again = scene
        .open(&["secret", "compromise", "api@v1", "--file", new, "--json"])
        .expect(0);
    assert!(again.err.contains("the new value was not taken"), "{again}");
    assert_eq!(again.lines()[0]["replaced_by"], serde_json::Value::Null);
    assert_eq!(state(&scene), "v1 revoked, v2 active");
    let said = scene
        .open(&["secret", "compromise", "api", "--json"])
        .expect(0)
        .lines();
    assert_eq!(said[0]["revoked"][1]["version"], "api@v2");
    assert_eq!(said[0]["next"], "claviger secret replace api");
    scene
        .open(&["secret", "compromise", "api@v9"])
        .expect(1)
        .says(&["there is no secret `api@v9`"]);
}

#[test]
fn a_public_half_is_read_whatever_became_of_its_version() {
    let scene = Scene::new();
    let public = |version: &str, format: &str| {
        let said = scene
            .run(&["key", "public", version, "--format", format])
            .expect(0);
        said.out.trim().to_owned()
    };
    let first = public("release", "openssh");
    scene
        .open(&["key", "rotate", "release", "--overlap", "0s"])
        .expect(0);
    scene
        .open(&["key", "rotate", "release", "--overlap", "1d"])
        .expect(0);
    assert_eq!(keys(&scene, "release"), "v1 retired, v2 retiring, v3 active");
    assert_eq!(public("release@v1", "openssh"), first);
    let each: std::collections::BTreeSet<_> = ["release@v1", "release@v2", "release@v3"]
        .map(|version| public(version, "pem"))
        .into();
    assert_eq!(each.len(), 3, "the control: each has its own");
    assert_eq!(public("release", "pem"), public("release@v3", "pem"));
    // Of one version: its line, and its times.
    let line = scene
        .run(&[
            "key",
            "public",
            "release@v1",
            "--format",
            "allowed-signers",
            "--principal",
            "bot",
        ])
        .expect(0);
    let half = first.split(' ').nth(1).unwrap();
    assert!(
        line.out.contains(half) && line.out.contains("valid-before"),
        "{line}"
    );
    assert_eq!(line.out.trim().lines().count(), 1);
    scene.open(&["key", "revoke", "release@v2"]).expect(0);
    public("release@v2", "jwk");
    scene
        .run(&["key", "show", "release@v2"])
        .expect(0)
        .shows(&["release@v2", "revoked"]);
    for command in ["show", "public"] {
        scene.run(&["key", command, "release@v9"]).expect(1).says(&[
            "there is no key `release@v9`",
            "it has v1 (retired), v2 (revoked), v3 (active)",
        ]);
        scene
            .run(&["key", command, "relaese@v1"])
            .expect(1)
            .says(&["did you mean `release`?"]);
        scene
            .run(&["key", command, "release@1"])
            .expect(2)
            .says(&["NAME@vN"]);
    }
}

#[test]
fn a_key_and_a_secret_are_made_with_their_plans() {
    let scene = Scene::new();
    let plan = [
        "--rotate-every",
        "90d",
        "--rotate-uses",
        "1000",
        "--overlap",
        "1d",
        "--purge-lock",
    ];
    let create = [
        "key",
        "create",
        "planned",
        "--profile",
        "labeled",
        "--label",
        "x",
        "--json",
    ];
    let made = scene.open(&[&create[..], &plan].concat()).expect(0).lines();
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["rotate_every_seconds"], 90 * 86_400);
    assert_eq!(
        (&made[0]["rotate_uses"], &made[0]["purge_lock"]),
        (&1000.into(), &true.into())
    );
    let add = [
        "secret",
        "add",
        "api",
        "--kind",
        "bearer",
        "--origin",
        "https://api.test",
        "--json",
    ];
    let plan = ["--rotate-every", "90d", "--overlap", "1d", "--purge-lock"];
    let made = given(&scene, "canary-value-one", &[&add[..], &plan].concat())
        .expect(0)
        .lines();
    assert_eq!(made[0]["overlap_seconds"], 86_400);
    assert_eq!(
        (&made[0]["rotate_every_seconds"], &made[0]["purge_lock"]),
        (&(90 * 86_400).into(), &true.into())
    );
    scene
        .run(&["secret", "show", "api@v1"])
        .expect(0)
        .shows(&["every 90 d"]);
    scene
        .run(&["secret", "show", "api@v2"])
        .expect(1)
        .says(&["there is no secret `api@v2`", "it has v1 (active)"]);
}

#[test]
fn a_deleted_key_comes_back_and_is_purged_after_its_window_alone() {
    let scene = Scene::new();
    scene.open(&["key", "rm", "notes"]).expect(0).shows(&["deleted"]);
    scene
        .run(&["status"])
        .expect(0)
        .shows(&["deleted", "claviger key restore notes"]);
    scene
        .open(&["key", "create", "notes", "--profile", "labeled", "--label", "x"])
        .expect(1)
        .says(&["there is a key `notes` already"]);
    scene
        .open(&["key", "purge", "notes"])
        .expect(1)
        .says(&["can be restored until"]);
    scene.open(&["key", "restore", "notes"]).expect(0);
    assert_eq!(keys(&scene, "notes"), "v1 active");
    scene
        .open(&["key", "purge", "notes"])
        .expect(1)
        .says(&["is not deleted"]);
    scene.open(&["key", "plan", "notes", "--purge-lock"]).expect(0);
    scene
        .open(&["key", "rm", "notes", "--window", "1d"])
        .expect(1)
        .says(&["purge lock"]);
    scene.open(&["key", "rm", "token", "--window", "0s"]).expect(0);
    scene
        .open(&["key", "purge", "token"])
        .expect(0)
        .shows(&["destroyed"]);
    scene.open(&["key", "restore", "token"]).expect(1);
}

#[test]
fn a_secret_is_staged_promoted_and_deleted_and_no_value_is_shown() {
    let scene = Scene::new();
    let add = [
        "secret",
        "add",
        "api",
        "--kind",
        "bearer",
        "--origin",
        "https://api.test",
    ];
    let mut all = vec![given(&scene, "canary-value-one", &add).expect(0)];
    all.push(given(&scene, "canary-value-two", &["secret", "rotate", "api"]).expect(0));
    let second = given(
        &scene,
        "canary-value-three",
        &["secret", "replace", "api", "--stage"],
    );
    all.push(second.expect(1).says(&["api@v2", "pending"]));
    all.push(scene.open(&["secret", "promote", "api"]).expect(0));
    all.push(
        scene
            .run(&["secret", "list"])
            .expect(0)
            .shows(&["USED BY", "retired", "active"]),
    );
    all.push(
        scene
            .open(&["secret", "disable", "api@v2", "--reason", "odd"])
            .expect(0),
    );
    all.push(scene.open(&["secret", "enable", "api"]).expect(0));
    all.push(
        scene
            .open(&["secret", "rm", "api", "--window", "0s"])
            .expect(0)
            .shows(&["deleted"]),
    );
    all.push(
        scene
            .open(&["secret", "restore", "api"])
            .expect(0)
            .shows(&["active"]),
    );
    all.push(scene.open(&["secret", "rm", "api", "--window", "0s"]).expect(0));
    all.push(
        scene
            .open(&["secret", "purge", "api"])
            .expect(0)
            .shows(&["destroyed"]),
    );
    for said in all {
        assert!(
            !said.out.contains("canary") && !said.err.contains("canary"),
            "{said}"
        );
    }
}
